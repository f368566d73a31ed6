//! Messages from other threads and tasks to the main loop.

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::cli::Invocation;
use crate::config::ConfigErrors;
use crate::control::{self, ReplySender};
use crate::dispatch::{self, Notice};
use crate::edge::EdgeNotice;
use crate::file_watch::WatchNotice;
use crate::id::WorkerId;

/// A message to the main loop.
#[derive(Debug)]
pub(crate) enum MainMessage {
    Dispatch(Notice),
    Edge(EdgeNotice),
    /// A client of the control socket calls a method.
    Control(control::Call),
    /// A client of a listener for metrics asks for them, in the text format.
    Scrape(oneshot::Sender<String>),
    /// Metrics are not served at an address.
    MetricsFailed(MetricsFault),
    /// The configuration was read again for a reload.
    Reread(Box<RereadConfig>),
    /// Files have changed, or the watcher asks for sources.
    FileWatch(WatchNotice),
    /// The probe of this worker has ended. `Err` has the reason why it failed.
    ProbeFinished(WorkerId, Result<(), String>),
}

/// A configuration that was read again for a reload.
#[derive(Debug)]
pub(crate) struct RereadConfig {
    /// Number of the reload, in the order in which reloads were requested.
    pub(super) nr: u64,
    pub(super) read: Result<Invocation, ConfigErrors>,
    /// Replies to the client that requested the reload; `None` for SIGHUP.
    pub(super) client: Option<ReplySender>,
}

/// An address at which no metrics are served.
#[derive(Debug)]
pub(crate) struct MetricsFault {
    pub(super) address: String,
    /// The failure, and its remedy if that is known.
    pub(super) reason: String,
    /// The reason says what to do before a restart.
    pub(super) reason_has_remedy: bool,
}

/// Returns a sink that passes the dispatcher's notices to the main loop.
pub(crate) fn notice_sink(messages: &UnboundedSender<MainMessage>) -> dispatch::NoticeSink {
    let messages = messages.clone();
    // Fails only when the main loop has ended.
    Box::new(move |notice| drop(messages.send(MainMessage::Dispatch(notice))))
}

/// Returns a sink that passes the edge's notices to the main loop.
pub(super) fn edge_notice_sink(
    messages: &UnboundedSender<MainMessage>,
) -> impl Fn(EdgeNotice) + Clone + Send + Sync + 'static {
    let messages = messages.clone();
    // Fails only when the main loop has ended.
    move |notice| drop(messages.send(MainMessage::Edge(notice)))
}
