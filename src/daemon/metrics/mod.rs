//! Metrics for Prometheus: the text format, and the listeners at which it is served.
//!
//! `run` collects the values and makes [`Family`]s of them. The sockets are for metrics only:
//! they do not serve the application, and their requests are neither logged nor counted.

mod server;
mod text;

pub use server::{METRICS_PATH, serve};
pub use text::{Family, Samples, encode};
