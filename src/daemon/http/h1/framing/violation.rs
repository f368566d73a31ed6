//! The limits of a head, and the reasons for which a message is refused.

/// Limits of a head.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct HeadLimits {
    /// `limits.request_line`: bytes of the request line.
    pub(in crate::http) request_line: usize,
    /// `limits.header`: bytes of all fields with their line ends. Trailers have the same limit.
    pub(in crate::http) fields: usize,
    /// `limits.headers`: number of fields.
    pub(in crate::http) n_fields: usize,
}

/// The reason why a message is refused. `http::fault` maps it to a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The request line is malformed.
    RequestLine(&'static str),
    /// The HTTP version is not 1.x.
    Version,
    /// The client speaks HTTP/2 (RFC 9113 §3.4), which `http.http2` has switched off.
    Http2Off,
    /// The request line exceeds `limits.request_line`.
    RequestLineTooLong,
    /// A field's line is malformed.
    Field(&'static str),
    /// The fields exceed `limits.header`.
    FieldsTooLong,
    /// There are more fields than `limits.headers`.
    TooManyFields,
    /// The value of Host is not a valid host.
    Host,
    /// The length of the body is malformed, or declared twice.
    Length(&'static str),
    /// The declared length exceeds hyper's maximum.
    BodyTooLong,
    /// `Transfer-Encoding` has another coding before the final `chunked`.
    Coding,
    /// A chunked body or its trailer section is malformed.
    Chunk(&'static str),
    /// The head took longer than `timeouts.header`.
    SlowHead,
    /// The listener has TLS, and the client sent HTTP without it.
    PlainHttp,
    /// A restart of the daemon has lost the beginning of the request, or the connection's listener.
    LostInRestart,
}
