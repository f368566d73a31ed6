//! The listeners at which the metrics are served: sockets from systemd, or the addresses of
//! `metrics.bind`.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error::StartupError;
use super::messages::{MainMessage, MetricsFault};
use super::operator_log::log_unless_terminal;
use super::system::{bind_error, warn_unused_metrics};
use crate::config::{Config, name};
use crate::error_chain::Chain;
use crate::journal::daemon_log::Destination;
use crate::metrics;
use crate::net::{BindError, Listener};
use crate::systemd::listen::InheritedListener;

/// Maximum time for the last responses when the daemon ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The messages to the main loop, and the listeners whose scrapes are such messages.
#[derive(Debug)]
pub(super) struct MainInput {
    pub(super) messages: UnboundedReceiver<MainMessage>,
    pub(super) metrics: MetricsListeners,
}

impl MainInput {
    /// Ends the listeners, and waits until the connections that they have accepted are closed: their
    /// scrapes are answered 503. Others wait in the sockets.
    pub(super) async fn end(&mut self) {
        self.messages.close();
        while self.messages.try_recv().is_ok() {}
        self.metrics.accepting.drain(..).for_each(|task| task.abort());
        drop(timeout(END_TIMEOUT, self.metrics.closed.recv()).await);
    }
}

/// The running listeners.
#[derive(Debug)]
pub(super) struct MetricsListeners {
    accepting: Vec<AbortHandle>,
    /// Ends when the last connection is closed.
    closed: mpsc::Receiver<Infallible>,
}

/// Serves the metrics at the sockets that systemd passed; if there are none, at the addresses of
/// `metrics.bind`. An address that cannot be bound does not keep the application from being served: it
/// is reported by [`MainMessage::MetricsFailed`]. Must be called in the context of the main runtime.
pub(super) fn listen(
    config: &Config,
    inherited: Vec<InheritedListener>,
    messages: &UnboundedSender<MainMessage>,
    destination: Destination,
) -> MetricsListeners {
    let addresses = &config.listen.metrics;
    let listeners: Vec<Listener> = if inherited.is_empty() {
        let bind = |address| {
            Listener::bind(address, None)
                .map_err(|error| {
                    let reason_has_remedy = matches!(error, BindError::InUse(_));
                    let StartupError { reason, .. } = bind_error(name::METRICS_BIND, &error);
                    let fault = MetricsFault { address: address.to_string(), reason, reason_has_remedy };
                    // Fails only when the main loop has ended.
                    drop(messages.send(MainMessage::MetricsFailed(fault)));
                })
                .ok()
        };
        addresses.iter().filter_map(bind).collect()
    } else {
        if !addresses.is_empty() {
            let ignored: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            warn_unused_metrics(&ignored.join(", "));
        }
        inherited.into_iter().map(Listener::inherited).collect()
    };
    let (open, closed) = mpsc::channel(1);
    let mut accepting = Vec::new();
    for listener in listeners {
        let address = listener.address();
        log_unless_terminal!(
            destination == Destination::Terminal,
            rgun.listener = %listener.name,
            "serving metrics on {address}, path {}",
            metrics::METRICS_PATH
        );
        let (messages, open) = (messages.clone(), open.clone());
        let task = tokio::spawn(async move {
            let scraped = messages.clone();
            if let Err(error) = metrics::serve(listener, move || scrape(scraped.clone()), open).await {
                let reason = format!("cannot accept connections: {}", Chain(&error));
                let fault = MetricsFault { address, reason, reason_has_remedy: false };
                // Fails only when the main loop has ended.
                drop(messages.send(MainMessage::MetricsFailed(fault)));
            }
        });
        accepting.push(task.abort_handle());
    }
    MetricsListeners { accepting, closed }
}

/// Asks the main loop for the text. `None` if the loop has ended.
async fn scrape(messages: UnboundedSender<MainMessage>) -> Option<String> {
    let (reply, text) = oneshot::channel();
    messages.send(MainMessage::Scrape(reply)).ok()?;
    text.await.ok()
}
