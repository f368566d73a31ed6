//! The page for a developer's browser when changed code does not load (`reload.on_change` in the
//! foreground).
//!
//! The old code continues to serve. For each failure, the page replaces one response, that to the
//! browser's next page load. A developer saves, looks at the browser and sees the traceback;
//! loading the page again shows the old code. While there is no old code, the page is shown each
//! time, and loads itself again.
//!
//! A traceback is shown only on this machine: the client's address and the Host must be loopback,
//! and no proxy may have forwarded the request. A request through a tunnel or from a page of
//! another site has another Host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HOST, HeaderName};
use http::{Method, request};

use crate::net::Connection;

use super::fault::Refusal;
use super::load_failure::LoadFailure;

/// The fields of Fetch Metadata Request Headers. Browsers send them over HTTPS, and to loopback
/// addresses also over plain HTTP.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Set when a browser loads a page in advance, before the user opens it.
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// Fields that proxies and tunnels add.
const FORWARDING: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// The failure of the last start or reload, which the main thread sets and requests read.
#[derive(Debug, Default)]
pub struct FailurePage {
    /// Whether there is a failure to show. Checked first, so that other requests take no lock.
    is_set: AtomicBool,
    failure: Mutex<Option<Arc<LoadFailure>>>,
}

impl FailurePage {
    /// Sets the failure to show; `None` after a success.
    pub fn set(&self, failure: Option<LoadFailure>) {
        let mut current = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_set.store(failure.is_some(), Ordering::Relaxed);
        *current = failure.map(Arc::new);
    }

    /// Refuses a request whose response the page replaces.
    pub(super) fn check(&self, parts: &request::Parts, connection: &Connection) -> Result<(), Refusal> {
        let is_set = self.is_set.load(Ordering::Relaxed);
        if !is_set || !connection.peer.ip.is_some_and(|ip| is_local_page_load(parts, ip)) {
            return Ok(());
        }
        let mut current = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = current.clone() else { return Ok(()) };
        if failure.old_code_serves {
            *current = None;
            self.is_set.store(false, Ordering::Relaxed);
        }
        Err(Refusal::LoadFailed(failure))
    }
}

/// Returns whether a browser on this machine opens a page.
fn is_local_page_load(parts: &request::Parts, peer: std::net::IpAddr) -> bool {
    let has =
        |name: HeaderName, value: &[u8]| parts.headers.get(name).is_some_and(|it| it.as_bytes() == value);
    peer.is_loopback()
        && parts.method == Method::GET
        && has(SEC_FETCH_MODE, b"navigate")
        && has(SEC_FETCH_DEST, b"document")
        && !parts.headers.contains_key(SEC_PURPOSE)
        && FORWARDING.iter().all(|name| !parts.headers.contains_key(*name))
        && is_loopback_host(parts)
}

/// Returns whether the host is `localhost`, a name below it (RFC 6761 §6.3), or a loopback address.
fn is_loopback_host(parts: &request::Parts) -> bool {
    let field = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    let Some(authority) = field.and_then(|host| host.parse::<http::uri::Authority>().ok()) else {
        return false;
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let name = host.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(host: &str, more: &[(&'static str, &str)]) -> request::Parts {
        let fields = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("host", host)];
        let mut request = http::Request::get("/");
        let is_replaced = |name: &str| more.iter().any(|(other, _)| *other == name);
        for (name, value) in fields.iter().filter(|(name, _)| !is_replaced(name)).chain(more) {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn pages_opened_on_this_machine_are_recognised() {
        let local = "127.0.0.1".parse().unwrap();
        for host in ["localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1:8000", "[::1]:8000"] {
            assert!(is_local_page_load(&parts(host, &[]), local), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "192.0.2.1", ""] {
            assert!(!is_local_page_load(&parts(host, &[]), local), "{host}");
        }
        assert!(!is_local_page_load(&parts("localhost", &[]), "192.0.2.1".parse().unwrap()));
        for (name, value) in [
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "iframe"),
            ("sec-purpose", "prefetch"),
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
        ] {
            assert!(!is_local_page_load(&parts("localhost", &[(name, value)]), local), "{name}: {value}");
        }
    }
}
