//! The users that workers run as (`workers.user`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, ConfigErrors};
use crate::pool::{UserIdentity, find_worker_identity};

/// The users of all generations since the start, except for the daemon's user. A process that an old
/// worker has started may outlive its generation.
#[derive(Debug, Clone, Default)]
pub(super) struct WorkerUsers(Arc<Mutex<HashSet<u32>>>);

impl WorkerUsers {
    /// Finds the user of a configuration, makes sure that the daemon may start and signal its
    /// processes, and adds it. Returns `None` if the workers run as the daemon's user.
    ///
    /// # Errors
    /// The user does not exist, or the daemon lacks the rights.
    pub(super) fn find(&self, config: &Config) -> Result<Option<Arc<UserIdentity>>, ConfigErrors> {
        let found = find_worker_identity(&config.workers.user, std::env::vars_os())
            .map_err(|error| ConfigErrors(vec![error]))?;
        if let Some(identity) = &found {
            self.users().insert(identity.credentials.uid.as_raw());
        }
        Ok(found.map(Arc::new))
    }

    /// Returns whether workers run as this user, or did.
    pub(super) fn contains(&self, uid: u32) -> bool {
        self.users().contains(&uid)
    }

    fn users(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl WorkerUsers {
    /// A set with one user.
    pub(super) fn of(uid: u32) -> Self {
        Self(Arc::new(Mutex::new(HashSet::from([uid]))))
    }
}
