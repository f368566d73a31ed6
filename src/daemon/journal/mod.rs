//! The log of the daemon and of its workers: to journald with typed fields when systemd runs it, as
//! readable lines on stderr elsewhere.
//!
//! ```text
//! tracing ─▶ daemon_log ─▶ format ─▶ queue ─▶ (its thread) sink ─▶ journald or stderr
//! edge ─▶ requests, refusals ─▶ (thread "journal") tracing
//! workers' pipes ─▶ (thread "output") output ─▶ output_lines, traceback ─▶ output_entry ─▶ queue
//! ```
//! The main and edge threads never wait for the log's reader: queues are bounded, and dropped
//! entries are counted.

mod access_line;
pub mod catalog;
pub mod daemon_log;
mod format;
mod json;
mod markers;
pub mod output;
mod output_entry;
mod output_lines;
mod output_parts;
mod queue;
pub mod refusal_kind;
pub mod refusals;
mod request_entries;
mod request_writer;
pub mod requests;
mod sink;
mod terminal;
pub mod thread;
pub mod trace_ids;
mod traceback;
mod traceback_line;
