//! The rgun daemon. It owns every connection, the request queue and the worker processes. Operators
//! control it through systemd. It does not link Python.
//!
//! # The path of a request
//! ```text
//! bytes    systemd socket → net → http (→ websocket) → dispatch → channel (shared memory) → worker → application
//! reply    application → worker → channel → dispatch → ticket → http → client
//! control  signal | notice | child exit → Event → supervise (pure) → Action → run performs it
//! ```
//!
//! # What a module may use
//! "May use" lists other modules of the daemon. "May not use" lists crates, and items of crates and
//! of std. `tests/guards` checks every file of a module against this table.
//!
//! | module | may use | may not use |
//! |---|---|---|
//! | [`escape`] | - | tokio, hyper, tracing |
//! | [`error_chain`] | - | tokio, hyper, tracing |
//! | [`exit_status`] | - | tokio, hyper, tracing |
//! | [`buffer_pool`] | - | tokio, hyper, tracing |
//! | [`budget`] | - | tokio, hyper, tracing |
//! | [`spool`] | - | tokio, hyper, tracing |
//! | [`heap`] | - | tokio, hyper, tracing |
//! | [`files`] | buffer_pool | tokio, hyper, tracing |
//! | [`id`] | - | tokio, hyper, tracing, rgun_channel |
//! | [`negotiation`] | - | tokio, hyper, tracing, rgun_channel |
//! | [`config`] | - | tokio, hyper, tracing, rgun_channel, std::env::var(, std::env::var_os(, std::env::current_dir( |
//! | [`control`] | id | hyper, rgun_channel |
//! | [`cli`] | config, control, exit_status, id | tokio, hyper, tracing, rgun_channel |
//! | [`supervise`] | id, exit_status | tokio, hyper, nix, tracing, std::fs, Instant::now(, SystemTime |
//! | [`systemd`] | escape, error_chain | tokio, hyper, rgun_channel |
//! | [`journal`] | config, escape, id | tokio, hyper |
//! | [`tls`] | config | tokio, hyper, rgun_channel::ring |
//! | [`net`] | config, systemd, tls, error_chain, heap | hyper, rgun_channel::ring |
//! | [`link`] | id | tokio, hyper |
//! | [`dispatch`] | escape, buffer_pool, budget, spool, error_chain, id, link, negotiation, supervise | hyper |
//! | [`websocket`] | dispatch, net, journal, id | hyper, http, nix |
//! | [`http`] | files, websocket, dispatch, net, tls, journal, escape, error_chain, buffer_pool, budget, spool, id, negotiation | nix::sys::signal |
//! | [`pool`] | config, journal, id, link, supervise, systemd, error_chain | hyper, tokio |
//! | [`metrics`] | net, error_chain | rgun_channel |
//! | [`file_watch`] | escape | tokio, hyper, rgun_channel |
//! | [`edge`] | dispatch, http, journal, link, net, tls | hyper |
//! | [`check`] | everything | - |
//! | [`run`] | everything | - |
//!
//! # Threads
//! *main* (signals, supervision, spawning and reaping, notifications), *edge* (one reactor: accept,
//! HTTP, dispatch, rings), *disk* (blocking file operations), *tls* (handshakes), *journal* (log
//! entries of requests), *output* (the workers' output), *log* and *stdout* (write the log, and
//! block on a slow reader), *rgun-watch* and *notify-rs* (changed files, with `reload.on_change`).
//! *main* pings systemd's watchdog after *edge* has answered a ping.

pub mod budget;
pub mod buffer_pool;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod dispatch;
pub mod edge;
pub mod error_chain;
pub mod escape;
pub mod exit_status;
pub mod file_watch;
pub mod files;
pub mod heap;
pub mod http;
pub mod id;
pub mod journal;
pub mod link;
pub mod metrics;
pub mod negotiation;
pub mod net;
pub mod pool;
pub mod run;
pub mod spool;
pub mod supervise;
pub mod systemd;
pub mod tls;
pub mod websocket;

#[cfg(test)]
#[path = "../../tests/rng.rs"]
mod rng;
