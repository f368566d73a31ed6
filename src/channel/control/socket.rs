//! Sends and receives control messages with their descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::{MAX_FDS, MAX_MESSAGE_BYTES};

/// Creates a pair of connected worker sockets, close-on-exec: the daemon's end, which is
/// non-blocking, and the worker's.
///
/// # Errors
/// Errors of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one message with its descriptors.
///
/// # Errors
/// Errors of `sendmsg(2)`: `WouldBlock` on a full non-blocking socket, `BrokenPipe` when the peer
/// has closed its end (no signal is raised).
///
/// # Panics
/// If there are more than [`MAX_FDS`] descriptors or the message is longer than
/// [`MAX_MESSAGE_BYTES`].
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS && message.len() <= MAX_MESSAGE_BYTES, "control message is too large");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(pushed);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A received message.
#[derive(Debug)]
pub struct ReceivedMessage {
    /// Bytes written to the buffer; 0 means that the peer has closed its end.
    pub len: usize,
    /// The descriptors sent with the message, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Receives one message into `buffer` (of [`MAX_MESSAGE_BYTES`] bytes).
///
/// When the peer exits with unread messages, `unix(7)` reports ECONNRESET once, *ahead* of the
/// messages that the peer sent before. That error is skipped, so that the peer's last messages are
/// not lost: they follow, then the end.
///
/// # Errors
/// Errors of `recvmsg(2)`: `WouldBlock` on a non-blocking socket without a message; `InvalidData`
/// when the message or its descriptors did not fit. `Interrupted` is returned, not retried, so that
/// a Python thread can run its signal handlers.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<ReceivedMessage> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message = match recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Err(rustix::io::Errno::CONNRESET) => {
            recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?
        }
        received => received?,
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "control message was truncated"));
    }
    Ok(ReceivedMessage { len: message.bytes, fds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Command, Report};
    use crate::frame::ExchangeId;

    #[test]
    fn last_messages_of_a_peer_with_unread_input_arrive() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &Command::Stop.encode(), &[]).unwrap();
        send(&theirs, &Report::Refused("too old".into()).encode(), &[]).unwrap();
        drop(theirs);
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let received = receive(&ours, &mut buffer).unwrap();
        assert_eq!(Report::decode(&buffer[..received.len]).unwrap(), Report::Refused("too old".into()));
        assert_eq!(receive(&ours, &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn descriptors_travel_with_their_message() {
        let (ours, theirs) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&ours, &Command::Body(ExchangeId(1)).encode(), &[write.as_fd()]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let received = receive(&theirs, &mut buffer).unwrap();
        assert_eq!(Command::decode(&buffer[..received.len]).unwrap(), Command::Body(ExchangeId(1)));
        rustix::io::write(&received.fds[0], b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(ours);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().len, 0);
    }
}
