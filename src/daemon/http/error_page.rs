//! The bodies of the daemon's own error responses, in the format that the client prefers; the
//! operator's pages (`[errors]`) replace the HTML ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::negotiation::ErrorFormat;

use super::fault::ErrorResponse;

/// `[errors]`: HTML pages that replace the daemon's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// The pages for single statuses.
    pub statuses: BTreeMap<u16, Bytes>,
    /// The page for all other statuses from 400 to 499.
    pub client_errors: Option<Bytes>,
    /// The page for all other statuses from 500 to 599.
    pub server_errors: Option<Bytes>,
}

impl ErrorPages {
    /// Returns the page for a status.
    fn page(&self, status: StatusCode) -> Option<&Bytes> {
        let class = if status.is_client_error() { &self.client_errors } else { &self.server_errors };
        self.statuses.get(&status.as_u16()).or(class.as_ref())
    }
}

/// Renders a response. Returns its content type and its body.
pub(super) fn render(
    error: &ErrorResponse,
    request_id: &str,
    format: ErrorFormat,
    pages: Option<&ErrorPages>,
) -> (HeaderValue, Bytes) {
    let title = error.status.canonical_reason().unwrap_or_default();
    let status = error.status.as_u16();
    let (content_type, body) = match format {
        ErrorFormat::Text => (
            "text/plain; charset=utf-8",
            format!("{status} {title}\n{}\nrequest id: {request_id}\n", error.reason),
        ),
        ErrorFormat::Json => ("application/problem+json", problem(error, title, request_id)),
        ErrorFormat::Html => {
            let content_type = HeaderValue::from_static("text/html; charset=utf-8");
            let pages = pages.filter(|_| error.traceback.is_none());
            return match pages.and_then(|pages| pages.page(error.status)) {
                Some(page) => (content_type, page.clone()),
                None => (content_type, html(error, title, request_id).into()),
            };
        }
    };
    (HeaderValue::from_static(content_type), body.into())
}

/// Renders an error as a problem object (RFC 9457), to which `request_id` is added as an extension
/// member.
fn problem(error: &ErrorResponse, title: &str, request_id: &str) -> String {
    format!(
        "{{\"type\":\"about:blank\",\"title\":{},\"status\":{},\"detail\":{},\"request_id\":{}}}\n",
        json_string(title),
        error.status.as_u16(),
        json_string(&error.reason),
        json_string(request_id),
    )
}

/// Returns text as a quoted JSON string (RFC 8259 §7).
fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                // Writing to a String cannot fail.
                let _infallible = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn html(error: &ErrorResponse, title: &str, request_id: &str) -> String {
    let status = error.status.as_u16();
    let (title, reason, id) = (escape_html(title), escape_html(&error.reason), escape_html(request_id));
    let traceback = match &error.traceback {
        Some(text) => format!("<pre>{}</pre>\n", escape_html(text.trim_end())),
        None => String::new(),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{status} {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{status} {title}</h1>\n\
         <p>{reason}</p>\n{traceback}<p><small>request id: {id}</small></p>\n</body>\n</html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark}\
                     body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:15vh auto;padding:0 1rem}\
                     h1{font-size:1.5rem}small{opacity:.6}pre{overflow-x:auto}";

/// Escapes text for an element's content and for attributes.
fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostile() -> ErrorResponse {
        ErrorResponse {
            status: StatusCode::BAD_REQUEST,
            reason: "<script>alert(\"1\" & '2')</script>\n".to_owned(),
            retry_after: None,
            refresh: false,
            traceback: None,
        }
    }

    fn body(format: ErrorFormat, pages: Option<&ErrorPages>) -> String {
        let (_, body) = render(&hostile(), "a\"<b>\\", format, pages);
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn html_escapes_everything() {
        let page = body(ErrorFormat::Html, None);
        assert!(
            page.contains("&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;"),
            "{page}"
        );
        assert!(page.contains("a&quot;&lt;b&gt;\\"), "{page}");
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
    }

    #[test]
    fn traceback_is_escaped_and_no_page_replaces_it() {
        let traceback = Some("File \"<string>\", line 1\n".to_owned());
        let error = ErrorResponse { traceback, ..hostile() };
        let pages = ErrorPages { client_errors: Some("class".into()), ..ErrorPages::default() };
        let (_, body) = render(&error, "a", ErrorFormat::Html, Some(&pages));
        let page = String::from_utf8(body.to_vec()).unwrap();
        assert!(page.contains("<pre>File &quot;&lt;string&gt;&quot;, line 1</pre>"), "{page}");
    }

    #[test]
    fn json_escapes_quotes_and_control_characters() {
        let problem = body(ErrorFormat::Json, None);
        assert!(problem.contains(r#""detail":"<script>alert(\"1\" & '2')</script>\u000a""#), "{problem}");
        assert!(problem.contains(r#""request_id":"a\"<b>\\""#), "{problem}");
        assert!(problem.contains(r#""status":400"#), "{problem}");
    }

    #[test]
    fn page_of_a_status_overrides_the_page_of_its_class() {
        let page = |text: &'static str| Bytes::from_static(text.as_bytes());
        let mut pages = ErrorPages { client_errors: Some(page("class")), ..ErrorPages::default() };
        assert_eq!(body(ErrorFormat::Html, Some(&pages)), "class");
        pages.statuses.insert(400, page("status"));
        assert_eq!(body(ErrorFormat::Html, Some(&pages)), "status");
        assert!(body(ErrorFormat::Text, Some(&pages)).starts_with("400 Bad Request\n"), "only for browsers");
        let pages = ErrorPages { server_errors: Some(page("other")), ..ErrorPages::default() };
        assert!(body(ErrorFormat::Html, Some(&pages)).starts_with("<!doctype html>"));
    }
}
