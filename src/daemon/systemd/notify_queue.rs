//! Notifications that wait until systemd has room for them (sd_notify(3)).
//!
//! A socket has room for a few messages (`net.unix.max_dgram_qlen`). If systemd does not read, the
//! daemon must go on serving: messages wait here, and are sent later in the same order. A message of
//! which only the newest counts replaces an older one that waits.

use std::collections::VecDeque;

/// Which waiting messages a message replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    /// Each message counts, such as `READY=1`.
    State,
    /// `STATUS=`: the newest counts.
    Status,
    /// `EXTEND_TIMEOUT_USEC=`: the newest counts.
    Extension,
    /// `WATCHDOG=1`: one of several is enough.
    Watchdog,
}

/// The messages that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct NotifyQueue(VecDeque<(MessageKind, String)>);

impl NotifyQueue {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a message, in place of a waiting one that no longer counts.
    pub(super) fn push(&mut self, kind: MessageKind, text: String) {
        if kind != MessageKind::State {
            self.0.retain(|(waiting, _)| *waiting != kind);
        }
        self.0.push_back((kind, text));
    }

    /// Passes messages to `send` until it returns false, which means that there is no room. Messages
    /// that were sent are removed.
    pub(super) fn send_all(&mut self, mut send: impl FnMut(&str) -> bool) {
        while let Some((_, text)) = self.0.front() {
            if !send(text) {
                return;
            }
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MessageKind::{Extension, State, Status, Watchdog};

    /// Returns what a queue sends that has room for `room` messages.
    fn sent(queue: &mut NotifyQueue, mut room: usize) -> Vec<String> {
        let mut sent = Vec::new();
        queue.send_all(|text| {
            let fits = room > 0;
            if fits {
                room -= 1;
                sent.push(text.to_owned());
            }
            fits
        });
        sent
    }

    #[test]
    fn newest_status_waits_and_every_state() {
        let mut queue = NotifyQueue::new();
        for (kind, text) in [
            (Status, "STATUS=1"),
            (State, "RELOADING=1"),
            (Status, "STATUS=2"),
            (State, "READY=1"),
            (State, "RELOADING=1"),
            (Status, "STATUS=3"),
            (State, "READY=1"),
        ] {
            queue.push(kind, text.to_owned());
        }
        assert_eq!(sent(&mut queue, 0), [""; 0]);
        assert_eq!(sent(&mut queue, 2), ["RELOADING=1", "READY=1"]);
        queue.push(State, "STOPPING=1".to_owned());
        assert_eq!(sent(&mut queue, 9), ["RELOADING=1", "STATUS=3", "READY=1", "STOPPING=1"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn pings_and_extensions_do_not_pile_up() {
        let mut queue = NotifyQueue::new();
        for number in 0..1000 {
            queue.push(Watchdog, "WATCHDOG=1".to_owned());
            queue.push(Extension, format!("EXTEND_TIMEOUT_USEC={number}"));
        }
        assert_eq!(sent(&mut queue, 9), ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=999"]);
    }
}
