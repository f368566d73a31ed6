//! The arguments of `rgun init`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::service::Service;

/// The arguments of `rgun init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitRequest {
    /// The service whose files are written.
    pub(in crate::cli) service: Service,
    /// The project's directory; may be relative.
    pub(in crate::cli) directory: PathBuf,
    /// The user of the service; `None` to choose one.
    pub(in crate::cli) user: Option<String>,
    /// The address to listen on, as in `--bind`; `None` for that of the packaged socket unit.
    pub(in crate::cli) bind: Option<String>,
    /// The interpreter; `None` to find it.
    pub(in crate::cli) python: Option<OsString>,
    /// The directory to write below, an image's root; `None` for this machine.
    pub(in crate::cli) root: Option<PathBuf>,
    /// Whether to write without asking.
    pub(in crate::cli) yes: bool,
}
