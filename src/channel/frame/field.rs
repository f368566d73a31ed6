//! Header fields inside a frame.

use super::reader::Reader;
use crate::ProtocolError;
use crate::header::{LITERAL, index_of, name_of};

/// The error for a part of a frame that is longer than 65,535 bytes, the limit of its length field.
/// Contains the part's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is longer than 65535 bytes")]
pub struct TooLong(pub &'static str);

/// The name of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldName<'a> {
    /// Index of [`NAMES`](crate::header::NAMES).
    Known(u8),
    /// Any other name, lower-case in requests.
    Literal(&'a [u8]),
}

impl<'a> FieldName<'a> {
    /// Returns the name as bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Known(index) => name_of(*index).unwrap_or_default().as_bytes(),
            Self::Literal(name) => name,
        }
    }
}

/// Iterates over the fields of a decoded frame.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    /// Fields still to be yielded.
    remaining: u16,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (FieldName<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        read_field(&mut self.reader).ok()
    }
}

/// Reads one field: name and value.
pub(super) fn read_field<'a>(reader: &mut Reader<'a>) -> Result<(FieldName<'a>, &'a [u8]), ProtocolError> {
    let name = match reader.u8()? {
        LITERAL => {
            let len = usize::from(reader.u16()?);
            FieldName::Literal(reader.bytes(len)?)
        }
        index if name_of(index).is_some() => FieldName::Known(index),
        _ => return Err(ProtocolError::Frame("unknown field name index")),
    };
    let len = usize::from(reader.u16()?);
    Ok((name, reader.bytes(len)?))
}

pub(super) fn u16_len(what: &'static str, len: usize) -> Result<u16, TooLong> {
    u16::try_from(len).map_err(|_| TooLong(what))
}

/// Appends one field whose name is an index of [`NAMES`](crate::header::NAMES).
///
/// # Errors
/// The value is too long.
pub fn encode_known_field(name: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let [low, high] = u16_len("field value", value.len())?.to_le_bytes();
    out.extend_from_slice(&[name, low, high]);
    out.extend_from_slice(value);
    Ok(())
}

/// Appends one field. Only a lower-case name can be encoded as an index.
///
/// # Errors
/// The name or value is too long.
pub fn encode_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    if let Some(index) = index_of(name) {
        return encode_known_field(index, value, out);
    }
    out.push(LITERAL);
    out.extend_from_slice(&u16_len("field name", name.len())?.to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&u16_len("field value", value.len())?.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

pub(super) fn encode_fields<'f>(
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    out: &mut Vec<u8>,
) -> Result<u16, TooLong> {
    let mut count: u16 = 0;
    for (name, value) in fields {
        encode_field(name, value, out)?;
        count = count.checked_add(1).ok_or(TooLong("list of fields"))?;
    }
    Ok(count)
}

/// Iterates over the fields of a decoded frame; `bytes` is its range
/// [`DecodedCompletion::fields`](super::DecodedCompletion::fields).
pub fn fields(bytes: &[u8], n_fields: u16) -> Fields<'_> {
    Fields { reader: Reader(bytes), remaining: n_fields }
}
