//! The checked `[timeouts]` section.

use std::num::NonZeroU32;
use std::time::Duration;

/// `[timeouts]`. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time for the application to begin its response; then 504. Also the longest pause
    /// within the response; then the connection is closed. Gunicorn's `timeout`.
    pub request: Option<Duration>,
    /// Maximum time that a request waits for a worker; then 503.
    pub queue: Option<Duration>,
    /// Maximum time from the first byte of a request's head to its last; then 408 (RFC 9110
    /// §15.5.9).
    pub header: Duration,
    /// Maximum pause between two pieces of a request's body; then 408.
    pub body: Duration,
    /// Maximum idle time of a connection between requests. Zero closes it after each response.
    pub keepalive: Duration,
    /// ASGI: maximum time that an event loop may be blocked; then its stacks are logged, and after
    /// the same time again the worker is replaced.
    pub stall: Option<Duration>,
    /// Maximum time from the start of a worker process to `Ready`; then the boot has failed.
    pub boot: Option<Duration>,
    /// Maximum time for running requests to finish on stop and reload. Zero aborts them at once.
    pub drain: Duration,
    /// Time for which the daemon continues to serve after a stop request, while `health.path`
    /// answers 503. Zero drains at once.
    pub drain_delay: Duration,
    /// Maximum time that a browser's navigation waits until the first worker since the daemon's
    /// start is ready; then the browser gets a page that reloads itself.
    pub boot_page: Option<Duration>,
    /// `[[timeouts.path]]`: limits for single paths; the first matching rule applies.
    pub paths: Vec<PathRule>,
}

/// One `[[timeouts.path]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// `match`: a percent-encoded path without the query; `*` matches any bytes, including `/`.
    pub pattern: String,
    /// Overrides `timeouts.request`. `None`: does not override it; `Some(None)`: no limit
    /// (`"off"`).
    pub request: Option<Option<Duration>>,
    /// Maximum number of these requests that run at a time in all workers together; others wait
    /// outside the queue. `None` is no limit.
    pub concurrency: Option<NonZeroU32>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(30)),
            queue: Some(Duration::from_secs(30)),
            header: Duration::from_secs(10),
            body: Duration::from_mins(1),
            keepalive: Duration::from_secs(75),
            stall: Some(Duration::from_secs(10)),
            boot: Some(Duration::from_mins(1)),
            drain: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            boot_page: Some(Duration::from_secs(2)),
            paths: Vec::new(),
        }
    }
}
