//! The control socket, on which `rgun reload` requests a reload and waits for its outcome.
//!
//! The socket is the file `control` in the unit's `RuntimeDirectory=` (`$RUNTIME_DIRECTORY`,
//! systemd.exec(5)), with mode 0600. Without a runtime directory there is no socket: SIGHUP
//! reloads, and the log has the outcome.
//!
//! The client writes one line, `reload`. The daemon replies with lines that begin with `progress `.
//! The last reply is one line that begins with `done `, or `failed ` and text up to the end of the
//! stream. Then the daemon closes the connection.
//!
//! Workers run as the daemon's user, so the file's mode admits them; [`PeerCheck`] refuses them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::messages::{MainMessage, Reply};
use super::peer_check::{PeerCheck, PeerRefusal};

/// The listening socket. Its file is removed on drop.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
}

/// Time for a client to send its command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length of a command; longer than any valid one.
const MAX_COMMAND_BYTES: usize = 64;

impl ControlSocket {
    /// Listens in the runtime directory. Returns `None` if there is no runtime directory.
    ///
    /// # Errors
    /// The error of `bind(2)`, with the path.
    pub(super) fn listen(
        messages: UnboundedSender<MainMessage>,
        peers: PeerCheck,
    ) -> io::Result<Option<Self>> {
        let Some(path) = crate::cli::reload::runtime_directory()
            .map(|directory| directory.join(crate::cli::reload::SOCKET))
        else {
            return Ok(None);
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // A killed daemon leaves its file behind. No other daemon uses this unit's directory.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(named)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
        tokio::spawn(accept(listener, messages, Arc::new(peers)));
        Ok(Some(Self { path }))
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

async fn accept(listener: UnixListener, messages: UnboundedSender<MainMessage>, peers: Arc<PeerCheck>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(handle_client(client, messages.clone(), Arc::clone(&peers)));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept, trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Reads the command of a client, passes it to the main loop and writes the replies.
async fn handle_client(
    mut client: UnixStream,
    messages: UnboundedSender<MainMessage>,
    peers: Arc<PeerCheck>,
) {
    let checked = client.peer_cred().map_err(PeerRefusal::from).and_then(|peer| peers.check(&peer));
    if let Err(refusal) = &checked {
        tracing::warn!("refusing a client of the control socket: {refusal}");
    }
    let command = match tokio::time::timeout(COMMAND_TIMEOUT, read_command(&mut client)).await {
        Ok(Ok(command)) => command,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client of the control socket left");
            return;
        }
        Err(_) => return,
    };
    let (replies_tx, replies_rx) = unbounded_channel();
    match (checked, command.as_str()) {
        (Err(refusal), _) => reply_failed(replies_tx, refusal.to_string()),
        // Sending fails only when the main loop has ended.
        (Ok(()), "reload") => drop(messages.send(MainMessage::Reload(replies_tx))),
        (Ok(()), other) => {
            let text =
                format!("there is no command {other:?}; this daemon is rgun {}", env!("CARGO_PKG_VERSION"));
            reply_failed(replies_tx, text);
        }
    }
    if let Err(error) = write_replies(&mut client, replies_rx).await {
        tracing::debug!(%error, "a client of the control socket did not wait for the end");
    }
}

/// Sends the only reply. Consumes the sender, because the connection is closed when the last sender is
/// gone.
fn reply_failed(replies: UnboundedSender<Reply>, text: String) {
    // Sending fails only if the receiver, which the caller owns, is gone.
    drop(replies.send(Reply::Failed(text)));
    drop(replies);
}

/// Reads up to a line feed, the end of the stream or [`MAX_COMMAND_BYTES`].
async fn read_command(client: &mut UnixStream) -> io::Result<String> {
    let mut command = Vec::new();
    while !command.ends_with(b"\n") && command.len() < MAX_COMMAND_BYTES {
        match client.read_u8().await {
            Ok(byte) => command.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&command).trim().to_owned())
}

async fn write_replies(client: &mut UnixStream, mut replies: UnboundedReceiver<Reply>) -> io::Result<()> {
    while let Some(reply) = replies.recv().await {
        let line = match reply {
            Reply::Progress(text) => format!("progress {text}\n"),
            Reply::Done(text) => format!("done {text}\n"),
            Reply::Failed(text) => format!("failed {text}\n"),
        };
        client.write_all(line.as_bytes()).await?;
    }
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn descendant_of_the_daemon_is_refused() {
        let (client, daemon) = UnixStream::pair().unwrap();
        let (messages_tx, mut messages_rx) = unbounded_channel();
        // Both ends belong to this process, a child of the supposed daemon.
        let peers = PeerCheck::new(nix::unistd::getppid(), None);
        let (mut read, mut write) = client.into_split();
        write.write_all(b"reload\n").await.unwrap();
        handle_client(daemon, messages_tx, Arc::new(peers)).await;
        let mut reply = String::new();
        read.read_to_string(&mut reply).await.unwrap();
        assert_eq!(
            reply,
            format!(
                "failed process {} was started by this daemon, which takes no commands from its \
                 workers; use systemctl reload\n",
                std::process::id()
            )
        );
        assert!(messages_rx.try_recv().is_err(), "no reload was requested");
    }

    #[tokio::test]
    async fn client_outside_the_daemon_may_reload() {
        let (client, daemon) = UnixStream::pair().unwrap();
        let (messages_tx, mut messages_rx) = unbounded_channel();
        let peers = PeerCheck::new(nix::unistd::getpid(), None);
        let (_read, mut write) = client.into_split();
        write.write_all(b"reload\n").await.unwrap();
        tokio::spawn(handle_client(daemon, messages_tx, Arc::new(peers)));
        assert!(matches!(messages_rx.recv().await, Some(MainMessage::Reload(_))));
    }
}
