//! The symlinks that are followed below a directory.

/// `follow_links`: the symlinks that are followed below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// No symlink.
    #[default]
    Refused,
    /// Symlinks whose target is below the directory.
    Inside,
    /// All symlinks.
    Followed,
}
