//! The control socket, on which `rgun reload`, `rgun status` and other clients talk to the daemon.
//! [`crate::control`] has the protocol.
//!
//! The socket is the file `control` in the unit's `RuntimeDirectory=` (`$RUNTIME_DIRECTORY`,
//! systemd.exec(5)). Without a runtime directory there is no socket: SIGHUP reloads, and the log has
//! the outcome.
//!
//! The file's mode is 0600, or 0660 with `control.group`. So a client that is neither root nor the
//! daemon's user is a member of that group, and may only read. The mode also
//! admits workers that run as the daemon's user, or as a member of the group (`workers.user`);
//! [`PeerCheck`] refuses them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, geteuid};
use tokio::net::UnixListener;
use tokio::net::unix::UCred;
use tokio::sync::mpsc::UnboundedSender;

use super::messages::MainMessage;
use super::peer_check::{PeerCheck, PeerRefusal};
use super::stack_calls::StackCalls;
use crate::cli::Invocation;
use crate::config::{ConfigError, ConfigErrors, name};
use crate::control::{self, Access};
use crate::pool::find_group;

/// The main loop's data about clients of the control socket.
#[derive(Debug)]
pub(super) struct ControlClients {
    /// Dropping it removes its file. `None` if there is no runtime directory.
    pub(super) socket: Option<ControlSocket>,
    /// The clients that wait for stacks.
    pub(super) stack_calls: StackCalls,
}

/// The listening socket. Its file is removed on drop.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
}

/// The reason why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// The source names the path.
    #[error("{source}")]
    System { source: io::Error },
    #[error(
        "{key} = \"{group}\": there is no such group: create it with groupadd --system {group}, or name another one",
        key = name::CONTROL_GROUP
    )]
    NoGroup { group: String },
    #[error("{key} = \"{group}\": cannot look the group up: {source}", key = name::CONTROL_GROUP)]
    Lookup { group: String, source: io::Error },
    #[error(
        "{key} = \"{group}\": the service may not give its socket to this group: write SupplementaryGroups={group} and \
         SystemCallFilter=@chown into a drop-in of the unit (systemctl edit)",
        key = name::CONTROL_GROUP
    )]
    NotMember { group: String },
}

impl ControlSocket {
    /// Listens in the runtime directory. `group` is `control.group`. Returns `None` if there is no
    /// runtime directory.
    ///
    /// # Errors
    /// The socket cannot be created; the group does not exist, or the daemon may not give the socket to
    /// the group.
    pub(super) fn listen(
        messages: UnboundedSender<MainMessage>,
        peers: PeerCheck,
        group: Option<&str>,
    ) -> Result<Option<Self>, ControlError> {
        let Some(path) = crate::cli::control::runtime_directory()
            .map(|directory| directory.join(crate::cli::control::SOCKET))
        else {
            return Ok(None);
        };
        let named = |error: io::Error| {
            let text = format!("{}: {error}", path.display());
            ControlError::System { source: io::Error::new(error.kind(), text) }
        };
        let gid = group_id(group)?;
        // A killed daemon leaves its file behind. No other daemon uses this unit's directory.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(named)?;
        if let (Some(group), Some(gid)) = (group, gid) {
            nix::unistd::chown(&path, None, Some(gid)).map_err(|errno| match errno {
                nix::errno::Errno::EPERM => ControlError::NotMember { group: group.to_owned() },
                other => named(other.into()),
            })?;
        }
        let mode = if gid.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(named)?;
        let socket = Self { path };
        // Sending fails only when the main loop has ended.
        let call = move |call| drop(messages.send(MainMessage::Control(call)));
        let has_readers = gid.is_some();
        tokio::spawn(control::serve(listener, move |peer| authorize(&peers, has_readers, peer), call));
        Ok(Some(socket))
    }

    /// Returns the path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // systemd may have removed the socket with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Looks up `control.group` of a configuration that the next start will use: a wrong one would end
/// it. Returns the group's id; `None` if the setting is off.
///
/// # Errors
/// There is no such group, or it cannot be looked up.
pub(crate) fn check_group(invocation: &Invocation) -> Result<Option<Gid>, ConfigErrors> {
    group_id(invocation.config.control.group.as_deref()).map_err(|error| {
        let reason = match &error {
            ControlError::Lookup { source, .. } => format!("cannot look the group up: {source}"),
            _ => "there is no such group".to_owned(),
        };
        ConfigErrors(vec![ConfigError {
            origin: invocation
                .file()
                .map_or_else(|| "RGUN_CONTROL_GROUP".to_owned(), |file| file.display().to_string()),
            key: name::CONTROL_GROUP.to_owned(),
            value: invocation.config.control.group.as_ref().map(|group| format!("\"{group}\"")),
            reason,
            hint: Some("create it with groupadd --system, or name another one".to_owned()),
        }])
    })
}

fn group_id(name: Option<&str>) -> Result<Option<Gid>, ControlError> {
    let Some(name) = name else { return Ok(None) };
    match find_group(name) {
        Ok(None) => Err(ControlError::NoGroup { group: name.to_owned() }),
        Ok(gid) => Ok(gid),
        Err(errno) => Err(ControlError::Lookup { group: name.to_owned(), source: errno.into() }),
    }
}

/// Returns the access of a process that has connected, or the reason why the process has none.
/// `has_readers`: the mode of the socket admits a group.
fn authorize(peers: &PeerCheck, has_readers: bool, peer: &io::Result<UCred>) -> Result<Access, String> {
    let checked = match peer {
        Ok(peer) => peers.check(peer).and_then(|()| match peer.uid() {
            uid if uid == 0 || uid == geteuid().as_raw() => Ok(Access::Full),
            _ if has_readers => Ok(Access::Read),
            // The process connected before the mode of the file was set.
            uid => Err(PeerRefusal::Stranger(uid)),
        }),
        Err(error) => Err(PeerRefusal::from(io::Error::from(error.kind()))),
    };
    checked.map_err(|refusal| {
        tracing::warn!("refusing a client of the control socket: {refusal}");
        refusal.to_string()
    })
}
