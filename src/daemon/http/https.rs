//! `http.redirect_to_https` and `http.hsts`: redirects clients to HTTPS, and makes browsers use
//! only HTTPS.

use http::header::{HOST, HeaderMap, HeaderName};
use http::{HeaderValue, request};

use super::fault::{Refusal, RequestFault};

/// The two settings. `Server` has no policy if both are off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsPolicy {
    /// `http.redirect_to_https`.
    redirect: bool,
    /// `http.hsts`.
    hsts: Option<HeaderValue>,
}

/// The field that HSTS defines (RFC 6797 §6.1).
const STRICT_TRANSPORT_SECURITY: HeaderName = HeaderName::from_static("strict-transport-security");

/// The path at which certificate authorities request their challenge (RFC 8555 §8.3). The server
/// may not have a valid certificate yet, so these requests are not redirected.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

impl HttpsPolicy {
    /// Creates the settings. Returns `None` if both are off, so that a request then costs one
    /// comparison.
    pub fn new(redirect: bool, hsts: Option<&str>) -> Option<Box<Self>> {
        // The configuration has checked the value's characters.
        let hsts = hsts.and_then(|value| HeaderValue::from_str(value).ok());
        (redirect || hsts.is_some()).then(|| Box::new(Self { redirect, hsts }))
    }

    /// Refuses a request that came without TLS. The refusal is a redirect to HTTPS.
    pub(super) fn check(&self, parts: &request::Parts, is_https: bool) -> Result<(), Refusal> {
        if !self.redirect || is_https || is_acme_challenge(parts.uri.path()) {
            return Ok(());
        }
        // An HTTP/1.0 request may have no Host field.
        let missing = Refusal::Client(RequestFault::NoHost);
        Err(location(parts).map_or(missing, Refusal::HttpsRedirect))
    }

    /// Returns the value of `Strict-Transport-Security` for a response; `None` without TLS (RFC
    /// 6797 §7.2).
    pub(super) fn hsts(&self, is_https: bool) -> Option<HeaderValue> {
        self.hsts.clone().filter(|_| is_https)
    }
}

/// True for the path of a challenge: the prefix and one token, in base64url (RFC 8555 §8.1).
/// Anything longer could name another page, for example with `..`.
fn is_acme_challenge(path: &str) -> bool {
    path.strip_prefix(ACME_CHALLENGE).is_some_and(|token| {
        !token.is_empty()
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

/// Sets `Strict-Transport-Security`, unless the application has set it.
pub(super) fn set_hsts(headers: &mut HeaderMap, hsts: Option<HeaderValue>) {
    if let Some(value) = hsts
        && !headers.contains_key(&STRICT_TRANSPORT_SECURITY)
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
}

/// Returns the request's URL with the scheme `https` and without a port: the request's port serves
/// plain HTTP.
fn location(parts: &request::Parts) -> Option<HeaderValue> {
    let host = parts.headers.get(HOST)?.as_bytes();
    let bracket = host.iter().rposition(|byte| *byte == b']');
    let colon =
        host.iter().rposition(|byte| *byte == b':').filter(|colon| bracket.is_none_or(|at| *colon > at));
    let host = host.get(..colon.unwrap_or(host.len())).filter(|host| !host.is_empty())?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = if target.starts_with('/') { target } else { "/" };
    HeaderValue::from_bytes(&[b"https://", host, target.as_bytes()].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, host: Option<&str>, is_https: bool) -> Option<String> {
        let mut request = http::Request::builder().uri(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let policy = HttpsPolicy::new(true, None).unwrap();
        policy.check(&parts, is_https).err().map(|refusal| match refusal {
            Refusal::HttpsRedirect(location) => location.to_str().unwrap().to_owned(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn plain_request_is_redirected_to_the_same_url() {
        for (target, host, location) in [
            ("/a%20b?q=1", "example.org", "https://example.org/a%20b?q=1"),
            ("/", "example.org:8080", "https://example.org/"),
            ("//evil.test/x", "example.org", "https://example.org//evil.test/x"),
            ("/", "[2001:db8::1]:80", "https://[2001:db8::1]/"),
            ("/", "[2001:db8::1]", "https://[2001:db8::1]/"),
            ("*", "example.org", "https://example.org/"),
        ] {
            assert_eq!(check(target, Some(host), false).as_deref(), Some(location), "{target} {host}");
        }
        assert_eq!(check("/", None, false).as_deref(), Some("Client(NoHost)"));
        assert_eq!(check("/", Some(":80"), false).as_deref(), Some("Client(NoHost)"));
    }

    #[test]
    fn https_and_acme_challenges_are_not_redirected() {
        assert_eq!(check("/", Some("example.org"), true), None);
        assert_eq!(check("/.well-known/acme-challenge/token", Some("example.org"), false), None);
        for path in ["", "/", "/../../secret", "/%2e%2e/%2e%2e/secret", "/a/../b", "/.", "/token/"] {
            let target = format!("/.well-known/acme-challenge{path}");
            assert!(check(&target, Some("example.org"), false).is_some(), "{path}");
        }
        assert_eq!(HttpsPolicy::new(false, None), None);
    }

    #[test]
    fn hsts_of_the_application_is_kept() {
        let configured = || Some(HeaderValue::from_static("max-age=60"));
        let mut headers = HeaderMap::new();
        set_hsts(&mut headers, configured());
        assert_eq!(headers[&STRICT_TRANSPORT_SECURITY], "max-age=60");
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=0"));
        set_hsts(&mut headers, configured());
        assert_eq!(headers[&STRICT_TRANSPORT_SECURITY], "max-age=0");
    }
}
