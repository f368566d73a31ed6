//! The rgun daemon.
