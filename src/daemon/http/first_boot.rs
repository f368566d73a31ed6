//! `timeouts.boot_page`: while the first worker since the daemon's start boots, a waiting browser
//! gets a page that reloads itself, instead of a blank tab.
//!
//! Only navigations get the page. Requests of programs wait in the queue, and so do submitted
//! forms, because a reload would submit them again.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, request};
use tokio::time::{Sleep, sleep};

use crate::dispatch::Ticket;
use crate::negotiation::ErrorFormat;

use super::head;

/// A navigation that waits for the first worker.
pub(super) struct FirstBoot {
    pub(super) ticket: Ticket,
    /// Expires after `timeouts.boot_page`.
    timer: Pin<Box<Sleep>>,
}

/// Browsers send "navigate" in this field for a page, and other values for the resources of a page
/// (Fetch Metadata Request Headers).
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

fn is_navigation(parts: &request::Parts) -> bool {
    let mode = parts.headers.get(SEC_FETCH_MODE).map(HeaderValue::as_bytes);
    parts.method == Method::GET
        && mode.is_none_or(|mode| mode == b"navigate")
        && head::error_format(&parts.headers) == ErrorFormat::Html
}

impl FirstBoot {
    /// Begins the wait. `limit` is `timeouts.boot_page`.
    ///
    /// # Errors
    /// Returns the ticket if the request is not a navigation, or if there is no limit.
    pub(super) fn new(
        ticket: Ticket,
        parts: &request::Parts,
        limit: Option<Duration>,
    ) -> Result<Self, Ticket> {
        match limit.filter(|_| is_navigation(parts)) {
            Some(limit) => Ok(Self { ticket, timer: Box::pin(sleep(limit)) }),
            None => Err(ticket),
        }
    }

    /// Waits until the time has passed. Returns true if the request had not started by then; it was
    /// revoked and will not start.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.timer.as_mut().poll(cx).map(|()| self.ticket.revoke())
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn navigations_are_recognised() {
        let html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
        for (method, accept, mode, expected) in [
            (Method::GET, html, Some("navigate"), true),
            (Method::GET, html, None, true),
            (Method::GET, html, Some("cors"), false),
            (Method::POST, html, Some("navigate"), false),
            (Method::HEAD, html, None, false),
            (Method::GET, "*/*", None, false),
            (Method::GET, "application/json", Some("navigate"), false),
        ] {
            let mut request = http::Request::builder().method(method.clone()).uri("/").header(ACCEPT, accept);
            if let Some(mode) = mode {
                request = request.header(SEC_FETCH_MODE, mode);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(is_navigation(&parts), expected, "{method} {accept} {mode:?}");
        }
    }
}
