//! The check of `forged.rs` in the normal test run: a fixed number of cases from a fixed seed, on a stable toolchain. The
//! fuzz target searches further; this keeps what it promises.
#![expect(clippy::print_stderr, reason = "a test says with what it failed")]

mod forged;

/// Prints the case when a check panics: its bytes are all that is needed to repeat it.
struct Case<'a>(&'a [u8]);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("forged: failed with the bytes {:02x?}", self.0);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

#[test]
fn whatever_a_worker_completes_its_client_gets_answers_or_the_end_and_the_daemon_goes_on() {
    let mut random = Random(0x7267_756e_0000_0003);
    let (mut complete, mut condemned, cases) = (0, 0, 2_000);
    for _ in 0..cases {
        let len = 8 + random.next() % 120;
        let bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        let _case = Case(&bytes);
        let outcome = forged::forged(&bytes);
        complete += usize::from(outcome.complete > 0);
        condemned += usize::from(outcome.condemned);
    }
    // Otherwise the forgeries are too wild to say anything, or too tame.
    assert!(condemned > cases / 4, "only {condemned} of {cases} workers were condemned");
    assert!(condemned < cases, "every worker was condemned");
    assert!(complete > cases / 4, "only {complete} of {cases} clients had an answer");
}
