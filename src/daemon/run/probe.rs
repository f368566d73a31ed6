//! `reload.probe`: one request to a new worker before it is admitted.

use std::time::Instant;

use rgun_channel::frame::{self, ExchangeId};

use crate::dispatch::{Dispatcher, Fault};
use crate::http::fault::Refusal;
use crate::id::WorkerId;

/// Sends a request for `path` to the worker. Any status below 500 is a success: the path may
/// require a login.
///
/// # Errors
/// One line with the status, or with the reason why there is no response.
pub(super) async fn probe(
    dispatcher: &'static Dispatcher,
    worker: WorkerId,
    path: String,
) -> Result<(), String> {
    let (path_only, query) = path.split_once('?').unwrap_or((&path, ""));
    let request = frame::Request {
        path: path_only.as_bytes(),
        query: query.as_bytes(),
        request_id: b"reload-probe",
        ..frame::Request::new(ExchangeId(0))
    };
    let fields: [(&[u8], &[u8]); 2] = [(b"host", b"localhost"), (b"user-agent", b"rgun-probe")];
    let ticket = dispatcher
        .submit_to(worker, &request, fields.into_iter(), Instant::now())
        .map_err(|fault| failed(&path, &reason(fault)))?;
    match ticket.await {
        Ok(answer) if answer.head.status.as_u16() < 500 => Ok(()),
        Ok(answer) => Err(failed(&path, &format!("{} is not below 500", answer.head.status))),
        Err(fault) => Err(failed(&path, &reason(fault))),
    }
}

/// Returns the reason that a client would read.
fn reason(fault: Fault) -> String {
    Refusal::Exchange(fault).to_response().reason
}

fn failed(path: &str, why: &str) -> String {
    format!("reload.probe = \"{path}\" failed: {why}")
}
