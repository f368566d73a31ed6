//! The errors in replies, of `org.varlink.service` and of `io.rgun.Server`.

use serde::Serialize;
use serde_json::{Map, Value};

/// An error in a reply. The names and fields are those of the definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "error", content = "parameters")]
pub enum CallFault {
    /// The service has no such interface.
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound {
        /// The name in the call.
        interface: String,
    },
    /// The interface has no such method.
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound {
        /// The full name in the call.
        method: String,
    },
    /// A parameter is unknown, missing or has a wrong value.
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        /// The parameter's name.
        parameter: String,
    },
    /// The method must be called with the flag `more`.
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},
    /// The caller may not call the method.
    #[serde(rename = "io.rgun.Server.PermissionDenied")]
    PermissionDenied {
        /// The reason, for the operator.
        reason: String,
    },
    /// The reload failed; old workers that are ready keep serving.
    #[serde(rename = "io.rgun.Server.ReloadFailed")]
    ReloadFailed {
        /// The reason, in several lines.
        reason: String,
    },
    /// No worker that is ready or retiring has this number.
    #[serde(rename = "io.rgun.Server.NoSuchWorker")]
    NoSuchWorker {
        /// The number in the call.
        worker: u16,
    },
    /// `health.path` is not set, so no load balancer would notice Drain.
    #[serde(rename = "io.rgun.Server.NoHealthCheck")]
    NoHealthCheck {},
    /// The service is stopping.
    #[serde(rename = "io.rgun.Server.Stopping")]
    Stopping {},
}

impl CallFault {
    /// Returns the error for a parameter that is unknown, missing or wrong.
    pub(super) fn parameter(name: &str) -> Self {
        Self::InvalidParameter { parameter: name.to_owned() }
    }
}

/// An error that a client received, perhaps from another version of rgun.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteError {
    /// The error's full name.
    pub name: String,
    /// The error's parameters.
    pub parameters: Map<String, Value>,
}

impl RemoteError {
    /// Returns a parameter that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(Value::as_str)
    }
}
