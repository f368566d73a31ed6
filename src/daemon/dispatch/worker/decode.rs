//! Decodes completions: checks them and moves them out of shared memory.
//!
//! The worker is not trusted: a completion that is malformed is a [`ContractBreach`].

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
use crate::dispatch::worker::contract::ContractBreach;

/// A decoded completion, which owns its bytes.
#[derive(Debug)]
pub(crate) struct ReceivedCompletion {
    pub(crate) header: Completion,
    /// The head of a [`CompletionKind::Respond`].
    pub(crate) head: Option<Box<ResponseHead>>,
    pub(crate) payload: Payload,
    /// Summary and traceback of an [`CompletionKind::AppRaised`].
    pub(crate) error: Option<Box<(String, String)>>,
    /// The credit of a [`CompletionKind::WindowUpdate`].
    pub(crate) granted: u64,
    /// The fields of [`CompletionKind::EarlyHints`] and [`CompletionKind::Trailers`].
    pub(crate) fields: Option<Box<HeaderMap>>,
}

/// Decodes a completion frame that was copied out of the ring.
pub(crate) fn decode(
    worker: &mut Worker,
    bytes: &[u8],
    notice: &NoticeSink,
) -> Result<ReceivedCompletion, ContractBreach> {
    let DecodedCompletion { head: header, reason, n_fields, fields, body } = Completion::decode(bytes)?;
    let n_slots = worker.channel.n_map_slots();
    if usize::from(header.slot) >= n_slots {
        return Err(format!("used slot {} of {n_slots}", header.slot).into());
    }
    let slice = |range: Range<usize>| bytes.get(range).unwrap_or_default();
    if header.kind == CompletionKind::AppRaised {
        let BodyPart::Inline(range) = body else {
            return Err("sent AppRaised with its error in the slab or in a file".into());
        };
        let error = AppError::decode(slice(range))?;
        let error = Some(Box::new((error.summary.to_owned(), error.traceback.to_owned())));
        return Ok(ReceivedCompletion { error, ..ReceivedCompletion::bare(header) });
    }
    if !matches!(header.kind, CompletionKind::Respond | CompletionKind::Body) {
        return decode_asgi(worker, header, &slice, (n_fields, fields), body);
    }
    // One copy holds the field values and an inline body; head and payload share it.
    let mut shared = buffer_pool::copy(slice(fields.start..bytes.len()));
    let base = fields.start;
    let head = match header.kind {
        CompletionKind::Respond => Some(decode_head(header.status, slice(reason), &shared, n_fields)?),
        _ => None,
    };
    let payload = match body {
        BodyPart::Inline(range) => {
            shared.truncate(range.end - base);
            shared.advance(range.start - base);
            Payload::Bytes(shared)
        }
        BodyPart::Chunks(range) => Payload::Chunks(worker.channel.take_chunks(slice(range))?),
        BodyPart::File { offset, len } => {
            let fd = worker.take_file(header.exchange, notice)?;
            Payload::File(Box::new(FilePart::new(fd, offset, len)?))
        }
    };
    Ok(ReceivedCompletion { head, payload, ..ReceivedCompletion::bare(header) })
}

fn decode_head(
    status: u16,
    reason: &[u8],
    encoded_fields: &Bytes,
    n_fields: u16,
) -> Result<Box<ResponseHead>, ContractBreach> {
    let status = StatusCode::from_u16(status).map_err(|_| format!("sent the invalid status {status}"))?;
    let (fields, length) = header_map(encoded_fields, n_fields)?;
    let is_impossible = match length {
        // RFC 9110 §8.6: a 204 must not have a Content-Length; the value 0 is harmless.
        ContentLength::Bytes(len) => len > 0 && status == StatusCode::NO_CONTENT,
        ContentLength::Absent => false,
        ContentLength::Invalid => true,
    };
    if is_impossible {
        return Err(format!("sent an invalid Content-Length with status {}", status.as_u16()).into());
    }
    let reason = (!reason.is_empty()).then(|| reason.into());
    Ok(ResponseHead { status, reason, fields, length }.into_box())
}

impl ReceivedCompletion {
    /// Makes a completion that has only a header.
    fn bare(header: Completion) -> Self {
        let payload = Payload::Bytes(Bytes::new());
        Self { header, head: None, payload, error: None, granted: 0, fields: None }
    }
}

/// Decodes the kinds that only ASGI workers send, and early hints.
fn decode_asgi<'b>(
    worker: &Worker,
    header: Completion,
    slice: &impl Fn(Range<usize>) -> &'b [u8],
    (n_fields, fields): (u16, Range<usize>),
    body: BodyPart,
) -> Result<ReceivedCompletion, ContractBreach> {
    let BodyPart::Inline(body) = body else {
        return Err(format!("sent {:?} with a body in the slab or in a file", header.kind).into());
    };
    let may_end = header.kind == CompletionKind::Trailers || header.kind == CompletionKind::Close;
    let is_allowed = worker.is_asgi() || header.kind == CompletionKind::EarlyHints;
    if !is_allowed || (header.end || header.done) && !may_end {
        return Err(
            format!("sent {:?}, which its interface or this exchange does not allow", header.kind).into()
        );
    }
    let mut received = ReceivedCompletion::bare(header);
    match header.kind {
        CompletionKind::WindowUpdate => {
            received.granted = frame::decode_window_update(slice(body))?;
        }
        CompletionKind::EarlyHints | CompletionKind::Trailers => {
            let shared = buffer_pool::copy(slice(fields));
            let (fields, length) = header_map(&shared, n_fields)?;
            if header.kind == CompletionKind::EarlyHints && length != ContentLength::Absent {
                return Err("sent a Content-Length with early hints".into());
            }
            received.fields = Some(Box::new(fields));
        }
        CompletionKind::Close => received.payload = Payload::Bytes(Bytes::copy_from_slice(slice(body))),
        _ => {}
    }
    Ok(received)
}

/// Makes a header map of the fields at the beginning of `encoded`, and reads the Content-Length
/// among them. The map's values share the memory of `encoded`.
fn header_map(encoded: &Bytes, n_fields: u16) -> Result<(HeaderMap, ContentLength), ContractBreach> {
    if n_fields > MAX_FIELDS {
        return Err(format!("sent {n_fields} header fields, more than {MAX_FIELDS}").into());
    }
    // Room for two more: the connection adds `date` and `x-request-id`.
    let mut map = buffer_pool::header_map(usize::from(n_fields) + 2);
    let mut length = ContentLength::Absent;
    for (name, value) in frame::fields(encoded, n_fields) {
        let (name, role) = match name {
            FieldName::Known(index) => known_name(index),
            FieldName::Literal(name) => {
                let name = HeaderName::from_bytes(name).map_err(|_| {
                    format!("sent the invalid field name {:?}", String::from_utf8_lossy(name))
                })?;
                let role = FieldRole::of(&name);
                (name, role)
            }
        };
        match role {
            FieldRole::EndToEnd => {}
            FieldRole::ContentLength => length = length.combine(value),
            FieldRole::HopByHop => {
                return Err(format!("sent the hop-by-hop field {name}").into());
            }
        }
        let value = HeaderValue::from_maybe_shared(encoded.slice_ref(value))
            .map_err(|_| format!("sent an invalid value of the field {name}"))?;
        map.append(name, value);
    }
    Ok((map, length))
}

/// The daemon's treatment of a response's field.
#[derive(Debug, Clone, Copy)]
enum FieldRole {
    /// Passed on unread.
    EndToEnd,
    /// Content-Length, checked against the body.
    ContentLength,
    /// Message framing or connection management (RFC 9110 §7.6.1), which is the daemon's task: a
    /// correct worker sends no such fields.
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
