//! What other threads and tasks send to the main loop, and what it replies to `rgun reload`.

use tokio::sync::mpsc::UnboundedSender;

use crate::dispatch::{self, Notice};
use crate::edge::EdgeNotice;
use crate::id::WorkerId;

/// What other threads and tasks tell the main loop.
#[derive(Debug)]
pub(crate) enum MainMessage {
    Dispatch(Notice),
    Edge(EdgeNotice),
    /// `rgun reload`.
    Reload(ReplySender),
    /// What came of `reload.probe`.
    ProbeFinished(WorkerId, Result<(), String>),
}

/// What who gave an order is told.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Something happened on the way.
    Progress(String),
    /// It is done. The last word.
    Done(String),
    /// It is not done, and why. The last word.
    Failed(String),
}

/// Where the words of one order go. Nobody may listen any more: that changes nothing.
pub(crate) type ReplySender = UnboundedSender<Reply>;

/// How the dispatcher's notices reach the main loop.
pub(crate) fn notice_sink(tell: &UnboundedSender<MainMessage>) -> dispatch::NoticeSink {
    let tell = tell.clone();
    Box::new(move |notice| {
        // The receiver lives as long as the main loop.
        let _after_the_end = tell.send(MainMessage::Dispatch(notice));
    })
}
