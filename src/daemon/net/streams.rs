//! The open streams of a multiplexed connection (HTTP/2). The tracker's sweep and the end of the
//! connection visit the streams through this table.
//!
//! A stream is a [`Connection`](super::connection::Connection) of its own below that of the socket:
//! with its own phase, output progress, timeouts and close reason, so code that serves a request
//! need not know whether the socket is shared. A stream does not count towards
//! `limits.connections`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The open streams of one connection, by key. Generic like the registry, because a stream refers
/// to its connection.
#[derive(Debug)]
pub(super) struct StreamTable<C>(Mutex<StreamSlots<C>>);

#[derive(Debug)]
struct StreamSlots<C> {
    streams: Vec<Option<Weak<C>>>,
    /// Keys that are not in use.
    free: Vec<usize>,
    count: usize,
}

impl<C> Default for StreamTable<C> {
    fn default() -> Self {
        Self(Mutex::new(StreamSlots { streams: Vec::new(), free: Vec::new(), count: 0 }))
    }
}

impl<C> StreamTable<C> {
    fn lock(&self) -> MutexGuard<'_, StreamSlots<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the stream that `create` returns for its key.
    pub(super) fn add(&self, create: impl FnOnce(usize) -> C) -> Arc<C> {
        let mut slots = self.lock();
        let key = slots.free.pop().unwrap_or(slots.streams.len());
        let stream = Arc::new(create(key));
        let weak = Some(Arc::downgrade(&stream));
        match slots.streams.get_mut(key) {
            Some(slot) => *slot = weak,
            None => slots.streams.push(weak),
        }
        slots.count += 1;
        stream
    }

    /// Removes a stream. Returns true if it was the last one.
    pub(super) fn remove(&self, key: usize) -> bool {
        let mut slots = self.lock();
        if slots.streams.get_mut(key).and_then(Option::take).is_some() {
            slots.free.push(key);
            slots.count -= 1;
        }
        slots.count == 0
    }

    /// Calls `visit` for each open stream. The table is not locked during the visits, because
    /// dropping a stream locks it.
    pub(super) fn for_each(&self, visit: impl FnMut(&C)) {
        let streams: Vec<_> = self.lock().streams.iter().flatten().filter_map(Weak::upgrade).collect();
        streams.iter().map(|stream| &**stream).for_each(visit);
    }

    /// Returns the number of open streams.
    pub(super) fn count(&self) -> usize {
        self.lock().count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_stream_is_not_visited_and_its_key_is_reused() {
        let table = StreamTable::default();
        let (first, second) = (table.add(|key| key), table.add(|key| key));
        assert_eq!((*first, *second, table.count()), (0, 1, 2));
        assert!(!table.remove(*first));
        let mut visited = Vec::new();
        table.for_each(|key| visited.push(*key));
        assert_eq!(visited, [1]);
        assert_eq!(*table.add(|key| key), 0);
        assert!(!table.remove(0) && table.remove(1));
    }
}
