//! `[health]`: recognises health checks, which the daemon answers itself, even while all workers
//! are busy or booting.

use http::{Method, request};

use crate::dispatch::Dispatcher;

use super::fault::{HealthResult, Refusal, RequestFault};

/// The paths of health checks, percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPaths {
    /// `health.path`.
    ready: Option<Box<str>>,
    /// `health.live_path`.
    live: Option<Box<str>>,
}

impl HealthPaths {
    /// Creates the paths. Returns `None` if both are off, so that a request then costs one
    /// comparison.
    pub fn new(ready: Option<&str>, live: Option<&str>) -> Option<Box<Self>> {
        if ready.is_none() && live.is_none() {
            return None;
        }
        Some(Box::new(Self { ready: ready.map(Box::from), live: live.map(Box::from) }))
    }

    /// Answers a health check; `None` if the request is not a health check. The query is ignored.
    ///
    /// # Errors
    /// The request has a body, or its method is neither GET nor HEAD.
    pub(super) fn check(
        &self,
        parts: &request::Parts,
        has_body: bool,
        dispatcher: &Dispatcher,
    ) -> Option<Result<HealthResult, Refusal>> {
        let is_path = |path: &Option<Box<str>>| path.as_ref().is_some_and(|path| **path == *parts.uri.path());
        let is_live = is_path(&self.live);
        if !is_live && !is_path(&self.ready) {
            return None;
        }
        if has_body || parts.method != Method::GET && parts.method != Method::HEAD {
            return Some(Err(Refusal::Client(RequestFault::HealthMethod)));
        }
        Some(Ok(if is_live { HealthResult::Alive } else { HealthResult::Readiness(dispatcher.readiness()) }))
    }
}
