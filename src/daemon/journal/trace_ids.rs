//! The ids of a request's distributed trace.

/// The ids of a `traceparent` field (W3C Trace Context §3.2), as lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceIds {
    /// 32 digits.
    pub trace_id: Box<str>,
    /// 16 digits: the caller's span.
    pub parent_id: Box<str>,
}
