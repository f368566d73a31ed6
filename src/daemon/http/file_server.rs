//! Serves files: those of `[[static]]`, and those that the application names
//! (`app.sendfile_roots`).
//!
//! A file whose path is in the kernel's cache is found at once, on the reactor. Any other lookup
//! runs on a blocking thread. No worker is needed for a static file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, request};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::buffer_pool;
use crate::dispatch::AppResponse;
use crate::files::{
    FileFault, FileNotice, FileOutcome, FileRequest, FileResponse, LookupMode, MountSettings, Mounts,
    SendfileRequest, SendfileRoot, SendfileRoots, SendfileTarget, SentFor,
};
use crate::id::WorkerId;

use super::fault::Refusal;

/// Maximum number of blocking lookups at a time; a dead network disk must not occupy all blocking
/// threads.
const MAX_BLOCKING_LOOKUPS: usize = 128;

/// Maximum number of blocking lookups at a time in one mount, or in all of `app.sendfile_roots`.
const MAX_LOOKUPS_OF_ONE: usize = 32;

/// Maximum time of a lookup that waits for a disk, including its wait for a thread; after this time
/// the response is 503.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// The request's fields that decide whether a file is sent, and which part.
const CONDITIONS: [HeaderName; 6] =
    [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];

/// The settings about files.
#[derive(Debug, Clone, Default)]
pub struct FileSettings {
    /// `[[static]]`.
    pub mounts: Vec<MountSettings>,
    /// `app.sendfile_roots`.
    pub sendfile_roots: Vec<SendfileRoot>,
}

/// The directories from which files are sent.
#[derive(Debug)]
pub(super) struct FileServer {
    pub(super) mounts: Option<Mounts>,
    pub(super) sendfile: Option<SendfileRoots>,
    /// The blocking lookups that may run: those of each mount, then those of `sendfile`. A dead disk
    /// below one mount does not delay the lookups of another.
    lookups: Box<[Arc<Semaphore>]>,
}

/// A response with a file, and its origin.
#[derive(Debug)]
pub(super) struct ServedFile {
    pub(super) response: FileResponse,
    /// The worker whose application named the file; `None` for a static file.
    pub(super) worker: Option<WorkerId>,
    /// Time for which the request waited for that worker.
    pub(super) waited: Duration,
    /// The request has a body, which is not read.
    pub(super) leaves_input_unread: bool,
}

/// The result of a lookup.
pub(super) enum FileOrApp {
    /// The file server answers the request, with a file or without a body.
    File(FileResponse),
    /// The application answers the request with this head.
    App(request::Parts),
}

impl ServedFile {
    /// Creates a response with a static file. `leaves_input_unread`: the request has a body.
    pub(super) fn of_static(response: FileResponse, leaves_input_unread: bool) -> Box<Self> {
        Box::new(Self { response, worker: None, waited: Duration::ZERO, leaves_input_unread })
    }
}

/// Logs what the operator should know about the directories.
fn log_notice(notice: &FileNotice<'_>) {
    match notice {
        FileNotice::DirectoryLost(..) | FileNotice::FallbackMissing { .. } => tracing::warn!("{notice}"),
        FileNotice::DirectoryBack(_) => tracing::info!("{notice}"),
    }
}

impl FileServer {
    /// Creates the server. Returns `None` if there are no directories.
    pub(super) fn new(settings: FileSettings) -> Option<Arc<Self>> {
        let users = settings.mounts.len() + 1;
        let lookups = (MAX_BLOCKING_LOOKUPS / users).clamp(1, MAX_LOOKUPS_OF_ONE);
        let lookups = (0..users).map(|_| Arc::new(Semaphore::new(lookups))).collect();
        let mounts = Mounts::new(settings.mounts, log_notice);
        let sendfile = SendfileRoots::new(settings.sendfile_roots, log_notice);
        (mounts.is_some() || sendfile.is_some()).then(|| Arc::new(Self { mounts, sendfile, lookups }))
    }

    /// Runs a lookup on a blocking thread. `lookups` has its permits.
    async fn run_blocking<T: Send + 'static>(
        lookups: Option<&Arc<Semaphore>>,
        lookup: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let timed_out = |_| exhausted("the disk does not answer");
        timeout(LOOKUP_TIMEOUT, async {
            let stops = || exhausted("the daemon stops");
            let permit = Arc::clone(lookups.ok_or_else(stops)?).acquire_owned().await;
            let permit = permit.map_err(|_| stops())?;
            let lookup = tokio::task::spawn_blocking(move || {
                // The permit is kept until the thread is free, even after the timeout.
                let _permit = permit;
                lookup()
            });
            lookup.await.map_err(|error| Refusal::File(FileFault::Failed(error.to_string())))
        })
        .await
        .map_err(timed_out)?
    }

    /// Answers a request whose path belongs to the mount with this index.
    pub(super) async fn serve_blocking(
        self: Arc<Self>,
        mount: usize,
        parts: request::Parts,
        now: Instant,
    ) -> Result<FileOrApp, Refusal> {
        let server = Arc::clone(&self);
        let served = Self::run_blocking(self.lookups.get(mount), move || {
            let mount = server.mounts.as_ref().and_then(|mounts| mounts.get(mount));
            let outcome = mount.map(|mount| mount.serve(&file_request(&parts, now), LookupMode::Blocking));
            (outcome.unwrap_or(FileOutcome::App), parts)
        });
        let (outcome, parts) = served.await?;
        match into_response(outcome) {
            Some(response) => response.map(FileOrApp::File),
            None => Ok(FileOrApp::App(parts)),
        }
    }

    /// Answers with a file that the application named.
    pub(super) async fn send_blocking(
        self: Arc<Self>,
        request: Box<SendfileRequest>,
    ) -> Result<FileResponse, Refusal> {
        let server = Arc::clone(&self);
        let outcome = Self::run_blocking(self.lookups.last(), move || {
            let roots = server.sendfile.as_ref();
            roots.map(|roots| roots.serve(&request, LookupMode::Blocking))
        })
        .await?;
        outcome.and_then(into_response).unwrap_or(Err(Refusal::File(FileFault::NotFound)))
    }
}

fn exhausted(reason: &str) -> Refusal {
    Refusal::File(FileFault::Exhausted(reason.to_owned()))
}

/// Returns the response, or `None` if the application answers.
pub(super) fn into_response(outcome: FileOutcome) -> Option<Result<FileResponse, Refusal>> {
    match outcome {
        FileOutcome::Response(response) => Some(Ok(*response)),
        FileOutcome::Refused(fault) => Some(Err(Refusal::File(fault))),
        FileOutcome::App => None,
        // A blocking lookup never needs a further blocking lookup.
        FileOutcome::NeedsDisk => Some(Err(exhausted("the disk does not answer"))),
    }
}

/// Returns the parts of a request's head that a lookup needs.
pub(super) fn file_request(parts: &request::Parts, now: Instant) -> FileRequest<'_> {
    FileRequest {
        method: &parts.method,
        path: parts.uri.path().as_bytes(),
        query: parts.uri.query(),
        headers: &parts.headers,
        now,
    }
}

/// Returns a copy of the fields that [`SendfileRoots`] needs; `None` if the request has none of
/// them. The head itself is not kept (see `RequestMeta`).
pub(super) fn conditions(headers: &HeaderMap) -> Option<HeaderMap> {
    let mut kept: Option<HeaderMap> = None;
    for name in CONDITIONS {
        for value in headers.get_all(&name) {
            let value = HeaderValue::from_maybe_shared(buffer_pool::copy(value.as_bytes()));
            if let Ok(value) = value {
                kept.get_or_insert_default().append(name.clone(), value);
            }
        }
    }
    kept
}

/// The decision about a response of the application.
#[derive(Debug)]
pub(super) enum SendfileDecision {
    /// The response is sent as it is.
    Unchanged(AppResponse),
    /// A file is sent instead of the response's body.
    File(Box<ServedFile>),
    /// The response names a file that cannot be sent.
    Refused(Refusal),
    /// The file must be looked up on a blocking thread.
    NeedsDisk(Box<SendfileRequest>, FileOrigin),
}

/// The origin of a file that is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileOrigin {
    /// The worker whose application named the file.
    pub(super) worker: Option<WorkerId>,
    /// Time for which the request waited for that worker.
    pub(super) waited: Duration,
}

impl FileOrigin {
    pub(super) fn served(self, response: FileResponse) -> Box<ServedFile> {
        let Self { worker, waited } = self;
        Box::new(ServedFile { response, worker, waited, leaves_input_unread: false })
    }
}

/// Looks for the file that the application names in its response, and decides what is sent.
pub(super) fn decide_sendfile(
    roots: &SendfileRoots,
    method: &Method,
    conditions: Option<&HeaderMap>,
    mut response: AppResponse,
) -> SendfileDecision {
    let request = SentFor {
        method: method.clone(),
        conditions: conditions.cloned().unwrap_or_default(),
        now: Instant::now(),
    };
    let head = &mut response.head;
    let file = match roots.target(head.status, &mut head.fields, request) {
        SendfileTarget::Absent => return SendfileDecision::Unchanged(response),
        SendfileTarget::Outside(value) => {
            return SendfileDecision::Refused(Refusal::OutsideFile { worker: response.worker, value });
        }
        SendfileTarget::File(file) => file,
    };
    let origin = FileOrigin { worker: response.worker, waited: response.waited };
    match roots.serve(&file, LookupMode::Cached) {
        FileOutcome::NeedsDisk => SendfileDecision::NeedsDisk(file, origin),
        outcome => match into_response(outcome) {
            Some(Ok(response)) => SendfileDecision::File(origin.served(response)),
            Some(Err(refusal)) => SendfileDecision::Refused(refusal),
            None => SendfileDecision::Refused(Refusal::File(FileFault::NotFound)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Fallback, Immutable, Links};

    #[tokio::test]
    async fn dead_disk_below_one_mount_leaves_others_alone() {
        let directory = std::env::temp_dir().join(format!("rgun-file-server-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), "x").unwrap();
        let mount = |url: &str| MountSettings {
            url: url.to_owned(),
            directory: directory.clone(),
            links: Links::Refused,
            index: Vec::new(),
            fallback: Fallback::NotFound,
            max_age: None,
            immutable: Immutable::Nothing,
            precompressed: false,
        };
        let settings = FileSettings { mounts: vec![mount("/dead/"), mount("/live/")], ..Default::default() };
        let server = FileServer::new(settings).unwrap();
        let find = |path: &str| server.mounts.as_ref().unwrap().find(path.as_bytes()).unwrap().0;
        let dead = &server.lookups[find("/dead/file")];
        assert_eq!(dead.available_permits(), MAX_LOOKUPS_OF_ONE);
        let stuck = dead.acquire_many(u32::try_from(MAX_LOOKUPS_OF_ONE).unwrap()).await.unwrap();
        let (parts, ()) = http::Request::get("/live/file").body(()).unwrap().into_parts();
        let served = Arc::clone(&server).serve_blocking(find("/live/file"), parts, Instant::now()).await;
        assert!(matches!(served, Ok(FileOrApp::File(_))));
        drop(stuck);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
