//! Reads integers and byte strings with checks, and writes length-prefixed byte strings. Shared
//! with [`crate::control`].

use crate::ProtocolError;

/// Appends `len u32` and the text.
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_bytes(text.as_bytes(), out);
}

/// Appends `len u32` and the bytes.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("texts are bounded by their writers");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Fills an array with values in order. This is cheaper than appending to a vector, which checks
/// the capacity for each value.
#[derive(Debug)]
pub(super) struct ArrayWriter<'a>(pub(super) &'a mut [u8]);

impl ArrayWriter<'_> {
    /// Writes the next value.
    ///
    /// # Panics
    /// If the array is full.
    pub(super) fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        let unwritten = std::mem::take(&mut self.0);
        let (next, rest) = unwritten.split_first_chunk_mut().expect("the array has room for all values");
        *next = bytes;
        self.0 = rest;
    }
}

/// Reads values off the front of a slice; every read is checked.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], ProtocolError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ProtocolError::Frame("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(ProtocolError::Frame("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ProtocolError> {
        std::str::from_utf8(self.sized_bytes()?).map_err(|_| ProtocolError::Frame("text is not UTF-8"))
    }

    /// Reads bytes written by [`put_bytes`].
    pub(crate) fn sized_bytes(&mut self) -> Result<&'a [u8], ProtocolError> {
        let len = self.u32()? as usize;
        self.bytes(len)
    }
}
