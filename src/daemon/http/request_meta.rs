//! The facts about a request that outlive its head: its id, origin, method and path.

use std::sync::Arc;
use std::time::Instant;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, request};

use crate::journal::requests::AccessDetails;
use crate::journal::trace_ids::TraceIds;
use crate::negotiation::{Coding, ErrorFormat};
use crate::net::Peer;

use super::compression::policy::has_weak_tag;
use super::context::{ConnContext, Server};
use super::forwarded::{ProxyClaim, host_with_port};
use super::head;
use super::request_id::{self, RequestId};
use super::{access_details, trace_context};

/// The facts about a request that are kept until its response is complete. The head itself is not
/// kept: its fields and target share hyper's read buffer. While they live, hyper allocates another
/// buffer for each read-ahead.
pub(super) struct RequestMeta {
    pub(super) id: RequestId,
    /// `None` for most requests: those whose peer is the client, without a discarded `X-Request-ID`
    /// and without a trace, while `log.access` is off.
    pub(super) origin: Option<Box<RequestOrigin>>,
    pub(super) method: Method,
    pub(super) path: SmallPath,
    /// The request's version is HTTP/1.0.
    pub(super) is_http_10: bool,
    /// The coding in which a response may be compressed; `None` if the client accepts none, or if
    /// `[compression]` is off.
    pub(super) coding: Option<Coding>,
    /// The request names a weak entity tag in `If-None-Match`; false if `[compression]` is off.
    pub(super) has_weak_tag: bool,
    /// The format of an error response; text until the code that needs another has read `Accept`.
    pub(super) error_format: ErrorFormat,
    /// Time at which the head was complete.
    pub(super) received_at: Instant,
}

impl RequestMeta {
    pub(super) fn new(
        context: &ConnContext,
        parts: &request::Parts,
        scan: &head::HeaderScan<'_>,
        received_at: Instant,
    ) -> Self {
        let ConnContext { server, trusts_peer, reads_forwarded, .. } = context;
        let accepted_id = scan.request_id.filter(|id| *trusts_peer && request_id::is_acceptable(id));
        let discarded_id = scan.request_id.filter(|_| accepted_id.is_none());
        let id = server.ids.for_request(accepted_id);
        let is_forwarded = scan.is_forwarded && *reads_forwarded;
        let has_origin = is_forwarded || discarded_id.is_some() || scan.traceparent.is_some();
        let origin = (has_origin || server.access_log.is_some()).then(|| {
            let claim =
                if is_forwarded { server.forwarding.read(&parts.headers) } else { ProxyClaim::default() };
            let ProxyClaim { client, https, host, port, root_path } = claim;
            let details = server.access_log.as_ref().map(|settings| {
                let https = https.unwrap_or(context.is_https());
                access_details::copy(settings, context, parts, https, client.is_some())
            });
            Box::new(RequestOrigin {
                client: client.map(Peer::from),
                https,
                host,
                port,
                root_path,
                client_id: discarded_id.map(request_id::escaped),
                trace: scan.traceparent.and_then(trace_context::parse),
                details,
            })
        });
        Self {
            id,
            origin,
            method: parts.method.clone(),
            path: SmallPath::new(path(parts)),
            is_http_10: parts.version == http::Version::HTTP_10,
            coding: server.compression.as_ref().and_then(|compression| compression.choose(&parts.headers)),
            has_weak_tag: server.compression.is_some() && has_weak_tag(&parts.headers),
            error_format: ErrorFormat::Text,
            received_at,
        }
    }

    /// Returns the facts of a request whose head was refused: it has only an id, and a format for
    /// the response.
    pub(super) fn for_refused_head(server: &Server, error_format: ErrorFormat, received_at: Instant) -> Self {
        let id = server.ids.for_request(None);
        Self {
            id,
            origin: None,
            method: Method::GET,
            path: SmallPath::new(b""),
            is_http_10: false,
            coding: None,
            has_weak_tag: false,
            error_format,
            received_at,
        }
    }

    /// True if the client used TLS. The report of a trusted proxy takes precedence.
    pub(super) fn is_https(&self, context: &ConnContext) -> bool {
        self.origin.as_ref().and_then(|origin| origin.https).unwrap_or(context.is_https())
    }

    /// Returns the parts of the request's frame that do not come from its head.
    pub(super) fn frame_meta<'a>(&'a self, context: &'a ConnContext) -> FrameMeta<'a> {
        FrameMeta { id: &self.id, origin: self.origin.as_deref(), context, received_at: self.received_at }
    }
}

/// The origin of a request according to its fields.
#[derive(Debug, Clone)]
pub(super) struct RequestOrigin {
    /// The client that a trusted proxy names; `None`: the peer itself.
    pub(super) client: Option<Peer>,
    /// Whether the client used TLS, as a trusted proxy reports; `None` if no proxy says so.
    pub(super) https: Option<bool>,
    /// The host that the client asked for, as a trusted proxy reports.
    pub(super) host: Option<HeaderValue>,
    /// The port that the client connected to, as a trusted proxy reports.
    pub(super) port: Option<u16>,
    /// The path below which a trusted proxy publishes the application; `None`: `app.root_path`.
    pub(super) root_path: Option<Box<[u8]>>,
    /// The client's `X-Request-ID`, escaped for the log; `None` if it became the request's id, or
    /// none was sent.
    pub(super) client_id: Option<String>,
    /// The ids in the `traceparent` field, which any client may set.
    pub(super) trace: Option<Box<TraceIds>>,
    /// Facts for the access log; `None` unless each request is logged.
    pub(super) details: Option<Arc<AccessDetails>>,
}

impl RequestOrigin {
    /// Replaces `Host`, or its port, with the host or the port that a trusted proxy reports.
    /// `connection_https` says whether the client used TLS if no proxy reports that.
    pub(super) fn set_host(&self, headers: &mut HeaderMap, connection_https: bool) {
        let https = self.https.unwrap_or(connection_https);
        let host = match (self.port, self.host.as_ref().or(headers.get(HOST))) {
            (Some(port), Some(host)) => host_with_port(host, port, https),
            _ => self.host.clone(),
        };
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
    }
}

/// The parts of a request's frame that do not come from its head.
#[derive(Clone, Copy)]
pub(super) struct FrameMeta<'a> {
    pub(super) id: &'a RequestId,
    pub(super) origin: Option<&'a RequestOrigin>,
    pub(super) context: &'a ConnContext,
    /// Time at which the head was complete.
    pub(super) received_at: Instant,
}

/// A request's path as sent; a short one needs no allocation.
pub(super) enum SmallPath {
    Inline([u8; MAX_INLINE_PATH], u8),
    Heap(Box<[u8]>),
}

/// Maximum length in bytes of a path that needs no allocation.
const MAX_INLINE_PATH: usize = 62;

impl SmallPath {
    fn new(path: &[u8]) -> Self {
        let mut short = [0; MAX_INLINE_PATH];
        match (short.get_mut(..path.len()), u8::try_from(path.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(path);
                Self::Inline(short, len)
            }
            _ => Self::Heap(path.into()),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes, len) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }
}

/// Returns the path as sent; `*` for `OPTIONS *` (RFC 9112 §3.2.4).
pub(super) fn path(parts: &request::Parts) -> &[u8] {
    parts.uri.path().as_bytes()
}
