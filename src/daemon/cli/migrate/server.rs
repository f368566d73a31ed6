//! The servers whose command lines are migrated.

/// A server that rgun replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplacedServer {
    Gunicorn,
    Uvicorn,
    Granian,
    Hypercorn,
    Daphne,
}

impl ReplacedServer {
    /// Returns the server that a word names, with or without a directory.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word.rsplit('/').next().unwrap_or(word) {
            "gunicorn" => Some(Self::Gunicorn),
            "uvicorn" => Some(Self::Uvicorn),
            "granian" => Some(Self::Granian),
            "hypercorn" => Some(Self::Hypercorn),
            "daphne" => Some(Self::Daphne),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gunicorn => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::Granian => "granian",
            Self::Hypercorn => "hypercorn",
            Self::Daphne => "daphne",
        }
    }
}
