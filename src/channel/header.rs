//! Field names and methods that travel as one byte.
//!
//! The tables are part of the protocol: entries are appended, never moved (another order is a new
//! [`crate::PROTOCOL_VERSION`]). Names are lower-case, as in HTTP/2 and ASGI.

/// The index of a name that is not in the table; the name follows as bytes.
pub const LITERAL: u8 = 255;

/// Request and response field names: those of RFC 9110, and others that browsers, proxies and
/// frameworks send.
pub const NAMES: [&str; 84] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "cookie",
    "referer",
    "origin",
    "content-type",
    "content-length",
    "cache-control",
    "pragma",
    "if-none-match",
    "if-modified-since",
    "if-match",
    "if-unmodified-since",
    "if-range",
    "range",
    "authorization",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "forwarded",
    "x-request-id",
    "x-requested-with",
    "x-csrftoken",
    "x-csrf-token",
    "upgrade",
    "upgrade-insecure-requests",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
    "sec-fetch-user",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "sec-gpc",
    "dnt",
    "te",
    "trailer",
    "transfer-encoding",
    "expect",
    "via",
    "date",
    "priority",
    "traceparent",
    "tracestate",
    "baggage",
    "from",
    "max-forwards",
    "accept-charset",
    "access-control-request-method",
    "access-control-request-headers",
    "proxy-authorization",
    "content-encoding",
    "content-language",
    "content-disposition",
    "content-range",
    "content-location",
    "last-modified",
    "etag",
    "expires",
    "vary",
    "server",
    "location",
    "set-cookie",
    "allow",
    "age",
    "retry-after",
    "link",
    "www-authenticate",
    "x-frame-options",
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-opener-policy",
    "strict-transport-security",
    "accept-ranges",
];

/// Index of `x-request-id` in [`NAMES`].
pub const X_REQUEST_ID: u8 = {
    let mut index = 0;
    while !matches!(NAMES[index].as_bytes(), b"x-request-id") {
        index += 1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "fewer than 255 names")]
    {
        index as u8
    }
};

/// Methods, RFC 9110 §9 and RFC 5789. Index 0 is [`METHOD_LITERAL`].
pub const METHODS: [&str; 10] =
    ["", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Method index: the method follows as bytes.
pub const METHOD_LITERAL: u8 = 0;

/// Index of GET.
pub const METHOD_GET: u8 = 1;

/// Returns the index of a lower-case field name in [`NAMES`].
pub fn index_of(name: &[u8]) -> Option<u8> {
    let mut at = hash(name);
    loop {
        let index = TABLE[at];
        if index == LITERAL {
            return None;
        }
        if NAMES[index as usize].as_bytes() == name {
            return Some(index);
        }
        at = (at + 1) % TABLE.len();
    }
}

/// Returns the name at an index.
pub fn name_of(index: u8) -> Option<&'static str> {
    NAMES.get(index as usize).copied()
}

/// Returns the index of a method in [`METHODS`], or [`METHOD_LITERAL`].
pub fn method_index(method: &[u8]) -> u8 {
    match method {
        b"GET" => METHOD_GET,
        b"HEAD" => 2,
        b"POST" => 3,
        b"PUT" => 4,
        b"DELETE" => 5,
        b"CONNECT" => 6,
        b"OPTIONS" => 7,
        b"TRACE" => 8,
        b"PATCH" => 9,
        _ => METHOD_LITERAL,
    }
}

const fn hash(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let (first, last, middle) =
        (name[0] as usize, name[name.len() - 1] as usize, name[name.len() / 2] as usize);
    (name.len() * 29 + first * 5 + last * 17 + middle * 3) % 512
}

/// Hash table with open addressing, built at compile time. 512 entries for 84 names: most look-ups
/// compare once.
static TABLE: [u8; 512] = {
    let mut table = [LITERAL; 512];
    let mut index = 0;
    while index < NAMES.len() {
        let mut at = hash(NAMES[index].as_bytes());
        while table[at] != LITERAL {
            at = (at + 1) % 512;
        }
        #[expect(clippy::cast_possible_truncation, reason = "fewer than 255 names")]
        {
            table[at] = index as u8;
        }
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_of_inverts_name_of() {
        for (index, name) in NAMES.iter().enumerate() {
            assert_eq!(index_of(name.as_bytes()), Some(u8::try_from(index).unwrap()), "{name}");
            assert_eq!(*name, name.to_ascii_lowercase());
            assert_eq!(name_of(u8::try_from(index).unwrap()), Some(*name));
        }
    }

    #[test]
    fn unknown_name_has_no_index() {
        for name in ["", "x", "hosts", "Host", "x-custom", "content-typ"] {
            assert_eq!(index_of(name.as_bytes()), None, "{name}");
        }
        assert_eq!(name_of(LITERAL), None);
    }

    #[test]
    fn method_index_is_the_position_in_the_table() {
        for (index, method) in METHODS.iter().enumerate().skip(1) {
            assert_eq!(method_index(method.as_bytes()) as usize, index);
        }
        assert_eq!(method_index(b"PROPFIND"), METHOD_LITERAL);
    }
}
