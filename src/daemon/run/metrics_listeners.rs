//! The listeners at which the metrics are served: sockets from systemd, or the addresses of
//! `metrics.bind`.

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Daemon;
use super::messages::MainMessage;
use super::operator_log::log_unless_terminal;
use super::system::bind_error;
use crate::config::{Config, name};
use crate::control::NO_METRICS;
use crate::error_chain::Chain;
use crate::journal::catalog::OperatorEvent;
use crate::journal::daemon_log::Destination;
use crate::metrics;
use crate::net::Listener;
use crate::supervise::Event;
use crate::systemd::listen::InheritedListener;

/// Serves the metrics at the sockets that systemd passed; if there are none, at the addresses of
/// `metrics.bind`. An address that cannot be bound does not keep the application from being served: it
/// is reported by [`MainMessage::MetricsFailed`]. Must be called in the context of the main runtime.
pub(super) fn listen(
    config: &Config,
    inherited: Vec<InheritedListener>,
    messages: &UnboundedSender<MainMessage>,
    destination: Destination,
) {
    let report = |reason| {
        // Fails only when the main loop has ended.
        drop(messages.send(MainMessage::MetricsFailed(reason)));
    };
    let addresses = &config.listen.metrics;
    let listeners: Vec<Listener> = if inherited.is_empty() {
        let bind = |address| {
            Listener::bind(address, None)
                .map_err(|error| report(bind_error(name::METRICS_BIND, &error).reason))
                .ok()
        };
        addresses.iter().filter_map(bind).collect()
    } else {
        if !addresses.is_empty() {
            let ignored: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            tracing::warn!(
                "serving metrics on the sockets that systemd passed; metrics.bind = {} has no effect: change \
                 ListenStream= in the socket unit instead",
                ignored.join(", ")
            );
        }
        inherited.into_iter().map(Listener::inherited).collect()
    };
    for listener in listeners {
        let address = listener.address();
        log_unless_terminal!(
            destination == Destination::Terminal,
            rgun.listener = %listener.name,
            "serving metrics on {address}, path {}",
            metrics::METRICS_PATH
        );
        let messages = messages.clone();
        tokio::spawn(async move {
            let scraped = messages.clone();
            if let Err(error) = metrics::serve(listener, move || scrape(scraped.clone())).await {
                let reason = format!("cannot accept connections at {address}: {}", Chain(&error));
                // Fails only when the main loop has ended.
                drop(messages.send(MainMessage::MetricsFailed(reason)));
            }
        });
    }
}

impl Daemon {
    /// Reports an address without metrics. The application is served.
    pub(super) fn on_metrics_failed(&mut self, reason: &str) -> Vec<Event> {
        tracing::error!(
            message_id = OperatorEvent::MetricsFailed.id(),
            "the application is served, but no metrics: {reason}; then `{}`",
            self.host.restart_command
        );
        self.status.set_no_metrics(format!("{NO_METRICS}{reason}"));
        self.send_status();
        Vec::new()
    }
}

/// Asks the main loop for the text. `None` if the loop has ended.
async fn scrape(messages: UnboundedSender<MainMessage>) -> Option<String> {
    let (reply, text) = oneshot::channel();
    messages.send(MainMessage::Scrape(reply)).ok()?;
    text.await.ok()
}
