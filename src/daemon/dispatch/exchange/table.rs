//! The table of all exchanges.
//!
//! An id is used again only after 2^40 others, so a completion for an exchange that is no longer in
//! the table is detected.

use rgun_channel::frame::ExchangeId;

use crate::dispatch::exchange::Exchange;

/// All exchanges, found by id in constant time: the low bits of an id are an index, the others a
/// counter.
#[derive(Debug, Default)]
pub(crate) struct ExchangeTable {
    slots: Vec<Option<Exchange>>,
    /// Indices of empty slots.
    free: Vec<u32>,
    /// Number of ids issued so far.
    n_issued: u64,
    /// Number of exchanges in the table.
    n_live: usize,
    /// Buffers of former frames, for reuse.
    spare_frames: Vec<Vec<u8>>,
}

/// Number of the low bits of an id that are its index.
const INDEX_BITS: u32 = 24;

/// Maximum number of buffers kept for reuse.
const MAX_SPARE_FRAMES: usize = 256;

/// Maximum capacity in bytes of a buffer kept for reuse.
const MAX_SPARE_FRAME_BYTES: usize = 16 * 1024;

impl ExchangeTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.n_live == 0
    }

    /// Returns an id for [`ExchangeTable::insert`]. The caller must insert the exchange before the
    /// next change of the table, or drop the id.
    pub(crate) fn next_id(&mut self) -> ExchangeId {
        self.n_issued += 1;
        let index = self.free.last().copied().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).ok().filter(|index| index >> INDEX_BITS == 0);
            index.expect("memory ends before there are 2^24 requests at a time")
        });
        ExchangeId(self.n_issued << INDEX_BITS | u64::from(index))
    }

    /// Adds an exchange and returns it. Inlined, because a call would copy the exchange, half a
    /// kilobyte, once more.
    #[inline]
    pub(crate) fn insert(&mut self, exchange: Exchange) -> &mut Exchange {
        let index = index(exchange.id);
        if index == self.slots.len() {
            self.slots.push(None);
        } else {
            self.free.pop();
        }
        self.n_live += 1;
        self.slots[index].insert(exchange)
    }

    pub(crate) fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.slots.get(index(id))?.as_ref().filter(|exchange| exchange.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.slots.get_mut(index(id))?.as_mut().filter(|exchange| exchange.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Exchange> {
        self.slots.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.slots.iter_mut().flatten()
    }

    /// Removes the exchange if [`Exchange::is_finished`].
    pub(crate) fn remove_if_finished(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.get_mut(id)
            && exchange.is_finished()
        {
            let frame = std::mem::take(&mut exchange.frame);
            // Dropped in place, because moving it out copies over half a kilobyte.
            self.slots[index(id)] = None;
            self.free.push(u32::try_from(index(id)).expect("an index of 24 bits"));
            self.n_live -= 1;
            self.recycle_frame(frame);
        }
    }

    pub(crate) fn spare_frame(&mut self) -> Vec<u8> {
        self.spare_frames.pop().unwrap_or_default()
    }

    pub(crate) fn recycle_frame(&mut self, frame: Vec<u8>) {
        if self.spare_frames.len() < MAX_SPARE_FRAMES && frame.capacity() <= MAX_SPARE_FRAME_BYTES {
            self.spare_frames.push(frame);
        }
    }
}

fn index(id: ExchangeId) -> usize {
    (id.0 & ((1 << INDEX_BITS) - 1)) as usize
}
