//! Fuzz target: any bytes as the words and rings of a map. The checks are shared with the normal
//! test run.
#![no_main]

#[path = "../checks.rs"]
#[expect(dead_code, reason = "the other target uses the rest")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::rings(bytes);
});
