//! What the daemon says, and how: to journald with typed fields when systemd runs it, as readable lines on
//! stderr elsewhere.

pub mod lifecycle;
pub mod requests;
