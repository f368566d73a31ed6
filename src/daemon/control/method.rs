//! The methods of all interfaces, with their parameters and the access that each needs.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::id::WorkerNr;

use super::fault::CallFault;
use super::interfaces;
use super::message::CallMessage;

/// A method that the main loop performs, with its checked parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Status of `io.rgun.Server`.
    Status,
    /// Workers of `io.rgun.Server`.
    Workers,
    /// Requests of `io.rgun.Server`.
    Requests {
        /// Maximum number of requests to return.
        limit: usize,
    },
    /// Stacks of `io.rgun.Server`.
    Stacks {
        /// The worker's number; `None` is all workers.
        worker: Option<u16>,
    },
    /// Reload of `io.rgun.Server`.
    Reload,
    /// Scale of `io.rgun.Server`.
    Scale {
        /// The number of workers; not 0.
        workers: u16,
    },
    /// Drain of `io.rgun.Server`.
    Drain {
        /// Whether health checks get the status 503.
        enable: bool,
    },
    /// List of `io.systemd.Metrics`.
    ListMetrics,
    /// Describe of `io.systemd.Metrics`.
    DescribeMetrics,
}

/// The methods that a client may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Those that change nothing and interrupt no worker.
    Read,
    /// All methods.
    Full,
}

/// The method of a call, and the part of the daemon that performs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CallTarget {
    /// GetInfo of `org.varlink.service`.
    Info,
    /// GetInterfaceDescription of `org.varlink.service`, with the interface's name.
    Description(String),
    /// A method that the main loop performs.
    Main(Method),
}

/// Maximum number of requests in a reply.
const MAX_REQUESTS: usize = 1000;

impl Method {
    /// Returns the access that a client needs.
    pub(super) fn access(&self) -> Access {
        match self {
            Self::Status
            | Self::Workers
            | Self::Requests { .. }
            | Self::ListMetrics
            | Self::DescribeMetrics => Access::Read,
            Self::Stacks { .. } | Self::Reload | Self::Scale { .. } | Self::Drain { .. } => Access::Full,
        }
    }

    /// Returns whether the method can only be called with the flag `more`.
    pub(super) fn requires_more(&self) -> bool {
        matches!(self, Self::ListMetrics | Self::DescribeMetrics)
    }
}

/// Finds the method of a call, and checks its parameters.
///
/// # Errors
/// The interface, the method or a parameter is unknown; a parameter is missing or has a wrong value.
pub(super) fn resolve(call: &CallMessage) -> Result<CallTarget, CallFault> {
    let mut parameters = Parameters(call.parameters.clone().unwrap_or_default());
    let (interface, name) = call.method.rsplit_once('.').unwrap_or((call.method.as_str(), ""));
    let target = match (interface, name) {
        ("org.varlink.service", "GetInfo") => CallTarget::Info,
        ("org.varlink.service", "GetInterfaceDescription") => {
            CallTarget::Description(parameters.require("interface")?)
        }
        ("io.rgun.Server", "Status") => CallTarget::Main(Method::Status),
        ("io.rgun.Server", "Workers") => CallTarget::Main(Method::Workers),
        ("io.rgun.Server", "Requests") => {
            let limit = parameters.take("limit")?.unwrap_or(MAX_REQUESTS);
            CallTarget::Main(Method::Requests { limit: in_range("limit", limit, &(1..=MAX_REQUESTS))? })
        }
        ("io.rgun.Server", "Stacks") => {
            CallTarget::Main(Method::Stacks { worker: parameters.take("worker")? })
        }
        ("io.rgun.Server", "Reload") => CallTarget::Main(Method::Reload),
        ("io.rgun.Server", "Scale") => {
            let workers = in_range("workers", parameters.require("workers")?, &(1..=WorkerNr::MAX_COUNT))?;
            CallTarget::Main(Method::Scale { workers })
        }
        ("io.rgun.Server", "Drain") => {
            CallTarget::Main(Method::Drain { enable: parameters.take("enable")?.unwrap_or(true) })
        }
        ("io.systemd.Metrics", "List") => CallTarget::Main(Method::ListMetrics),
        ("io.systemd.Metrics", "Describe") => CallTarget::Main(Method::DescribeMetrics),
        _ => {
            interfaces::definition(interface)?;
            return Err(CallFault::MethodNotFound { method: call.method.clone() });
        }
    };
    parameters.finish()?;
    Ok(target)
}

/// The parameters of a call that have not been read yet.
struct Parameters(Map<String, Value>);

impl Parameters {
    /// Reads an optional parameter. Null is the same as no parameter.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, CallFault> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|_| CallFault::parameter(name)),
        }
    }

    /// Reads a parameter that must be there.
    fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, CallFault> {
        self.take(name)?.ok_or_else(|| CallFault::parameter(name))
    }

    /// Refuses the first parameter that the method does not have.
    fn finish(self) -> Result<(), CallFault> {
        self.0.keys().next().map_or(Ok(()), |name| Err(CallFault::parameter(name)))
    }
}

fn in_range<T: PartialOrd>(name: &str, value: T, range: &RangeInclusive<T>) -> Result<T, CallFault> {
    if range.contains(&value) { Ok(value) } else { Err(CallFault::parameter(name)) }
}
