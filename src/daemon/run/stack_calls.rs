//! The clients of the control socket that wait for stacks.

use crate::control::{ReplySender, StacksReply, WorkerStacks};
use crate::id::WorkerId;

/// The calls of Stacks that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct StackCalls(Vec<StackCall>);

#[derive(Debug)]
struct StackCall {
    /// The workers that have not answered yet.
    missing: Vec<WorkerId>,
    /// The stacks of the other workers.
    stacks: Vec<WorkerStacks>,
    replies: ReplySender,
}

impl StackCalls {
    /// Adds a call. The stacks of all `workers` must have been requested.
    pub(super) fn add(&mut self, workers: Vec<WorkerId>, replies: ReplySender) {
        self.0.push(StackCall { missing: workers, stacks: Vec::new(), replies });
        self.answer();
    }

    /// Adds the stacks of a worker to every call that waits for them. `stacks` is `None` if the worker
    /// did not answer.
    pub(super) fn on_stacks(&mut self, worker: WorkerId, pid: Option<u32>, stacks: Option<&str>) {
        for call in &mut self.0 {
            let n_missing = call.missing.len();
            call.missing.retain(|other| *other != worker);
            if call.missing.len() < n_missing {
                let stacks = stacks.map(str::to_owned);
                call.stacks.push(WorkerStacks { worker: worker.number.0, pid, stacks });
            }
        }
        self.answer();
    }

    /// Answers the calls for which no worker is missing any more.
    fn answer(&mut self) {
        for mut call in self.0.extract_if(.., |call| call.missing.is_empty()) {
            call.stacks.sort_by_key(|entry| (entry.worker, entry.pid));
            call.replies.finish(&StacksReply { workers: call.stacks });
        }
    }
}
