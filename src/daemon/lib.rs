//! The rgun daemon.

pub mod config;
pub mod report;
pub mod supervise;
