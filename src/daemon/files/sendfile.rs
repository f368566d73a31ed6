//! `app.sendfile_roots`: files that the application names in `X-Sendfile` or `X-Accel-Redirect`
//! instead of sending them.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, StatusCode};

use super::links::Links;
use super::mount::FileOutcome;
use super::notice::FileNoticeSink;
use super::path::{Dotfiles, RelativePath};
use super::response::Representation;
use super::root::{FoundEntry, LookupError, LookupMode, Root};

/// The path of a file (Apache, lighttpd).
const X_SENDFILE: HeaderName = HeaderName::from_static("x-sendfile");
/// A path of a URL, percent-encoded (nginx).
const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// The application's fields about its own body, which does not reach the client.
const REPLACED_FIELDS: [HeaderName; 6] =
    [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, ETAG, LAST_MODIFIED, TRANSFER_ENCODING];
/// The application's instructions for the server in front of it.
const SERVER_FIELDS: [&str; 6] = [
    "x-sendfile",
    "x-accel-redirect",
    "x-accel-buffering",
    "x-accel-charset",
    "x-accel-expires",
    "x-accel-limit-rate",
];

/// One directory of `app.sendfile_roots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendfileRoot {
    /// The prefix of `X-Accel-Redirect` for this directory; begins and ends with `/`. `None`:
    /// `X-Sendfile` only.
    pub url: Option<String>,
    /// The directory whose files the application may name.
    pub directory: PathBuf,
}

/// The directories from which the application may send files.
#[derive(Debug)]
pub struct SendfileRoots(Box<[(Option<String>, Root)]>);

/// A file that the application names.
#[derive(Debug)]
pub struct SendfileRequest {
    root: usize,
    /// The path below the root.
    path: Vec<u8>,
    method: Method,
    /// The request's fields for ranges and preconditions.
    conditions: HeaderMap,
    status: StatusCode,
    /// The application's fields that are kept.
    fields: HeaderMap,
    now: Instant,
}

/// Whether a response of the application names a file.
#[derive(Debug)]
pub enum SendfileTarget {
    /// The response names no file.
    Absent,
    /// The response names this file.
    File(Box<SendfileRequest>),
    /// The response names a file outside of the roots: the field's value.
    Outside(String),
}

/// The request that the application answered.
#[derive(Debug)]
pub struct SentFor {
    /// The request method.
    pub method: Method,
    /// The request's fields for ranges and preconditions.
    pub conditions: HeaderMap,
    /// The current time.
    pub now: Instant,
}

impl SendfileRoots {
    /// Creates the roots. Returns `None` if there are none. A directory is opened when a file in it
    /// is first sent.
    pub fn new(mut roots: Vec<SendfileRoot>, notify: FileNoticeSink) -> Option<Self> {
        // The longest first, so that a directory is found before the directory that contains it.
        roots.sort_by_key(|root| {
            std::cmp::Reverse((root.url.as_ref().map(String::len), root.directory.as_os_str().len()))
        });
        let roots: Box<[_]> = roots
            .into_iter()
            .map(|root| (root.url, Root::new(root.directory, Links::Inside, notify)))
            .collect();
        Some(Self(roots)).filter(|roots| !roots.0.is_empty())
    }

    /// Returns the file that a response of the application names. If there is one, the response's
    /// fields are moved into the result.
    pub fn target(&self, status: StatusCode, fields: &mut HeaderMap, request: SentFor) -> SendfileTarget {
        let accel = fields.get(X_ACCEL_REDIRECT).filter(|_| self.0.iter().any(|(url, _)| url.is_some()));
        let (value, found) = match (accel, fields.get(X_SENDFILE)) {
            (Some(uri), _) => (uri, self.find_uri(uri.as_bytes())),
            (None, Some(path)) => (path, self.find_path(path.as_bytes())),
            (None, None) => return SendfileTarget::Absent,
        };
        let Some((root, path)) = found else {
            return SendfileTarget::Outside(value.as_bytes().escape_ascii().to_string());
        };
        let mut fields = std::mem::take(fields);
        for name in REPLACED_FIELDS {
            fields.remove(name);
        }
        for name in SERVER_FIELDS {
            fields.remove(name);
        }
        let SentFor { method, conditions, now } = request;
        SendfileTarget::File(Box::new(SendfileRequest {
            root,
            path,
            method,
            conditions,
            status,
            fields,
            now,
        }))
    }

    fn find_uri(&self, uri: &[u8]) -> Option<(usize, Vec<u8>)> {
        let path = uri.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        self.0.iter().enumerate().find_map(|(idx, (url, _))| {
            let below = path.strip_prefix(url.as_ref()?.as_bytes())?;
            Some((idx, RelativePath::decode(below, Dotfiles::Served)?.as_bytes().to_vec()))
        })
    }

    fn find_path(&self, path: &[u8]) -> Option<(usize, Vec<u8>)> {
        self.0.iter().enumerate().find_map(|(idx, (_, root))| {
            let below = path.strip_prefix(root.path().as_os_str().as_bytes())?;
            // The root's path ends with a slash only if it is `/`.
            let below = if root.path().as_os_str() == "/" { below } else { below.strip_prefix(b"/")? };
            let is_plain = below
                .split(|byte| *byte == b'/')
                .all(|segment| !matches!(segment, b"" | b"." | b"..") && !segment.contains(&0));
            is_plain.then(|| (idx, below.to_vec()))
        })
    }

    /// Answers with the file.
    pub fn serve(&self, request: &SendfileRequest, mode: LookupMode) -> FileOutcome {
        let file = match self.open(request, mode) {
            Ok(file) => file,
            Err(LookupError::NeedsDisk) => return FileOutcome::NeedsDisk,
            Err(error) => return FileOutcome::Refused(error.into()),
        };
        // Some frameworks evaluate Range themselves, and answer 206 although they send no body.
        let is_200_or_206 = matches!(request.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
        let no_conditions = HeaderMap::new();
        let conditions = if is_200_or_206 { &request.conditions } else { &no_conditions };
        match file.respond(&request.method, conditions, request.fields.clone()) {
            Ok(mut response) => {
                if !is_200_or_206 {
                    response.status = request.status;
                }
                FileOutcome::Response(Box::new(response))
            }
            Err(fault) => FileOutcome::Refused(fault),
        }
    }

    fn open(&self, request: &SendfileRequest, mode: LookupMode) -> Result<Representation, LookupError> {
        let SendfileRequest { root, path, fields, now, .. } = request;
        let (_, root) = self.0.get(*root).ok_or(LookupError::NotFound)?;
        let directory = root.directory(mode, *now)?;
        let FoundEntry::File(file) = root.open(directory.as_fd(), path, None, mode)? else {
            return Err(LookupError::NotFound);
        };
        let content_type = (!fields.contains_key(CONTENT_TYPE)).then(|| file.known.media_type.value.clone());
        Ok(Representation { file, content_type, encoding: None, cache_control: None, varies: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn roots() -> SendfileRoots {
        let root = |url: Option<&str>, directory: &str| SendfileRoot {
            url: url.map(str::to_owned),
            directory: PathBuf::from(directory),
        };
        SendfileRoots::new(
            vec![
                root(Some("/protected/"), "/srv/media"),
                root(Some("/protected/reports/"), "/srv/reports"),
                root(None, "/srv/plain"),
            ],
            |_| (),
        )
        .unwrap()
    }

    fn target(name: &'static str, value: &[u8]) -> Result<(String, String), String> {
        let roots = roots();
        let mut fields = HeaderMap::new();
        fields.insert(name, HeaderValue::from_bytes(value).unwrap());
        let request = SentFor { method: Method::GET, conditions: HeaderMap::new(), now: Instant::now() };
        match roots.target(StatusCode::OK, &mut fields, request) {
            SendfileTarget::Absent => Err("absent".to_owned()),
            SendfileTarget::Outside(value) => Err(value),
            SendfileTarget::File(file) => {
                assert!(file.fields.is_empty());
                let root = roots.0[file.root].1.path().display().to_string();
                Ok((root, String::from_utf8(file.path).unwrap()))
            }
        }
    }

    #[test]
    fn values_name_a_file_below_a_root() {
        for (name, value, root, path) in [
            ("x-accel-redirect", "/protected/a/b%20c.pdf?x=1", "/srv/media", "a/b c.pdf"),
            ("x-accel-redirect", "/protected/reports/1.pdf", "/srv/reports", "1.pdf"),
            ("x-accel-redirect", "/protected/.thumbs/1.png", "/srv/media", ".thumbs/1.png"),
            ("x-sendfile", "/srv/media/a b%20c.pdf", "/srv/media", "a b%20c.pdf"),
            ("x-sendfile", "/srv/plain/x", "/srv/plain", "x"),
        ] {
            assert_eq!(target(name, value.as_bytes()), Ok((root.to_owned(), path.to_owned())), "{value}");
        }
    }

    #[test]
    fn values_outside_of_the_roots_are_refused() {
        for (name, value) in [
            ("x-accel-redirect", "/other/a"),
            ("x-accel-redirect", "/protected"),
            ("x-accel-redirect", "/protected/../../etc/passwd"),
            ("x-accel-redirect", "/protected/%2e%2e/x"),
            ("x-accel-redirect", "/protected//etc/passwd"),
            ("x-accel-redirect", ""),
            ("x-sendfile", "/etc/passwd"),
            ("x-sendfile", "/srv/media"),
            ("x-sendfile", "/srv/media2/x"),
            ("x-sendfile", "/srv/media/../secret"),
            ("x-sendfile", "/srv/media//x"),
            ("x-sendfile", "srv/media/x"),
            ("x-sendfile", "/protected/x"),
            ("x-sendfile", ""),
        ] {
            assert_eq!(target(name, value.as_bytes()), Err(value.to_owned()), "{value}");
        }
        assert_eq!(target("x-other", b"/srv/media/x"), Err("absent".to_owned()));
    }

    #[test]
    fn x_accel_redirect_without_prefixes_is_left_unchanged() {
        let roots =
            SendfileRoots::new(vec![SendfileRoot { url: None, directory: "/srv".into() }], |_| ()).unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("x-accel-redirect", HeaderValue::from_static("/protected/x"));
        let request = SentFor { method: Method::GET, conditions: HeaderMap::new(), now: Instant::now() };
        assert!(matches!(roots.target(StatusCode::OK, &mut fields, request), SendfileTarget::Absent));
        assert!(fields.contains_key("x-accel-redirect"));
    }
}
