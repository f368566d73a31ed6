//! Integration tests: the real binary over real sockets, one module per feature.
//!
//! Most tests run the *fake worker* (`fake_worker/main.rs`, an example of `rgun-channel`) in place
//! of the interpreter; the path selects its response. Few tests need Python. Each test has its own
//! daemon, so they run in parallel. They wait for events, with a deadline; they sleep only where
//! the length of a pause is the subject.
//!
//! `tests/run rust` builds and runs them; by hand `make build PROFILE=fast`, then
//! `cargo build --profile fast --examples` and `cargo test --profile fast --test it`.
//! `tests/compat` tests WSGI and ASGI with real applications, `tests/e2e` with a real systemd.

mod support;

mod access_log;
mod activation;
mod asgi;
mod asgi_uploads;
mod backpressure;
mod bodies;
mod check;
mod compression;
mod connections;
mod contract;
mod control;
mod crash;
mod deadline;
mod dispatch;
mod drain;
mod endings;
mod environment;
mod file_watch;
mod forwarded;
mod framing;
mod half_close;
mod hand_over;
mod hand_over_requests;
mod health;
mod http1;
mod journal;
mod metrics;
mod own_responses;
mod parking;
mod proxy_protocol;
mod readiness;
mod refusals;
mod reload;
mod sendfile;
mod slow_readers;
mod stalled_log;
mod static_files;
mod static_life;
mod streams;
mod strictness;
mod supervision;
mod takeover;
mod terminal;
mod tls;
mod tls_handshakes;
mod tls_offers;
mod unread;
mod uploads;
mod websocket;
mod websocket_hostile;
mod websocket_protocol;
mod without_openat2;
mod worker_output;
