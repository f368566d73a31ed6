//! What may run: the queue, path rules, the quarantine. Pure: no IO, no clock, no other part of `dispatch`.

pub(super) mod quarantine;
pub(super) mod queue;
pub(super) mod rules;
pub(super) mod wait_estimate;
