//! Decides which request may run, and when: the queue, path rules and the quarantine. Pure: without
//! IO or clock.

pub(super) mod client_queue;
pub(super) mod quarantine;
pub(super) mod queue;
pub(super) mod rules;
pub(super) mod wait_estimate;
