//! What is remembered of a request: its id, its origin and its path.

use std::time::Instant;

use http::{Method, request};

use crate::net::Peer;

use super::context::{ConnContext, Server};
use super::forwarded::ProxyClaim;
use super::head;
use super::request_id::{self, RequestId};

/// What is remembered of a request while it is served. Its head is not: the fields and the target share hyper's read
/// buffer, and while they live every look for the next request's bytes would allocate another.
pub(super) struct RequestMeta {
    pub(super) id: RequestId,
    /// `None` for most: the peer is the client, and sent no id of its own.
    pub(super) origin: Option<Box<RequestOrigin>>,
    pub(super) method: Method,
    pub(super) path: SmallPath,
    /// The client understands interim answers: it speaks HTTP/1.1 (RFC 9110 §15.2).
    pub(super) accepts_interim: bool,
    /// When its head was complete.
    pub(super) received_at: Instant,
}

impl RequestMeta {
    pub(super) fn new(
        served: &ConnContext,
        parts: &request::Parts,
        seen: &head::HeaderScan<'_>,
        begun: Instant,
    ) -> Self {
        let ConnContext { server, trusts_peer, .. } = served;
        let taken_over = seen.request_id.filter(|id| *trusts_peer && request_id::is_acceptable(id));
        let foreign_id = seen.request_id.filter(|_| taken_over.is_none());
        let id = server.ids.for_request(taken_over);
        let is_forwarded = seen.is_forwarded && *trusts_peer;
        let origin = (is_forwarded || foreign_id.is_some()).then(|| {
            let ProxyClaim { client, https } = if is_forwarded {
                ProxyClaim::read(&parts.headers, &server.trusted)
            } else {
                ProxyClaim::default()
            };
            Box::new(RequestOrigin {
                client: client.map(Peer::from),
                https: https.unwrap_or(false),
                client_id: foreign_id.map(request_id::escaped),
            })
        });
        Self {
            id,
            origin,
            method: parts.method.clone(),
            path: SmallPath::new(path(parts)),
            accepts_interim: parts.version == http::Version::HTTP_11,
            received_at: begun,
        }
    }

    /// What is remembered of a request whose head was refused: nothing but its id.
    pub(super) fn for_refused_head(server: &Server, begun: Instant) -> Self {
        let id = server.ids.for_request(None);
        Self {
            id,
            origin: None,
            method: Method::GET,
            path: SmallPath::new(b""),
            accepts_interim: false,
            received_at: begun,
        }
    }

    pub(super) fn frame_meta(&self) -> FrameMeta<'_> {
        FrameMeta { id: &self.id, origin: self.origin.as_deref(), begun: self.received_at }
    }
}

/// What the fields of a request say about where it comes from.
#[derive(Debug, Clone)]
pub(super) struct RequestOrigin {
    /// The client that a trusted peer names; `None`: the peer itself.
    pub(super) client: Option<Peer>,
    /// A trusted peer says that its client used TLS.
    pub(super) https: bool,
    /// The id that the client sent, as it is logged; `None` if it has become the request's id, or there was none.
    pub(super) client_id: Option<String>,
}

/// What a request's frame says beside its head.
#[derive(Clone, Copy)]
pub(super) struct FrameMeta<'a> {
    pub(super) id: &'a RequestId,
    pub(super) origin: Option<&'a RequestOrigin>,
    /// When the head was complete.
    pub(super) begun: Instant,
}

/// A request's path, as sent. Usual ones are short enough to need no allocation.
pub(super) enum SmallPath {
    Inline([u8; MAX_INLINE_PATH], u8),
    Heap(Box<[u8]>),
}

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

/// The path as sent; `OPTIONS *` has `*` (RFC 9112 §3.2.4).
pub(super) fn path(parts: &request::Parts) -> &[u8] {
    parts.uri.path().as_bytes()
}
