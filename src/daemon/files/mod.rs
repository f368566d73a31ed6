//! Static files: finds the file that a request or the application names, and builds the response.
//!
//! [`Mounts`] are `[[static]]`, [`SendfileRoots`] is `app.sendfile_roots`. The reactor looks up a
//! file with [`LookupMode::Cached`] first, which never waits for a disk. If that does not suffice,
//! a blocking thread repeats the lookup. The result is a [`FileResponse`], which `http` sends.
//! `tower-http` is not used, see `.github/CONTRIBUTING.md`.

mod condition;
mod encoding;
mod fault;
mod hashed_name;
mod known;
mod links;
mod media_type;
mod mount;
mod notice;
mod path;
mod range;
mod response;
mod root;
mod sendfile;
mod state;
mod walk;

pub use fault::FileFault;
pub use links::Links;
pub use mount::{Fallback, FileOutcome, FileRequest, Immutable, Mount, MountSettings, Mounts};
pub use notice::{FileNotice, FileNoticeSink};
pub use response::{FileBody, FileResponse, MultipartRanges};
pub use root::LookupMode;
pub use sendfile::{SendfileRequest, SendfileRoot, SendfileRoots, SendfileTarget, SentFor};
