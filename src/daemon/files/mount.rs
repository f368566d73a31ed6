//! `[[static]]`: serves the paths with a certain prefix from a directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{HeaderMap, Method};

use crate::buffer_pool;

use super::encoding::{self, Encoding};
use super::fault::FileFault;
use super::hashed_name::is_hashed;
use super::links::Links;
use super::media_type::{MediaType, has_known_extension};
use super::notice::{FileNotice, FileNoticeSink};
use super::path::{Dotfiles, RelativePath, file_name};
use super::response::{FileResponse, Representation};
use super::root::{FoundEntry, LookupError, LookupMode, OpenFile, Root};

/// Seconds by which a precompressed file may be older than its original, because tools copy the
/// files in any order.
const MAX_VARIANT_AGE: i64 = 2;

/// The settings of one `[[static]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSettings {
    /// The prefix; begins and ends with `/`.
    pub url: String,
    /// The directory whose files are served.
    pub directory: PathBuf,
    /// The symlinks that are followed.
    pub links: Links,
    /// Names of index files, in the order in which they are tried.
    pub index: Vec<String>,
    /// The response to a path without a file.
    pub fallback: Fallback,
    /// Time for which clients may use a file without asking again; zero: they must ask each time.
    /// `None`: no `Cache-Control`.
    pub max_age: Option<Duration>,
    /// The files that never change.
    pub immutable: Immutable,
    /// Precompressed files (`.br`, `.zst`, `.gz`) are used.
    pub precompressed: bool,
}

/// The response to a path without a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fallback {
    /// A response with status 404.
    NotFound,
    /// The application's response.
    App,
    /// The file with this path below the directory: the page of a single-page application.
    File(String),
}

/// The files that never change under their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immutable {
    /// Files with a hash in their name.
    Hashed,
    /// All files.
    All,
    /// No file.
    Nothing,
}

/// A request for a file.
#[derive(Debug, Clone, Copy)]
pub struct FileRequest<'r> {
    /// The request method.
    pub method: &'r Method,
    /// The path as sent.
    pub path: &'r [u8],
    /// The query, without its `?`.
    pub query: Option<&'r str>,
    /// The header fields.
    pub headers: &'r HeaderMap,
    /// Time at which the request arrived.
    pub now: Instant,
}

/// The result of a request for a file.
#[derive(Debug)]
pub enum FileOutcome {
    /// The response for the file.
    Response(Box<FileResponse>),
    /// No file is sent.
    Refused(FileFault),
    /// The application answers.
    App,
    /// The request must be served again with [`LookupMode::Blocking`], on a blocking thread.
    NeedsDisk,
}

/// A mounted directory.
#[derive(Debug)]
pub struct Mount {
    settings: MountSettings,
    root: Root,
    /// `Cache-Control` of files that may change.
    cache_control: Option<HeaderValue>,
    /// `Cache-Control` of pages: `index` and `fallback`.
    page_cache_control: Option<HeaderValue>,
    notify: FileNoticeSink,
    /// [`FileNotice::FallbackMissing`] was sent.
    fallback_was_missing: AtomicBool,
}

/// The mounts of a server, the longest prefix first.
#[derive(Debug)]
pub struct Mounts(Box<[Mount]>);

impl Mounts {
    /// Creates the mounts. Returns `None` if there are none. A directory is opened at its first
    /// request.
    pub fn new(mut settings: Vec<MountSettings>, notify: FileNoticeSink) -> Option<Self> {
        settings.sort_by_key(|mount| std::cmp::Reverse(mount.url.len()));
        let mounts = settings.into_iter().map(|mount| Mount::new(mount, notify));
        Some(Self(mounts.collect())).filter(|mounts| !mounts.0.is_empty())
    }

    /// Returns the mount of a path and its index, or `None` if the application serves the path.
    pub fn find(&self, path: &[u8]) -> Option<(usize, &Mount)> {
        let is_below = |mount: &Mount| path.starts_with(mount.settings.url.as_bytes());
        let found = self.0.iter().enumerate().find(|(_, mount)| is_below(mount));
        // A path without the final slash of a mount may be below a shorter prefix, whose mount answers.
        found.or_else(|| self.0.iter().enumerate().find(|(_, mount)| mount.lacks_only_slash(path)))
    }

    /// Returns the mount at an index that [`Mounts::find`] returned.
    pub fn get(&self, idx: usize) -> Option<&Mount> {
        self.0.get(idx)
    }
}

impl Mount {
    fn new(settings: MountSettings, notify: FileNoticeSink) -> Self {
        let cache_control = settings.max_age.map(|max_age| match max_age.as_secs() {
            0 => HeaderValue::from_static("no-cache"),
            seconds => HeaderValue::try_from(format!("public, max-age={seconds}"))
                .unwrap_or(HeaderValue::from_static("no-cache")),
        });
        Self {
            root: Root::new(settings.directory.clone(), settings.links, notify),
            page_cache_control: cache_control.as_ref().map(|_| HeaderValue::from_static("no-cache")),
            cache_control,
            notify,
            fallback_was_missing: AtomicBool::new(false),
            settings,
        }
    }

    /// Returns true if requests for paths without a file go to the application.
    pub fn falls_back_to_app(&self) -> bool {
        self.settings.fallback == Fallback::App
    }

    /// Returns whether a path is the mount's prefix without its final slash. The path is redirected
    /// to the directory's page if there is one; else it is the application's.
    fn lacks_only_slash(&self, path: &[u8]) -> bool {
        self.settings.url.as_bytes().strip_suffix(b"/").is_some_and(|url| !url.is_empty() && url == path)
    }

    /// Answers a request for which [`Mounts::find`] has found this mount.
    pub fn serve(&self, request: &FileRequest<'_>, mode: LookupMode) -> FileOutcome {
        let lacks_slash = self.lacks_only_slash(request.path);
        if *request.method != Method::GET && *request.method != Method::HEAD {
            return match self.settings.fallback {
                Fallback::NotFound | Fallback::File(_) if !lacks_slash => {
                    FileOutcome::Refused(FileFault::Method)
                }
                _ => FileOutcome::App,
            };
        }
        let response = match self.find_file(request, mode) {
            Ok(FoundPath::File(file)) => {
                file.respond(request.method, request.headers, buffer_pool::header_map(12))
            }
            Ok(FoundPath::Redirect) => {
                FileResponse::redirect(request.path, request.query).ok_or(FileFault::NotFound)
            }
            Err(LookupError::NotFound) => match &self.settings.fallback {
                Fallback::NotFound | Fallback::File(_) if !lacks_slash => Err(FileFault::NotFound),
                _ => return FileOutcome::App,
            },
            Err(LookupError::NeedsDisk) => return FileOutcome::NeedsDisk,
            Err(error) => Err(error.into()),
        };
        match response {
            Ok(response) => FileOutcome::Response(Box::new(response)),
            Err(fault) => FileOutcome::Refused(fault),
        }
    }

    fn find_file(&self, request: &FileRequest<'_>, mode: LookupMode) -> Result<FoundPath, LookupError> {
        let below = request.path.get(self.settings.url.len()..).unwrap_or_default();
        let directory = &self.root.directory(mode, request.now)?;
        let lookup = MountLookup { mount: self, request, directory, mode };
        if self.lacks_only_slash(request.path) {
            return match self.settings.fallback {
                Fallback::File(_) => Ok(FoundPath::Redirect),
                Fallback::App | Fallback::NotFound => lookup.resolve(&RelativePath::root_without_slash()),
            };
        }
        let found = match RelativePath::decode(below, Dotfiles::Hidden) {
            Some(path) => lookup.resolve(&path),
            None => Err(LookupError::NotFound),
        };
        match (found, &self.settings.fallback) {
            (Err(LookupError::NotFound), Fallback::File(page)) if !has_known_extension(below) => {
                let found = lookup.find_page(page.as_bytes());
                if let Err(LookupError::NotFound) = found
                    && !self.fallback_was_missing.swap(true, Ordering::Relaxed)
                {
                    let MountSettings { url, directory, .. } = &self.settings;
                    (self.notify)(&FileNotice::FallbackMissing { url, page, directory });
                }
                found
            }
            (found, _) => found,
        }
    }
}

impl From<LookupError> for FileFault {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound => Self::NotFound,
            LookupError::Denied => Self::Denied,
            LookupError::Exhausted(error) => Self::Exhausted(error.to_string()),
            LookupError::Failed(error) => Self::Failed(error.to_string()),
            LookupError::NeedsDisk => Self::Failed("the lookup needs the disk".to_owned()),
        }
    }
}

/// The result of a lookup that has found something.
enum FoundPath {
    File(Box<Representation>),
    /// A directory with an index file; the request's path lacks the trailing slash.
    Redirect,
}

/// One lookup below a mount.
struct MountLookup<'l> {
    mount: &'l Mount,
    request: &'l FileRequest<'l>,
    directory: &'l OwnedFd,
    mode: LookupMode,
}

impl MountLookup<'_> {
    fn resolve(&self, path: &RelativePath) -> Result<FoundPath, LookupError> {
        match self.open(path.as_bytes(), None)? {
            FoundEntry::File(file) if !path.names_directory => self.represent_file(file, path.as_bytes()),
            FoundEntry::File(_) => Err(LookupError::NotFound),
            FoundEntry::Directory => {
                for name in &self.mount.settings.index {
                    match self.find_page(&path.join(name)) {
                        Err(LookupError::NotFound) => {}
                        Ok(_) if !path.names_directory => return Ok(FoundPath::Redirect),
                        found => return found,
                    }
                }
                Err(LookupError::NotFound)
            }
        }
    }

    /// Opens a file. `encoding` is the file's content coding, if the file is precompressed.
    fn open(&self, path: &[u8], encoding: Option<Encoding>) -> Result<FoundEntry, LookupError> {
        self.mount.root.open(self.directory.as_fd(), path, encoding, self.mode)
    }

    /// Opens the file of a page: an index or the fallback.
    fn find_page(&self, path: &[u8]) -> Result<FoundPath, LookupError> {
        let FoundEntry::File(file) = self.open(path, None)? else { return Err(LookupError::NotFound) };
        self.represent(file, path, self.mount.page_cache_control.clone())
    }

    fn represent_file(&self, file: OpenFile, path: &[u8]) -> Result<FoundPath, LookupError> {
        let is_immutable = match self.mount.settings.immutable {
            Immutable::All => true,
            Immutable::Nothing => false,
            Immutable::Hashed => is_hashed(file_name(path)),
        };
        let cache_control = if is_immutable {
            Some(HeaderValue::from_static("public, max-age=31536000, immutable"))
        } else {
            self.mount.cache_control.clone()
        };
        self.represent(file, path, cache_control)
    }

    /// Chooses between the file and its precompressed copies.
    fn represent(
        &self,
        file: OpenFile,
        path: &[u8],
        cache_control: Option<HeaderValue>,
    ) -> Result<FoundPath, LookupError> {
        let MediaType { value, is_compressible } = file.known.media_type.clone();
        let varies = self.mount.settings.precompressed && is_compressible;
        let mut chosen = (file, None);
        let encodings = varies.then(|| encoding::accepted(self.request.headers));
        for encoding in encodings.into_iter().flatten() {
            match self.open(&[path, encoding.suffix().as_bytes()].concat(), Some(encoding)) {
                Ok(FoundEntry::File(copy))
                    if copy.known.state.modified.seconds + MAX_VARIANT_AGE
                        >= chosen.0.known.state.modified.seconds =>
                {
                    chosen = (copy, Some(encoding));
                    break;
                }
                Err(LookupError::NeedsDisk) => return Err(LookupError::NeedsDisk),
                // A copy that is stale, unreadable or not a regular file is ignored.
                Ok(_) | Err(_) => {}
            }
        }
        let (file, encoding) = chosen;
        Ok(FoundPath::File(Box::new(Representation {
            file,
            content_type: Some(value),
            encoding,
            cache_control,
            varies,
        })))
    }
}
