//! Idle connections without the state of HTTP.
//!
//! While a connection is idle, hyper keeps a read buffer of 8 KiB and its own state for it. When the
//! tracker parks the connection, its task drops all that and waits for the socket; the client's next
//! bytes begin HTTP again.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt as _;

use super::directive::Directive;
use super::stream::ClientStream;

/// The end of the wait of a parked connection.
enum ParkEnd {
    /// The client has sent something, or has closed the connection.
    Input,
    /// The next daemon continues the connection.
    HandOver,
    /// A timeout, the drain or an eviction closes the connection.
    Close,
}

impl ClientStream {
    /// Waits until the client sends something, and returns the stream; `None` if the connection has
    /// ended meanwhile, or is continued by the next daemon. `unread` are the bytes that were read and
    /// belong to no request that was served; if there are any, returns without waiting.
    pub async fn park(mut self, unread: Vec<u8>) -> Option<(Self, Vec<u8>)> {
        tracing::debug!(client = %self.connection().peer.address, "parking an idle connection");
        match poll_fn(|cx| self.poll_parked(cx, !unread.is_empty())).await {
            Ok(ParkEnd::Input) => {
                self.connection().unpark();
                return Some((self, unread));
            }
            Ok(ParkEnd::HandOver) => self.hand_over(unread),
            Ok(ParkEnd::Close) => {
                if let Err(error) = self.shutdown().await {
                    tracing::debug!(%error, "cannot shut down an idle connection, closing it");
                }
            }
            Err(error) => tracing::debug!(%error, "a parked connection ended early"),
        }
        None
    }

    fn poll_parked(&self, cx: &mut Context<'_>, has_unread: bool) -> Poll<io::Result<ParkEnd>> {
        let connection = self.connection();
        connection.register_waker(cx.waker());
        match connection.directive() {
            _ if connection.should_hand_over() => Poll::Ready(Ok(ParkEnd::HandOver)),
            Directive::Abort => Poll::Ready(Err(self.abort())),
            _ if has_unread => Poll::Ready(Ok(ParkEnd::Input)),
            Directive::CloseIdle | Directive::Evict => Poll::Ready(Ok(ParkEnd::Close)),
            Directive::None | Directive::Park | Directive::HeadTimeout | Directive::HandOver => {
                self.socket().poll_read_ready(cx).map_ok(|()| ParkEnd::Input)
            }
        }
    }
}
