//! What rgun promises, asked of the real binary over real sockets: one module a promise.
//!
//! Most tests run the *fake worker* (`fake_worker/main.rs`, an example of `rgun-channel`) where the interpreter belongs:
//! it answers properly, late, never or with a lie, as the path says. Few need Python itself. Each test has a daemon
//! of its own, so they run in parallel; they wait for events, with deadlines, and never for time to pass.
//!
//! `tests/run rust` builds what is needed and runs this; by hand `make build PROFILE=fast`, then
//! `cargo build --profile fast --examples` and `cargo test --profile fast --test it`.
//! WSGI itself is tested from Python, in `tests/compat`; systemd itself in `tests/e2e`.

mod support;

mod activation;
mod asgi;
mod asgi_uploads;
mod backpressure;
mod bodies;
mod check;
mod connections;
mod contract;
mod crash;
mod deadline;
mod dispatch;
mod drain;
mod endings;
mod environment;
mod forwarded;
mod framing;
mod half_close;
mod http1;
mod journal;
mod readiness;
mod refusals;
mod reload;
mod slow_readers;
mod stalled_log;
mod streams;
mod supervision;
mod unread;
mod uploads;
mod websocket;
mod websocket_hostile;
mod websocket_protocol;
mod worker_output;
