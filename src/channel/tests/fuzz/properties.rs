//! The checks of `checks.rs` in the normal test run: a fixed number of cases from a fixed seed, on
//! a stable toolchain, in about a second. The fuzz targets search further; these tests prevent
//! regressions.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and prints its input")]

mod checks;
#[path = "../../../../tests/rng.rs"]
mod rng;

use std::fs;
use std::path::Path;

use rgun_channel::PROTOCOL_VERSION;

use self::rng::Rng;

/// Prints the bytes of the case when a check panics, so that it can be repeated.
struct Case<'a>(&'static str, &'a [u8]);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: failed with the bytes {:02x?}", self.0, self.1);
        }
    }
}

/// Returns a byte at a boundary of lengths, flags or kinds, or a random one.
fn odd_byte(rng: &mut Rng) -> u8 {
    const ODD: [u8; 10] = [0, 1, 2, 3, 4, 8, 0x7f, 0x80, 0xfe, 0xff];
    if rng.index(2) == 0 { rng.pick(&ODD) } else { rng.byte() }
}

fn golden_frames() -> Vec<Vec<u8>> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("v{PROTOCOL_VERSION}"));
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let frames: Vec<Vec<u8>> = files
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
        })
        .collect();
    assert!(frames.len() >= 15, "{} has no golden frames", directory.display());
    frames
}

/// Changes up to three places of the bytes; `others` are frames to splice in.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    for _ in 0..rng.index(4) {
        let at = rng.index(bytes.len());
        match rng.index(6) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_slice(&rng.next_u64().to_le_bytes()),
            2 => {
                let other = &others[rng.index(others.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(at..).unwrap_or_default());
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.index(8),
            _ if at < bytes.len() => bytes[at] = odd_byte(rng),
            _ => {}
        }
    }
}

#[test]
fn mutated_frames_are_refused_or_round_trip() {
    let golden = golden_frames();
    let mut rng = Rng::new(0x7267_756e_0000_0001);
    let (mut accepted, cases) = (0, 150_000);
    for _ in 0..cases {
        let mut bytes = golden[rng.index(golden.len())].clone();
        mutate(&mut bytes, &golden, &mut rng);
        let _case = Case("frame", &bytes);
        accepted += usize::from(checks::frame(&bytes) > 0);
    }
    // Otherwise the mutations change too much, or too little, to test anything.
    assert!((cases / 10..cases - cases / 10).contains(&accepted), "{accepted} of {cases} were accepted");
}

#[test]
fn hostile_words_and_rings_stay_in_bounds() {
    let mut rng = Rng::new(0x7267_756e_0000_0002);
    let (mut frames, cases) = (0, 50_000);
    for _ in 0..cases {
        let bytes: Vec<u8> = (0..rng.index(96)).map(|_| odd_byte(&mut rng)).collect();
        let _case = Case("rings", &bytes);
        frames += checks::rings(&bytes);
    }
    assert!(frames > cases, "only {frames} frames were accepted in {cases} cases");
}
