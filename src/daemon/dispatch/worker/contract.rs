//! The error for a worker that breaks the channel's contract. Such a worker is removed: see
//! `Dispatcher::fail_worker`.

use std::fmt;

use rgun_channel::ProtocolError;

/// A breach of the channel's contract, as text for the log: a phrase whose subject is the worker
/// ("sent a second head for exchange 7"), or the text of a [`ProtocolError`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContractBreach(String);

impl fmt::Display for ContractBreach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ContractBreach {}

impl From<String> for ContractBreach {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for ContractBreach {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<ProtocolError> for ContractBreach {
    fn from(error: ProtocolError) -> Self {
        Self(error.to_string())
    }
}
