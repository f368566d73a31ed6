//! The check of `forged.rs` in the normal test run: a fixed number of cases from a fixed seed, on a
//! stable toolchain. The fuzz target searches further; this test prevents regressions.
#![expect(clippy::print_stderr, reason = "a failing test prints its input")]

mod forged;
#[path = "../../../../tests/rng.rs"]
mod rng;

use self::rng::Rng;

/// Prints the bytes of the case when a check panics, so that it can be repeated.
struct ForgedCase<'a>(&'a [u8]);

impl Drop for ForgedCase<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("forged: failed with the bytes {:02x?}", self.0);
        }
    }
}

#[test]
fn forged_completions_are_answered_or_fail_the_worker() {
    let mut rng = Rng::new(0x7267_756e_0000_0003);
    let (mut complete, mut failed, cases) = (0, 0, 2_000);
    for _ in 0..cases {
        let len = 8 + rng.below(120);
        let bytes: Vec<u8> = (0..len).map(|_| rng.byte()).collect();
        let _case = ForgedCase(&bytes);
        let outcome = forged::run_case(&bytes);
        complete += usize::from(outcome.complete > 0);
        failed += usize::from(outcome.failed);
    }
    // Otherwise the forged completions are too random, or too correct, to test anything.
    assert!(failed > cases / 4, "only {failed} of {cases} workers failed");
    assert!(failed < cases, "every worker failed");
    assert!(complete > cases / 4, "only {complete} of {cases} clients got a response");
}
