//! The control socket: where `rgun reload` gives its order and waits for the verdict.
//!
//! It is `control` in the unit's `RuntimeDirectory=` (`$RUNTIME_DIRECTORY`, systemd.exec(5)), for the service's own user
//! and root alone. Outside systemd there is none: a signal does (SIGHUP), and the log has the verdict.
//!
//! The client writes one line, `reload`. The daemon answers with lines of progress, each beginning with `progress `,
//! and at last with `done ` and one line, or with `failed ` and text to the end; then it closes.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::messages::{MainMessage, Reply};

/// The socket; its file goes with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
}

/// A client says what it wants within this time.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any order has.
const MAX_COMMAND_BYTES: usize = 64;

impl ControlSocket {
    /// Listens in the runtime directory, if there is one.
    ///
    /// # Errors
    /// What `bind(2)` says, with the path.
    pub(super) fn listen(tell: UnboundedSender<MainMessage>) -> io::Result<Option<Self>> {
        let Some(path) = crate::cli::reload::runtime_directory()
            .map(|directory| directory.join(crate::cli::reload::SOCKET))
        else {
            return Ok(None);
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // A daemon that was killed leaves its file behind; the directory is this unit's alone.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(named)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
        tokio::spawn(accept(listener, tell));
        Ok(Some(Self { path }))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // It may be gone with its directory already.
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, tell: UnboundedSender<MainMessage>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(handle_client(client, tell.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept, trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn handle_client(mut client: UnixStream, tell: UnboundedSender<MainMessage>) {
    let order = match tokio::time::timeout(COMMAND_TIMEOUT, read_command(&mut client)).await {
        Ok(Ok(order)) => order,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client of the control socket left");
            return;
        }
        Err(_) => return,
    };
    let (asker, words) = unbounded_channel();
    match order.as_str() {
        // The receiver lives as long as the main loop.
        "reload" => drop(tell.send(MainMessage::Reload(asker))),
        other => {
            let text =
                format!("there is no order {other:?}; this daemon is rgun {}", env!("CARGO_PKG_VERSION"));
            let _listening = asker.send(Reply::Failed(text));
        }
    }
    if let Err(error) = write_replies(&mut client, words).await {
        tracing::debug!(%error, "a client of the control socket did not wait for the end");
    }
}

async fn read_command(client: &mut UnixStream) -> io::Result<String> {
    let mut order = Vec::new();
    while !order.ends_with(b"\n") && order.len() < MAX_COMMAND_BYTES {
        match client.read_u8().await {
            Ok(byte) => order.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&order).trim().to_owned())
}

async fn write_replies(client: &mut UnixStream, mut words: UnboundedReceiver<Reply>) -> io::Result<()> {
    while let Some(word) = words.recv().await {
        let line = match word {
            Reply::Progress(text) => format!("progress {text}\n"),
            Reply::Done(text) => format!("done {text}\n"),
            Reply::Failed(text) => format!("failed {text}\n"),
        };
        client.write_all(line.as_bytes()).await?;
    }
    client.shutdown().await
}
