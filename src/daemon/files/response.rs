//! Builds the response to a request for a file: status, fields, and the parts of the file to send.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderValue, LAST_MODIFIED, LOCATION, VARY,
};
use http::{HeaderMap, Method, StatusCode};

use super::condition::{self, Precondition};
use super::encoding::Encoding;
use super::fault::FileFault;
use super::path::file_name;
use super::range::{self, RequestedRange};
use super::root::OpenFile;

/// A response whose body is a file, or a part of it, or nothing.
#[derive(Debug)]
pub struct FileResponse {
    /// Status code.
    pub status: StatusCode,
    /// The header fields of the response.
    pub fields: HeaderMap,
    /// The body's length in bytes as `Content-Length` declares it; `None` for a status without a
    /// body.
    pub len: Option<u64>,
    /// The body; empty for HEAD.
    pub body: FileBody,
}

/// The body of a [`FileResponse`].
#[derive(Debug)]
pub enum FileBody {
    /// No bytes.
    Empty,
    /// One range of bytes of the file.
    One(Arc<OwnedFd>, Range<u64>),
    /// Several ranges.
    Several(MultipartRanges),
}

/// The content of a `multipart/byteranges` body (RFC 9110 §14.6).
#[derive(Debug)]
pub struct MultipartRanges {
    /// The file that the parts are read from.
    pub fd: Arc<OwnedFd>,
    /// For each part, the delimiter and fields before it, and its range of bytes in the file.
    pub parts: VecDeque<(Bytes, Range<u64>)>,
    /// The last delimiter.
    pub end: Bytes,
}

/// A representation of a file, and the fields about it.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) file: OpenFile,
    /// `Content-Type`; `None` if the application has set it.
    pub(super) content_type: Option<HeaderValue>,
    /// The content coding, if the file is precompressed.
    pub(super) encoding: Option<Encoding>,
    /// `Cache-Control`.
    pub(super) cache_control: Option<HeaderValue>,
    /// The representation depends on `Accept-Encoding`.
    pub(super) varies: bool,
}

impl Representation {
    /// Answers a request with this representation. `fields` are the response's fields that the file
    /// does not determine.
    ///
    /// # Errors
    /// When a precondition fails or no range can be served.
    pub(super) fn respond(
        self,
        method: &Method,
        headers: &HeaderMap,
        mut fields: HeaderMap,
    ) -> Result<FileResponse, FileFault> {
        let validators = &self.file.known.validators;
        let is_retrieval = *method == Method::GET || *method == Method::HEAD;
        let precondition =
            if is_retrieval { condition::evaluate(headers, validators) } else { Precondition::Holds };
        if precondition == Precondition::Fails {
            return Err(FileFault::PreconditionFailed);
        }
        self.set_fields(&mut fields);
        if precondition == Precondition::NotModified {
            fields.remove(CONTENT_TYPE);
            fields.remove(CONTENT_ENCODING);
            return Ok(FileResponse {
                status: StatusCode::NOT_MODIFIED,
                fields,
                len: None,
                body: FileBody::Empty,
            });
        }
        // RFC 9110 §14.2: Range is defined only for GET.
        let requested = if *method == Method::GET && condition::range_applies(headers, validators) {
            range::requested(headers, self.file.known.state.len)
        } else {
            RequestedRange::Whole
        };
        let mut response = self.send(requested, fields)?;
        if *method == Method::HEAD {
            response.body = FileBody::Empty;
        }
        Ok(response)
    }

    fn set_fields(&self, fields: &mut HeaderMap) {
        let validators = &self.file.known.validators;
        if let Some(content_type) = &self.content_type {
            fields.insert(CONTENT_TYPE, content_type.clone());
        }
        if let Some(encoding) = self.encoding {
            fields.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.token()));
        }
        if let Some(cache_control) = &self.cache_control {
            fields.insert(CACHE_CONTROL, cache_control.clone());
        }
        if self.varies {
            fields.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        fields.insert(ETAG, validators.etag.clone());
        if let Some(modified) = validators.last_modified(SystemTime::now()) {
            fields.insert(LAST_MODIFIED, modified);
        }
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }

    fn send(self, requested: RequestedRange, mut fields: HeaderMap) -> Result<FileResponse, FileFault> {
        let OpenFile { fd, known } = self.file;
        let whole = known.state.len;
        let fd = Arc::new(fd);
        let (status, len, body) = match requested {
            RequestedRange::Unsatisfiable => return Err(FileFault::Unsatisfiable(whole)),
            RequestedRange::Whole if whole == 0 => (StatusCode::OK, 0, FileBody::Empty),
            RequestedRange::Whole => (StatusCode::OK, whole, FileBody::One(fd, 0..whole)),
            RequestedRange::One(range) => {
                fields.insert(CONTENT_RANGE, field_value(content_range(&range, whole)));
                (StatusCode::PARTIAL_CONTENT, range.end - range.start, FileBody::One(fd, range))
            }
            RequestedRange::Several(ranges) => {
                let boundary = boundary();
                let part_type = fields
                    .insert(CONTENT_TYPE, field_value(format!("multipart/byteranges; boundary={boundary}")));
                let multipart = MultipartRanges::new(fd, &ranges, whole, &boundary, part_type.as_ref());
                (StatusCode::PARTIAL_CONTENT, multipart.len(), FileBody::Several(multipart))
            }
        };
        let content_length = if len == whole { known.content_length.clone() } else { HeaderValue::from(len) };
        fields.insert(CONTENT_LENGTH, content_length);
        Ok(FileResponse { status, fields, len: Some(len), body })
    }
}

impl FileResponse {
    /// Redirects to the same path and query, with a slash after the path. The reference is relative
    /// (RFC 3986 §4.2): a proxy may have stripped the beginning of the path.
    pub(super) fn redirect(path: &[u8], query: Option<&str>) -> Option<Self> {
        let name = str::from_utf8(file_name(path)).ok()?;
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        // "./", because a name with a colon would be a scheme.
        let location = HeaderValue::try_from(format!("./{name}/{mark}{query}")).ok()?;
        let mut fields = HeaderMap::with_capacity(4);
        fields.insert(LOCATION, location);
        fields.insert(CONTENT_LENGTH, HeaderValue::from(0));
        Some(Self { status: StatusCode::MOVED_PERMANENTLY, fields, len: Some(0), body: FileBody::Empty })
    }
}

impl MultipartRanges {
    fn new(
        fd: Arc<OwnedFd>,
        ranges: &[Range<u64>],
        whole: u64,
        boundary: &str,
        content_type: Option<&HeaderValue>,
    ) -> Self {
        let mut parts = VecDeque::with_capacity(ranges.len());
        for range in ranges {
            let line_end = if parts.is_empty() { "" } else { "\r\n" };
            let mut head = format!("{line_end}--{boundary}\r\n");
            if let Some(content_type) = content_type.and_then(|value| value.to_str().ok()) {
                // Writing to a String cannot fail.
                let _infallible = write!(head, "Content-Type: {content_type}\r\n");
            }
            let _infallible = write!(head, "Content-Range: {}\r\n\r\n", content_range(range, whole));
            parts.push_back((head.into(), range.clone()));
        }
        Self { fd, parts, end: format!("\r\n--{boundary}--\r\n").into() }
    }

    /// Returns the number of bytes of the whole body.
    pub fn len(&self) -> u64 {
        let parts = self.parts.iter().map(|(head, range)| head.len() as u64 + (range.end - range.start));
        parts.sum::<u64>() + self.end.len() as u64
    }

    /// Returns true if there is no part.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

fn content_range(range: &Range<u64>, whole: u64) -> String {
    format!("bytes {}-{}/{whole}", range.start, range.end - 1)
}

fn field_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Returns a random boundary, which no author of a file can guess.
fn boundary() -> String {
    // Each `RandomState` is seeded from the system's randomness.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
