//! The rgun daemon.

pub mod cli;
pub mod config;
pub mod report;
pub mod supervise;
