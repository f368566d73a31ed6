//! The values of `RGUN_KIND`, by which the journal counts refused requests.
//! `packaging/doc/journal.md` lists them.

use std::fmt;

/// Defines the enum, its tokens and the list of all of them.
macro_rules! refusal_kinds {
    ($($(#[$doc:meta])* $name:ident => $token:literal,)*) => {
        /// The reason for refusing a request before it reached the application, or an error of the
        /// application that is counted in the same way.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalKind {
            $($(#[$doc])* $name,)*
        }

        impl RefusalKind {
            /// All kinds.
            pub const KINDS: &[Self] = &[$(Self::$name),*];

            /// Returns the token in the journal.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $token,)*
                }
            }
        }
    };
}

refusal_kinds! {
    /// The request line is malformed.
    BadRequestLine => "bad_request_line",
    /// The version is not HTTP/1.x.
    BadVersion => "bad_version",
    /// The method is not served.
    BadMethod => "bad_method",
    /// The target is neither a path nor a URI with a host.
    BadTarget => "bad_target",
    /// A field line is malformed, or its name is refused.
    BadField => "bad_field",
    /// The Host field is missing, repeated or malformed.
    BadHost => "bad_host",
    /// The length of the body is malformed or ambiguous.
    BadLength => "bad_length",
    /// The transfer coding is not supported.
    BadCoding => "bad_coding",
    /// A chunk or a trailer is malformed.
    BadChunk => "bad_chunk",
    /// The WebSocket handshake is malformed or of another version.
    BadHandshake => "bad_handshake",
    /// The request line is longer than `limits.request_line`.
    RequestLineTooLong => "request_line_too_long",
    /// The head is longer than `limits.header`, or a part of it is longer than a frame can hold.
    HeadTooLong => "head_too_long",
    /// There are more fields than `limits.headers`.
    TooManyFields => "too_many_fields",
    /// The body is longer than `limits.body`.
    BodyTooLong => "body_too_long",
    /// The head did not arrive within `timeouts.header`.
    SlowHead => "slow_head",
    /// A browser's request arrived while the application booted for the first time, and got a page
    /// that reloads itself.
    FirstBoot => "first_boot",
    /// The listener has TLS, and the client sent HTTP without it.
    PlainHttp => "plain_http",
    /// A restart of the daemon has lost the beginning of the request, or the connection's listener.
    LostInRestart => "lost_in_restart",
    /// The TLS handshake failed.
    TlsHandshake => "tls_handshake",
    /// An HTTP/2 connection was closed because of its frames.
    FrameFlood => "frame_flood",
    /// A connection begins with no valid PROXY header.
    BadProxyHeader => "bad_proxy_header",
    /// The PROXY header did not arrive within `timeouts.header`, or before the daemon stopped.
    SlowProxyHeader => "slow_proxy_header",
    /// The peer may not send a PROXY header.
    UntrustedProxy => "untrusted_proxy",
    /// The body did not arrive within `timeouts.body` or at `limits.body_rate`.
    SlowBody => "slow_body",
    /// The body ended too early.
    BodyTruncated => "body_truncated",
    /// There is no memory or disk for the body.
    NoRoomForBody => "no_room_for_body",
    /// The queue is full.
    QueueFull => "queue_full",
    /// The request's client already has `limits.queue_per_client` waiting requests.
    ClientQueueFull => "client_queue_full",
    /// The request would wait in the queue for longer than `timeouts.queue`.
    QueueTooSlow => "queue_too_slow",
    /// The request waited in the queue for longer than `timeouts.queue`.
    QueueTimeout => "queue_timeout",
    /// No worker can serve.
    ApplicationUnavailable => "application_unavailable",
    /// Requests with this method and path have killed workers.
    Quarantined => "quarantined",
    /// The application itself answered with a status of 500 or above. Not a refusal, but counted like
    /// one.
    ApplicationError => "application_error",
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../packaging/doc/journal.md");
    const MAN_PAGE: &str = include_str!("../../../packaging/man/rgun.8");

    #[test]
    fn kinds_are_distinct_tokens() {
        let mut tokens: Vec<&str> = RefusalKind::KINDS.iter().map(|kind| kind.as_str()).collect();
        for token in &tokens {
            assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{token}");
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), RefusalKind::KINDS.len());
    }

    #[test]
    fn documents_list_exactly_these_kinds() {
        let tokens: Vec<&str> = RefusalKind::KINDS.iter().map(|kind| kind.as_str()).collect();
        let line = DOCUMENT.lines().find(|line| line.starts_with("Values of `RGUN_KIND`")).unwrap();
        let listed: Vec<&str> = line.split('`').skip(3).step_by(2).collect();
        assert_eq!(listed, tokens, "packaging/doc/journal.md");
        let (_, list) = MAN_PAGE.split_once(".Li RGUN_KIND ,\none of\n").unwrap();
        let listed: Vec<&str> = list
            .lines()
            .map_while(|line| line.strip_prefix(".Li "))
            .map(|line| line.trim_end_matches([' ', ',', '.']))
            .collect();
        assert_eq!(listed, tokens, "packaging/man/rgun.8");
    }
}
