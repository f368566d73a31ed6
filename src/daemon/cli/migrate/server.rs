//! The servers whose command lines are migrated.

/// A server that rgun replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplacedServer {
    Gunicorn,
    Uvicorn,
    /// `fastapi run` and `fastapi dev`, which call uvicorn.
    FastApi,
    Granian,
    Hypercorn,
    Daphne,
    Uwsgi,
}

impl ReplacedServer {
    /// The names of the commands, for messages.
    pub(super) const NAMES: &str = "gunicorn, uvicorn, fastapi, granian, hypercorn, daphne or uwsgi";

    /// Returns the server that a word names, with or without a directory.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word.rsplit('/').next().unwrap_or(word) {
            "gunicorn" => Some(Self::Gunicorn),
            "uvicorn" => Some(Self::Uvicorn),
            "fastapi" => Some(Self::FastApi),
            "granian" => Some(Self::Granian),
            "hypercorn" => Some(Self::Hypercorn),
            "daphne" => Some(Self::Daphne),
            // Debian's package has one program for each version of Python.
            "uwsgi" | "uwsgi_python3" | "uwsgi_python" => Some(Self::Uwsgi),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gunicorn => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::FastApi => "fastapi",
            Self::Granian => "granian",
            Self::Hypercorn => "hypercorn",
            Self::Daphne => "daphne",
            Self::Uwsgi => "uWSGI",
        }
    }

    /// Returns whether the server logs each request if nothing else is set.
    pub(super) fn logs_requests(self) -> bool {
        match self {
            Self::Uvicorn | Self::FastApi | Self::Daphne | Self::Uwsgi => true,
            Self::Gunicorn | Self::Granian | Self::Hypercorn => false,
        }
    }

    /// Returns whether the server reads `WEB_CONCURRENCY` and `FORWARDED_ALLOW_IPS`.
    pub(super) fn reads_common_variables(self) -> bool {
        matches!(self, Self::Gunicorn | Self::Uvicorn | Self::FastApi)
    }

    /// The umask that the server applies to its unix sockets if no flag sets it; `None` for that of
    /// the process. Gunicorn, uvicorn and daphne let every user connect.
    pub(super) fn socket_umask(self) -> Option<u32> {
        match self {
            Self::Gunicorn | Self::Uvicorn | Self::FastApi | Self::Daphne => Some(0),
            Self::Granian | Self::Hypercorn | Self::Uwsgi => None,
        }
    }
}
