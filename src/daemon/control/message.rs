//! Calls and replies, and their encoding: one JSON object and a NUL byte for each.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The call of a method.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CallMessage {
    /// The full name: interface, dot, method.
    pub(super) method: String,
    /// `None` is the same as an empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<Map<String, Value>>,
    /// The client accepts several replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) more: Option<bool>,
    /// The client wants no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) oneway: Option<bool>,
}

/// A reply to a call.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplyMessage {
    /// The full name of the error; `None` if the call succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) parameters: Option<Map<String, Value>>,
    /// More replies follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) continues: Option<bool>,
}

/// Encodes a message.
///
/// # Errors
/// A map in the message has keys that are not strings.
pub(super) fn encode(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}
