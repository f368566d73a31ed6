//! The listeners at which the metrics are served: sockets from systemd, or the addresses of
//! `metrics.bind`.

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::error::StartupError;
use super::messages::MainMessage;
use super::operator_log::log_unless_terminal;
use super::system::bind_error;
use crate::config::{Config, name};
use crate::error_chain::Chain;
use crate::journal::daemon_log::Destination;
use crate::metrics;
use crate::net::Listener;
use crate::systemd::listen::InheritedListener;

/// Serves the metrics at the sockets that systemd passed; if there are none, at the addresses of
/// `metrics.bind`. Must be called in the context of the main runtime.
///
/// # Errors
/// An address cannot be bound.
pub(super) fn listen(
    config: &Config,
    inherited: Vec<InheritedListener>,
    messages: &UnboundedSender<MainMessage>,
    destination: Destination,
) -> Result<(), StartupError> {
    let addresses = &config.listen.metrics;
    let listeners: Vec<Listener> = if inherited.is_empty() {
        let bind =
            |address| Listener::bind(address, None).map_err(|error| bind_error(name::METRICS_BIND, &error));
        addresses.iter().map(bind).collect::<Result<_, _>>()?
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
            if let Err(error) = metrics::serve(listener, move || scrape(messages.clone())).await {
                tracing::error!(error = %Chain(&error), "cannot serve metrics on {address}");
            }
        });
    }
    Ok(())
}

/// Asks the main loop for the text. `None` if the loop has ended.
async fn scrape(messages: UnboundedSender<MainMessage>) -> Option<String> {
    let (reply, text) = oneshot::channel();
    messages.send(MainMessage::Scrape(reply)).ok()?;
    text.await.ok()
}
