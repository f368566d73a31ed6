//! The encoders of the content codings, with bounded memory.

use std::io;

use compression_codecs::brotli::params::EncoderParams as BrotliParams;
use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::flate::params::FlateEncoderParams;
use compression_codecs::zstd::params::CParameter;
use compression_codecs::{BrotliEncoder, EncodeV2, GzipEncoder, ZstdEncoder};

use crate::negotiation::Coding;

/// Bytes by which the output grows.
const OUTPUT_BLOCK: usize = 8 * 1024;

/// log₂ of the largest window: 128 KiB. The defaults, 4 MiB for br and 2 MiB for zstd, would be
/// allocated for each response, although most pages are smaller.
const MAX_WINDOW_LOG: u32 = 17;

/// log₂ of the smallest window that all encoders accept.
const MIN_WINDOW_LOG: u32 = 10;

/// Highest quality of br. With a higher quality, br's hash tables take 16 MiB or more.
const MAX_BROTLI_QUALITY: u8 = 6;

/// Encodes one body.
#[derive(Debug)]
pub(in crate::http) enum Encoder {
    Zstd(ZstdEncoder),
    Brotli(Box<BrotliEncoder>),
    Gzip(Box<GzipEncoder>),
}

impl Encoder {
    /// Creates an encoder for a body of `len` bytes, if that is known. `level` is 1 to 9.
    pub(in crate::http) fn new(coding: Coding, level: u8, len: Option<u64>) -> Self {
        let window_log = window_log(len);
        match coding {
            Coding::Zstd => {
                let window = [CParameter::window_log(window_log)];
                Self::Zstd(ZstdEncoder::new_with_params(i32::from(level), &window))
            }
            Coding::Brotli => {
                let quality = Level::Precise(i32::from(level.min(MAX_BROTLI_QUALITY)));
                let window_log = i32::try_from(window_log).unwrap_or_default();
                let params = BrotliParams::default().quality(quality).window_size(window_log).block_size(16);
                let hint = len.and_then(|len| usize::try_from(len).ok()).unwrap_or_default();
                Self::Brotli(Box::new(BrotliEncoder::new(params.size_hint(hint))))
            }
            Coding::Gzip => {
                let level = FlateEncoderParams::from(Level::Precise(i32::from(level)));
                Self::Gzip(Box::new(GzipEncoder::new(level)))
            }
        }
    }

    /// Returns an upper bound of an encoder's memory in bytes.
    pub(in crate::http) fn memory(coding: Coding) -> u64 {
        match coding {
            Coding::Zstd => 2 << 20,
            Coding::Brotli => 4 << 20,
            Coding::Gzip => 320 << 10,
        }
    }

    /// Encodes all of `input`. Appends encoded bytes to `output`; the encoder may keep some for
    /// later.
    pub(in crate::http) fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        let mut input = PartialBuffer::new(input);
        while !input.unwritten().is_empty() {
            self.run(output, |encoder, output| encoder.encode(&mut input, output).map(|()| true))?;
        }
        Ok(())
    }

    /// Appends everything that was encoded, so that the client can decode all of the input so far.
    pub(in crate::http) fn flush(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        while !self.run(output, |encoder, output| encoder.flush(output))? {}
        Ok(())
    }

    /// Appends all remaining output and the end of the stream.
    pub(in crate::http) fn finish(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        while !self.run(output, |encoder, output| encoder.finish(output))? {}
        Ok(())
    }

    /// Runs a step with room for more output. Returns the step's result.
    fn run(
        &mut self,
        output: &mut Vec<u8>,
        step: impl FnOnce(&mut dyn EncodeV2, &mut WriteBuffer<'_>) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let before = output.len();
        output.resize(before + OUTPUT_BLOCK, 0);
        let mut room = WriteBuffer::new_initialized(output.get_mut(before..).unwrap_or_default());
        let result = match self {
            Self::Zstd(encoder) => step(encoder, &mut room),
            Self::Brotli(encoder) => step(&mut **encoder, &mut room),
            Self::Gzip(encoder) => step(&mut **encoder, &mut room),
        };
        let written = room.written_len();
        output.truncate(before + written);
        result
    }
}

/// Returns log₂ of the window for a body of this length.
fn window_log(len: Option<u64>) -> u32 {
    let needed = len.map_or(MAX_WINDOW_LOG, |len| len.max(1).next_power_of_two().trailing_zeros());
    needed.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)
}

#[cfg(test)]
pub(super) mod tests {
    use compression_codecs::{BrotliDecoder, DecodeV2, GzipDecoder, ZstdDecoder};

    use super::*;

    /// Decodes `input`, which may be truncated.
    pub(in crate::http::compression) fn decode(coding: Coding, input: &[u8]) -> Vec<u8> {
        let mut decoder: Box<dyn DecodeV2> = match coding {
            Coding::Zstd => Box::new(ZstdDecoder::new()),
            Coding::Brotli => Box::new(BrotliDecoder::new()),
            Coding::Gzip => Box::new(GzipDecoder::new()),
        };
        let mut decoded = vec![0; 4 << 20];
        let mut input = PartialBuffer::new(input);
        let mut output = WriteBuffer::new_initialized(&mut decoded);
        while !input.unwritten().is_empty() && !decoder.decode(&mut input, &mut output).unwrap() {}
        let len = output.written_len();
        decoded.truncate(len);
        decoded
    }

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn text(len: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("line {n} of {}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn bodies_of_all_sizes_and_levels_are_decoded() {
        for coding in ALL {
            for level in [1, 9] {
                for len in [0, 1, 1000, 150_000] {
                    let text = text(len);
                    for hint in [None, Some(len as u64)] {
                        let mut encoder = Encoder::new(coding, level, hint);
                        let mut encoded = Vec::new();
                        for piece in text.chunks(30_000) {
                            encoder.encode(piece, &mut encoded).unwrap();
                        }
                        encoder.finish(&mut encoded).unwrap();
                        assert!(decode(coding, &encoded) == text, "{coding:?} {level} {len} {hint:?}");
                        assert!(len < 1000 || encoded.len() < len * 3 / 4, "{coding:?} {level} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn flushed_parts_are_decoded_before_the_end() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding, 4, None);
            let (mut encoded, mut expected) = (Vec::new(), Vec::new());
            for n in 0..20 {
                let part = format!("data: event {n}\n\n");
                expected.extend_from_slice(part.as_bytes());
                encoder.encode(part.as_bytes(), &mut encoded).unwrap();
                encoder.flush(&mut encoded).unwrap();
                assert_eq!(decode(coding, &encoded), expected, "{coding:?}");
            }
        }
    }

    #[test]
    fn window_fits_the_body_and_is_bounded() {
        for (len, log) in
            [(None, 17), (Some(0), 10), (Some(2000), 11), (Some(1 << 17), 17), (Some(u64::MAX >> 1), 17)]
        {
            assert_eq!(window_log(len), log, "{len:?}");
        }
    }
}
