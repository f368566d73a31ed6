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

use super::messages::{Told, Word};

/// The socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Orders {
    path: PathBuf,
}

/// A client says what it wants within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than any order has.
const LONGEST_ORDER: usize = 64;

impl Orders {
    /// Listens in the runtime directory, if there is one.
    ///
    /// # Errors
    /// What `bind(2)` says, with the path.
    pub(super) fn listen(tell: UnboundedSender<Told>) -> io::Result<Option<Self>> {
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

impl Drop for Orders {
    fn drop(&mut self) {
        // It may be gone with its directory already.
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, tell: UnboundedSender<Told>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(obey(client, tell.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept, trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn obey(mut client: UnixStream, tell: UnboundedSender<Told>) {
    let order = match tokio::time::timeout(PATIENCE, read_order(&mut client)).await {
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
        "reload" => drop(tell.send(Told::Reload(asker))),
        other => {
            let text =
                format!("there is no order {other:?}; this daemon is rgun {}", env!("CARGO_PKG_VERSION"));
            let _listening = asker.send(Word::Failed(text));
        }
    }
    if let Err(error) = say(&mut client, words).await {
        tracing::debug!(%error, "a client of the control socket did not wait for the end");
    }
}

async fn read_order(client: &mut UnixStream) -> io::Result<String> {
    let mut order = Vec::new();
    while !order.ends_with(b"\n") && order.len() < LONGEST_ORDER {
        match client.read_u8().await {
            Ok(byte) => order.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&order).trim().to_owned())
}

async fn say(client: &mut UnixStream, mut words: UnboundedReceiver<Word>) -> io::Result<()> {
    while let Some(word) = words.recv().await {
        let line = match word {
            Word::Progress(text) => format!("progress {text}\n"),
            Word::Done(text) => format!("done {text}\n"),
            Word::Failed(text) => format!("failed {text}\n"),
        };
        client.write_all(line.as_bytes()).await?;
    }
    client.shutdown().await
}
