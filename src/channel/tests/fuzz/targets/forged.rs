//! Fuzz target: any bytes as a worker's completions. The check is shared with the normal test run.
#![no_main]

#[path = "../forged.rs"]
mod forged;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    forged::run_case(bytes);
});
