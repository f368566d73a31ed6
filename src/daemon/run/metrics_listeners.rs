//! The listeners at which the metrics are served: sockets from systemd, or the addresses of
//! `metrics.bind`.

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::messages::{MainMessage, MetricsFault};
use super::operator_log::log_unless_terminal;
use super::system::{bind_error, warn_unused_metrics};
use super::{Daemon, StartupError};
use crate::config::{Config, name};
use crate::control::NO_METRICS;
use crate::error_chain::Chain;
use crate::journal::catalog::OperatorEvent;
use crate::journal::daemon_log::Destination;
use crate::metrics;
use crate::net::{BindError, Listener};
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
    let addresses = &config.listen.metrics;
    let listeners: Vec<Listener> = if inherited.is_empty() {
        let bind = |address| {
            Listener::bind(address, None)
                .map_err(|error| {
                    let remedy = if matches!(error, BindError::InUse(_)) { "then " } else { "" };
                    let StartupError { reason, .. } = bind_error(name::METRICS_BIND, &error);
                    let fault = MetricsFault { address: address.to_string(), reason, remedy };
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
                let reason = format!("cannot accept connections: {}", Chain(&error));
                let fault = MetricsFault { address, reason, remedy: "" };
                // Fails only when the main loop has ended.
                drop(messages.send(MainMessage::MetricsFailed(fault)));
            }
        });
    }
}

impl Daemon {
    /// Reports an address without metrics. The application is served.
    pub(super) fn on_metrics_failed(&mut self, fault: &MetricsFault) -> Vec<Event> {
        let MetricsFault { address, reason, remedy } = fault;
        tracing::error!(
            message_id = OperatorEvent::MetricsFailed.id(),
            "the application is served, but {NO_METRICS}{address}: {reason}; {remedy}{}",
            self.host.restart
        );
        self.status.add_no_metrics(format!("{NO_METRICS}{address}: {reason}"));
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
