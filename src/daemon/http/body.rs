//! A request's body: kept in memory while small, else spooled, so that a worker gets it whole and never waits
//! for a slow client.
//!
//! ```text
//! ≤ 64 KiB       travels in the frame
//! ≤ 16 MiB       memfd; the worker gets the descriptor
//! above          a file without a name in the spool directory; the descriptor
//! ```

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use http_body::Body as _;
use hyper::body::Incoming;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rgun_channel::layout::INLINE_BODY;
use tokio::time::timeout;

use crate::dispatch::Dispatcher;

use super::TURN;
use super::fault::Refusal;
use super::wire;

/// Up to here a body stays in memory.
const IN_MEMORY: u64 = 16 * 1024 * 1024;

/// Bytes collected before they are written to a file on another thread.
const FILE_BLOCK: usize = 1024 * 1024;

/// Bytes collected before they are written to memory, so that small pieces cost no system call each.
const MEMORY_BLOCK: usize = 64 * 1024;

/// A body that has arrived.
#[derive(Debug)]
pub(super) enum Body {
    /// In memory, for the frame.
    Inline(Bytes),
    /// Spooled: descriptor, and number of bytes.
    Spooled(OwnedFd, u64),
}

/// What bounds a body.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits<'a> {
    /// `limits.body`.
    pub(super) most: Option<u64>,
    /// `timeouts.body`: the longest pause between two pieces.
    pub(super) pause: Duration,
    /// Directory for bodies over 16 MiB.
    pub(super) spool: &'a Path,
    /// Who else has something to do.
    pub(super) dispatcher: &'a Dispatcher,
}

const TOO_LARGE: Refusal =
    Refusal::Client(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is larger than limits.body");
const TOO_SLOW: Refusal =
    Refusal::Client(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time");
const BROKEN: Refusal = Refusal::Client(StatusCode::BAD_REQUEST, "the request's body breaks off");

/// Receives a body. The `100 Continue` that a client may wait for (RFC 9110 §10.1.1) is sent by hyper when the
/// first piece is asked for, so not before the length has been checked.
pub(super) async fn receive(mut incoming: Incoming, limits: &BodyLimits<'_>) -> Result<Body, Refusal> {
    let announced = incoming.size_hint().exact();
    let within = |len: u64| limits.most.is_none_or(|most| len <= most);
    if announced.is_some_and(|len| !within(len)) {
        return Err(TOO_LARGE);
    }
    let Some(first) = piece(&mut incoming, limits.pause).await? else {
        return Ok(Body::Inline(Bytes::new()));
    };
    if announced == Some(first.len() as u64) && first.len() <= INLINE_BODY {
        return Ok(Body::Inline(first));
    }
    if !within(first.len() as u64) {
        return Err(TOO_LARGE);
    }
    let mut held = Vec::with_capacity(first.len().max(announced.map_or(0, small)));
    held.extend_from_slice(&first);
    drop(first);
    while held.len() <= INLINE_BODY {
        match piece(&mut incoming, limits.pause).await? {
            None => return Ok(Body::Inline(held.into())),
            Some(next) => held.extend_from_slice(&next),
        }
        if !within(held.len() as u64) {
            return Err(TOO_LARGE);
        }
    }
    let spool_failed = |error: io::Error| Refusal::Spool(error.to_string());
    let mut spool = Spool::new(limits.spool).map_err(spool_failed)?;
    spool.write(held.into()).await.map_err(spool_failed)?;
    let mut taken = 0;
    while let Some(next) = piece(&mut incoming, limits.pause).await? {
        if !within(spool.len + next.len() as u64) {
            return Err(TOO_LARGE);
        }
        taken += next.len();
        spool.write(next).await.map_err(spool_failed)?;
        if taken >= TURN {
            // A client as fast as this one would keep the reactor for megabytes, and its turn from ending.
            taken = 0;
            limits.dispatcher.look();
            tokio::task::yield_now().await;
        }
    }
    let len = spool.len;
    Ok(Body::Spooled(spool.finish().await.map_err(spool_failed)?, len))
}

fn small(len: u64) -> usize {
    usize::try_from(len).unwrap_or(INLINE_BODY).min(INLINE_BODY)
}

/// The next piece of data; `None` at the end. Trailers are read and dropped: neither WSGI nor ASGI has a place
/// for them.
async fn piece(incoming: &mut Incoming, pause: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        // What has arrived already needs no timer.
        let next = poll_fn(|cx| match Pin::new(&mut *incoming).poll_frame(cx) {
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(next) => std::task::Poll::Ready(Some(next)),
        })
        .await;
        let next = match next {
            Some(next) => next,
            None => timeout(pause, poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)))
                .await
                .map_err(|_| TOO_SLOW)?,
        };
        match next {
            None => return Ok(None),
            Some(Err(error)) => {
                tracing::debug!(error = %crate::report::Chain(&error), "a request's body broke off");
                return Err(wire::violation_of(&error).map_or(BROKEN, Refusal::Framing));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Keeps a body: in a memfd first, in a file when it grows.
struct Spool {
    file: File,
    in_memory: bool,
    directory: PathBuf,
    /// What waits to be written.
    block: Vec<u8>,
    len: u64,
}

impl Spool {
    fn new(directory: &Path) -> io::Result<Self> {
        let memfd = memfd_create(c"rgun-body", MFdFlags::MFD_CLOEXEC)?;
        Ok(Self {
            file: File::from(memfd),
            in_memory: true,
            directory: directory.to_owned(),
            block: Vec::new(),
            len: 0,
        })
    }

    async fn write(&mut self, mut bytes: Bytes) -> io::Result<()> {
        let len = bytes.len() as u64;
        if self.in_memory && self.len + len > IN_MEMORY {
            self.move_to_file().await?;
        }
        if self.in_memory {
            if self.block.len() + bytes.len() >= MEMORY_BLOCK {
                // A copy between two pieces of memory: nothing that could block the reactor for long.
                self.file.write_all(&self.block)?;
                self.block.clear();
                self.file.write_all(&bytes)?;
            } else {
                self.block.extend_from_slice(&bytes);
            }
        } else {
            self.block.extend_from_slice(&bytes);
            bytes.advance(bytes.len());
            if self.block.len() >= FILE_BLOCK {
                self.write_block().await?;
            }
        }
        self.len += len;
        Ok(())
    }

    /// The disk may be slow, so files are written on a blocking thread, a block at a time: the client is not
    /// read from meanwhile, which is the backpressure.
    async fn write_block(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        let mut file = self.file.try_clone()?;
        self.block = tokio::task::spawn_blocking(move || {
            file.write_all(&block)?;
            let mut block = block;
            block.clear();
            Ok::<_, io::Error>(block)
        })
        .await
        .map_err(io::Error::other)??;
        Ok(())
    }

    async fn move_to_file(&mut self) -> io::Result<()> {
        self.file.write_all(&self.block)?;
        self.block.clear();
        let mut memory = self.file.try_clone()?;
        let directory = self.directory.clone();
        self.file = tokio::task::spawn_blocking(move || {
            // Without a name: it is gone when its last descriptor is closed (open(2), O_TMPFILE).
            let mut file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .mode(0o600)
                .custom_flags(OFlag::O_TMPFILE.bits())
                .open(directory)?;
            memory.seek(SeekFrom::Start(0))?;
            io::copy(&mut memory, &mut file)?;
            Ok::<_, io::Error>(file)
        })
        .await
        .map_err(io::Error::other)??;
        self.in_memory = false;
        self.block.reserve(FILE_BLOCK);
        Ok(())
    }

    async fn finish(mut self) -> io::Result<OwnedFd> {
        if self.in_memory {
            self.file.write_all(&self.block)?;
        } else if !self.block.is_empty() {
            self.write_block().await?;
        }
        self.file.seek(SeekFrom::Start(0))?;
        Ok(self.file.into())
    }
}
