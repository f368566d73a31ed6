//! The settings of static files and of `X-Sendfile`, converted from the configuration for `http`.

use crate::config::{self, Config};
use crate::{files, http};

/// Returns the directories from which files are sent.
pub(super) fn file_settings(config: &Config) -> http::FileSettings {
    let mounts = config.static_mounts.iter().map(|mount| files::MountSettings {
        url: mount.url.clone(),
        directory: mount.directory.clone(),
        links: match mount.follow_links {
            config::FollowLinks::No => files::Links::Refused,
            config::FollowLinks::Inside => files::Links::Inside,
            config::FollowLinks::Yes => files::Links::Followed,
        },
        index: mount.index.clone(),
        fallback: match &mount.fallback {
            config::StaticFallback::NotFound => files::Fallback::NotFound,
            config::StaticFallback::App => files::Fallback::App,
            config::StaticFallback::File(name) => files::Fallback::File(name.clone()),
        },
        max_age: mount.max_age,
        immutable: match mount.immutable {
            config::ImmutableFiles::Hashed => files::Immutable::Hashed,
            config::ImmutableFiles::All => files::Immutable::All,
            config::ImmutableFiles::Nothing => files::Immutable::Nothing,
        },
        precompressed: mount.precompressed,
    });
    let roots = config
        .app
        .sendfile_roots
        .iter()
        .map(|root| files::SendfileRoot { url: root.url.clone(), directory: root.directory.clone() });
    http::FileSettings { mounts: mounts.collect(), sendfile_roots: roots.collect() }
}
