//! The replies of `io.rgun.Server`. `io.rgun.Server.varlink` documents the fields; a test compares
//! their names and types with these.

#![allow(missing_docs, reason = "the definition of the interface documents each field once")]

use serde::{Deserialize, Serialize};

/// The reply to Status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    pub version: String,
    pub pid: u32,
    pub status: String,
    pub generation: u64,
    pub pending_generation: Option<u64>,
    pub draining: bool,
    pub unavailable: Option<String>,
    pub workers_ready: usize,
    pub workers_desired: usize,
    pub running: usize,
    pub queued: usize,
    pub slots: usize,
    pub wait_p95_usec: u64,
    pub responses: u64,
    pub failed_responses: u64,
    pub workers_spawned: u64,
    pub boot_failures: u64,
    pub worker_crashes: u64,
}

/// The reply to Workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersReply {
    pub workers: Vec<WorkerEntry>,
}

/// The type Worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEntry {
    pub number: Option<u16>,
    pub pid: Option<u32>,
    pub generation: u64,
    /// A value of the type WorkerState; a string, so that a client shows states of later versions.
    pub state: String,
    pub state_usec: u64,
    pub running: usize,
    pub slots: usize,
    pub websockets: usize,
    pub responses: u64,
    pub failed_responses: u64,
    pub memory: Option<u64>,
}

/// The reply to Requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsReply {
    pub requests: Vec<Request>,
    pub total: usize,
}

/// The type Request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: String,
    pub method: String,
    pub path: String,
    pub client: Option<String>,
    pub state: RequestState,
    pub worker: Option<u16>,
    pub elapsed_usec: u64,
}

/// The type RequestState.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    Queued,
    Running,
}

/// The reply to Stacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StacksReply {
    pub workers: Vec<WorkerStacks>,
}

/// The type WorkerStacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStacks {
    pub worker: u16,
    pub pid: Option<u32>,
    pub stacks: Option<String>,
}

/// A reply to Reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    pub message: String,
    pub generation: u64,
}

/// The reply to Scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleReply {
    pub workers: u16,
}

/// The reply to Drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReply {
    pub draining: bool,
}
