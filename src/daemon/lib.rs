//! The rgun daemon: owns every connection, one queue, systemd as its user interface. It never links Python.
//!
//! # The way of a request
//! ```text
//! bytes    systemd socket → net → http (→ websocket) → dispatch → channel (shared memory) → worker → application
//! reply    application → worker → channel → dispatch → ticket → http → client
//! control  signal | notice | child exit → Event → supervise (pure) → Action → run performs it
//! ```
//!
//! # Who may use what
//! | module | may use | may not use |
//! |---|---|---|
//! | [`config`], [`cli`] | files of the configuration | anything that runs |
//! | [`supervise`] | std's `Instant` as an argument | tokio, nix, files, clocks |
//! | [`systemd`] | nix, sd-notify, listenfd, escape | http, pool, supervise |
//! | [`net`] | config, systemd, tokio | http, dispatch, pool |
//! | [`dispatch`] | channel, the vocabulary of the `http` crate, escape, spare, supervise's ids | hyper, pool, net |
//! | [`websocket`] | dispatch, net, journal, supervise's ids | hyper, http, pool |
//! | [`http`] | websocket, dispatch, net, journal, escape, spare, supervise's ids, hyper | pool, supervise's state |
//! | [`pool`] | channel, dispatch's [`Link`](dispatch::Link), journal's [`WorkerOutput`](journal::output::WorkerOutput), nix | hyper, http, net |
//! | [`journal`] | tracing, escape, supervise's ids, nix | everything that serves |
//! | [`edge`] | net, http, dispatch, journal | pool, supervise's state |
//! | [`run`], [`check`] | everything | being used by anything but `main` |
//!
//! A test (`layering.rs`) keeps the table. Only [`systemd`] reads `LISTEN_*`, `NOTIFY_SOCKET` and `WATCHDOG_*`; only [`pool`] makes processes (and [`check`], which serves nobody); only
//! [`http::fault`] chooses status codes.
//!
//! # Threads
//! *main* (signals, supervise, spawn and reap, notify), *edge* (one reactor: accept, HTTP, dispatch, rings),
//! *journal* (per-request entries), *output* (what workers print), *log* and *stdout* (write the log, and are the only ones
//! that wait for whoever reads it). Main pings systemd's watchdog only after edge has answered it.

pub mod check;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod edge;
pub mod escape;
pub mod http;
pub mod journal;
#[cfg(test)]
mod layering;
pub mod net;
pub mod pool;
pub mod reload;
pub mod report;
pub mod run;
pub mod spare;
pub mod supervise;
pub mod systemd;
pub mod websocket;
