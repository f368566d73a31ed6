//! Chance that can be played again.

use std::num::NonZeroU16;
use std::time::Duration;

/// splitmix64 (Steele, Lea, Flood 2014): enough randomness for a world, and the same on every machine.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Often nothing, else up to the most.
    pub(super) fn chance(&mut self, often: u64, most: u64) -> u64 {
        if self.percent(often) { self.below(most + 1) } else { 0 }
    }

    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).expect("a history is short");
        Duration::from_millis(self.below(longest + 1))
    }

    pub(super) fn one_to(&mut self, most: u16) -> NonZeroU16 {
        let n = u16::try_from(1 + self.below(u64::from(most))).expect("at most `most`");
        NonZeroU16::new(n).expect("at least one")
    }
}
