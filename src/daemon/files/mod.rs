//! Static files: finds the file that a request or the application names, and answers with it.
//!
//! [`Mounts`] are `[[static]]`, [`SendfileRoots`] is `app.sendfile_roots`. Both are asked first on
//! the reactor with [`LookupMode::Cached`], which never waits for a disk, and if that fails on a
//! blocking thread. The result is a [`FileAnswer`], which `http` sends. `tower-http` is not used,
//! see `.github/CONTRIBUTING.md`.

mod answer;
mod condition;
mod encoding;
mod fault;
mod hashed_name;
mod known;
mod media_type;
mod mount;
mod notice;
mod path;
mod range;
mod root;
mod sendfile;
mod state;

pub use answer::{FileAnswer, FileBody, MultipartRanges};
pub use fault::FileFault;
pub use mount::{Fallback, FileOutcome, FileRequest, Immutable, Mount, MountSettings, Mounts};
pub use notice::{FileNotice, FileNoticeSink};
pub use root::{Links, LookupMode};
pub use sendfile::{SendfileRequest, SendfileRoot, SendfileRoots, SendfileTarget, SentFor};
