//! Each server hook of gunicorn is a key of `[hooks]`, or has a hint at its replacement.

use crate::config::keys::{Lookup, lookup};

/// The server hooks of gunicorn 27.0.1's `config.py`, without those that only its dirty
/// arbiters call.
const GUNICORN_HOOKS: &str = "on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int \
    worker_abort pre_exec pre_request post_request child_exit worker_exit nworkers_changed on_exit ssl_context";

#[test]
fn every_gunicorn_hook_is_a_key_or_has_a_hint() {
    for hook in GUNICORN_HOOKS.split_whitespace() {
        match lookup("hooks", hook) {
            Lookup::Known(_) => {}
            Lookup::Unknown(hint) => {
                let hint = hint.unwrap();
                assert!(!hint.contains("did you mean") && !hint.contains("the keys of"), "{hook}: {hint}");
            }
        }
    }
}
