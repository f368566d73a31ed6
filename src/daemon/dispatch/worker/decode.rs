//! What a worker completes, out of its ring: decoded, checked and moved out of shared memory.
//!
//! Everything here is hostile input: whatever is impossible is an error, and the worker is then condemned.

use std::ops::Range;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rgun_channel::frame::{
    self, AppError, BodyPart, Completion, CompletionKind, DecodedCompletion, FieldName, MAX_FIELDS,
};

use crate::buffer_pool;

use crate::dispatch::NoticeSink;
use crate::dispatch::exchange::response_parts::{ContentLength, FilePart, Payload, ResponseHead};
use crate::dispatch::worker::Worker;

/// A completion, decoded and moved out of shared memory.
#[derive(Debug)]
pub(crate) struct ReceivedCompletion {
    pub(crate) header: Completion,
    pub(crate) head: Option<ResponseHead>,
    pub(crate) payload: Payload,
    /// Summary and traceback of [`CompletionKind::AppRaised`].
    pub(crate) error: Option<(String, String)>,
    /// The number of [`CompletionKind::WindowUpdate`].
    pub(crate) granted: u64,
    /// The fields of [`CompletionKind::EarlyHints`] and [`CompletionKind::Trailers`].
    pub(crate) fields: Option<Box<HeaderMap>>,
}

/// Decodes a completion frame that has been copied out of the ring.
pub(crate) fn decode(
    worker: &mut Worker,
    bytes: &[u8],
    notice: &NoticeSink,
) -> Result<ReceivedCompletion, String> {
    let DecodedCompletion { head, reason, n_fields, fields, body } =
        Completion::decode(bytes).map_err(|broken| broken.to_string())?;
    if usize::from(head.slot) >= worker.n_map_slots() {
        return Err(format!("used slot {} of {}", head.slot, worker.n_map_slots()));
    }
    if head.done {
        worker.record_service_time(head.service);
    }
    let slice = |range: Range<usize>| bytes.get(range).unwrap_or_default();
    if head.kind == CompletionKind::AppRaised {
        let BodyPart::Inline(range) = body else {
            return Err("raised without an error".to_owned());
        };
        let error = AppError::decode(slice(range)).map_err(|broken| broken.to_string())?;
        let error = Some((error.summary.to_owned(), error.traceback.to_owned()));
        return Ok(ReceivedCompletion { error, ..ReceivedCompletion::bare(head) });
    }
    if !matches!(head.kind, CompletionKind::Respond | CompletionKind::Body) {
        return decode_asgi(worker, head, &slice, (n_fields, fields), body);
    }
    // One copy holds the field values and an inline body; everything below borrows from it.
    let mut shared = buffer_pool::copy(slice(fields.start..bytes.len()));
    let base = fields.start;
    let response = if head.kind == CompletionKind::Respond {
        let status =
            StatusCode::from_u16(head.status).map_err(|_| format!("impossible status {}", head.status))?;
        let (fields, length) = header_map(&shared, n_fields)?;
        let is_impossible = match length {
            // RFC 9110 §8.6: a 204 has none; one that says 0 does no harm.
            ContentLength::Bytes(len) => len > 0 && status == StatusCode::NO_CONTENT,
            ContentLength::Absent => false,
            ContentLength::Invalid => true,
        };
        if is_impossible {
            return Err(format!("sent an impossible length with status {}", status.as_u16()));
        }
        let reason = slice(reason);
        let reason = (!reason.is_empty()).then(|| reason.into());
        Some(ResponseHead { status, reason, fields, length })
    } else {
        None
    };
    let payload = match body {
        BodyPart::Inline(range) => {
            shared.truncate(range.end - base);
            shared.advance(range.start - base);
            Payload::Bytes(shared)
        }
        BodyPart::Chunks(range) => Payload::Chunks(worker.take_chunks(slice(range))?),
        BodyPart::File { offset, len } => {
            Payload::File(FilePart::new(worker.take_file(head.exchange, notice)?, offset, len)?)
        }
    };
    Ok(ReceivedCompletion { head: response, payload, ..ReceivedCompletion::bare(head) })
}

impl ReceivedCompletion {
    fn bare(head: Completion) -> Self {
        let payload = Payload::Bytes(Bytes::new());
        Self { header: head, head: None, payload, error: None, granted: 0, fields: None }
    }
}

/// What only ASGI workers have to say.
fn decode_asgi<'b>(
    worker: &Worker,
    head: Completion,
    slice: &impl Fn(Range<usize>) -> &'b [u8],
    (n_fields, fields): (u16, Range<usize>),
    body: BodyPart,
) -> Result<ReceivedCompletion, String> {
    let BodyPart::Inline(body) = body else {
        return Err(format!("said {:?} with a body elsewhere", head.kind));
    };
    let ends = head.kind == CompletionKind::Trailers || head.kind == CompletionKind::Close;
    if !worker.is_asgi() || (head.end || head.done) && !ends {
        return Err(format!("said {:?} out of place", head.kind));
    }
    let mut received = ReceivedCompletion::bare(head);
    match head.kind {
        CompletionKind::WindowUpdate => {
            received.granted =
                frame::decode_window_update(slice(body)).map_err(|broken| broken.to_string())?;
        }
        CompletionKind::EarlyHints | CompletionKind::Trailers => {
            let shared = buffer_pool::copy(slice(fields));
            let (fields, length) = header_map(&shared, n_fields)?;
            if head.kind == CompletionKind::EarlyHints && length != ContentLength::Absent {
                return Err("sent a length with early hints".to_owned());
            }
            received.fields = Some(Box::new(fields));
        }
        CompletionKind::Close => received.payload = Payload::Bytes(Bytes::copy_from_slice(slice(body))),
        _ => {}
    }
    Ok(received)
}

/// Makes a header map of the fields at the beginning of `encoded`, whose values share it; and what they say of a length.
fn header_map(encoded: &Bytes, n_fields: u16) -> Result<(HeaderMap, ContentLength), String> {
    if n_fields > MAX_FIELDS {
        return Err(format!("sent {n_fields} header fields, more than {MAX_FIELDS}"));
    }
    // Two more than given: the connection adds `date` and `x-request-id`.
    let mut map = buffer_pool::header_map(usize::from(n_fields) + 2);
    let mut length = ContentLength::Absent;
    for (name, value) in frame::fields(encoded, n_fields) {
        let (name, role) = match name {
            FieldName::Known(index) => known_name(index),
            FieldName::Literal(name) => {
                let name = HeaderName::from_bytes(name)
                    .map_err(|_| format!("sent the field name {:?}", String::from_utf8_lossy(name)))?;
                let role = FieldRole::of(&name);
                (name, role)
            }
        };
        match role {
            FieldRole::EndToEnd => {}
            FieldRole::ContentLength => length = length.combine(value),
            FieldRole::HopByHop => return Err(format!("sent the field {name}, which is the connection's")),
        }
        let value = HeaderValue::from_maybe_shared(encoded.slice_ref(value))
            .map_err(|_| format!("sent an impossible value for the field {name}"))?;
        map.append(name, value);
    }
    Ok((map, length))
}

/// What a response's field is about.
#[derive(Debug, Clone, Copy)]
enum FieldRole {
    /// Anything else.
    EndToEnd,
    /// The length of the body.
    ContentLength,
    /// How the message is framed, or what becomes of the connection (RFC 9110 §7.6.1). A worker drops the application's,
    /// because they are the daemon's.
    HopByHop,
}

impl FieldRole {
    fn of(name: &HeaderName) -> Self {
        match name.as_str() {
            "content-length" => Self::ContentLength,
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                Self::HopByHop
            }
            _ => Self::EndToEnd,
        }
    }
}

fn known_name(index: u8) -> (HeaderName, FieldRole) {
    static NAMES: std::sync::LazyLock<Vec<(HeaderName, FieldRole)>> = std::sync::LazyLock::new(|| {
        let named = |name: &&'static str| {
            let name = HeaderName::from_static(name);
            let role = FieldRole::of(&name);
            (name, role)
        };
        rgun_channel::header::NAMES.iter().map(named).collect()
    });
    NAMES.get(usize::from(index)).cloned().unwrap_or((http::header::WARNING, FieldRole::EndToEnd))
}
