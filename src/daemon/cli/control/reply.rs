//! Reading the replies of the daemon, and printing.

use std::io::{self, Write as _};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::CallError;

/// Maximum wait for a reply. Stacks take up to five seconds; a reload has no limit.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a reply of the daemon.
pub(super) fn parse<T: DeserializeOwned>(reply: Value) -> Result<T, CallError> {
    Ok(serde_json::from_value(reply).map_err(io::Error::from)?)
}

pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}
