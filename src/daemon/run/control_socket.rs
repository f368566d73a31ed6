//! The control socket, on which `rgun reload` requests a reload and waits for its outcome.
//!
//! The socket is the file `control` in the unit's `RuntimeDirectory=` (`$RUNTIME_DIRECTORY`,
//! systemd.exec(5)), with mode 0600. Without a runtime directory there is no socket: SIGHUP
//! reloads, and the log has the outcome.
//!
//! The client writes one line, `reload`. The daemon replies with lines that begin with `progress `.
//! The last reply is one line that begins with `done `, or `failed ` and text up to the end of the
//! stream. Then the daemon closes the connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::messages::{MainMessage, Reply};

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
    pub(super) fn listen(messages: UnboundedSender<MainMessage>) -> io::Result<Option<Self>> {
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
        tokio::spawn(accept(listener, messages));
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

async fn accept(listener: UnixListener, messages: UnboundedSender<MainMessage>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(handle_client(client, messages.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept, trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Reads the command of a client, passes it to the main loop and writes the replies.
async fn handle_client(mut client: UnixStream, messages: UnboundedSender<MainMessage>) {
    let command = match tokio::time::timeout(COMMAND_TIMEOUT, read_command(&mut client)).await {
        Ok(Ok(command)) => command,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client of the control socket left");
            return;
        }
        Err(_) => return,
    };
    let (replies_tx, replies_rx) = unbounded_channel();
    match command.as_str() {
        // Sending fails only when the main loop has ended.
        "reload" => drop(messages.send(MainMessage::Reload(replies_tx))),
        other => {
            let text =
                format!("there is no command {other:?}; this daemon is rgun {}", env!("CARGO_PKG_VERSION"));
            drop(replies_tx.send(Reply::Failed(text)));
        }
    }
    if let Err(error) = write_replies(&mut client, replies_rx).await {
        tracing::debug!(%error, "a client of the control socket did not wait for the end");
    }
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
