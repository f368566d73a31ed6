//! What bounds a message's head, and why a message is refused.

/// What bounds a head. Units: bytes, except for the number of fields.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct HeadLimits {
    /// `limits.request_line`.
    pub(in crate::http) request_line: usize,
    /// `limits.header`: all fields together, with their line ends; of a chunked body's trailers too.
    pub(in crate::http) fields: usize,
    /// `limits.headers`.
    pub(in crate::http) n_fields: usize,
}

/// Why a message is refused. `fault` has the status code of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The request line is malformed.
    RequestLine(&'static str),
    /// A version of HTTP other than 1.x.
    Version,
    /// `limits.request_line`.
    RequestLineTooLong,
    /// A field's line is malformed.
    Field(&'static str),
    /// `limits.header`.
    FieldsTooLong,
    /// `limits.headers`.
    TooManyFields,
    /// The value of Host names no host.
    Host,
    /// The length of the body is malformed, or stated twice.
    Length(&'static str),
    /// The body is longer than any that could be served.
    BodyTooLong,
    /// The transfer coding ends with `chunked` and has another below it.
    Coding,
    /// A chunked body, or its trailers, are malformed.
    Chunk(&'static str),
    /// The head took longer than `timeouts.header`.
    SlowHead,
}
