//! The encoding of the last response head, for an application that sends the same head again.
//!
//! An application that writes its headers as a literal passes the same tuple objects with each
//! response. Tuples of byte strings cannot change, so their encoding does not change either.
//! Without this module the smallest response would cost the worker 730 more instructions. For a
//! framework that makes new tuples for each response nothing is kept.

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::head::ResponseHead;
use crate::python::reference_count;

/// Maximum number of headers that are kept.
const MAX_HEADERS: usize = 16;

/// Maximum length of an encoding that is kept.
const MAX_ENCODED_BYTES: usize = 1024;

/// The last head whose headers the application has kept.
#[derive(Debug, Default)]
pub(super) struct LastHead {
    head: ResponseHead,
    /// The headers: exact tuples of two exact `bytes`.
    headers: Vec<Py<PyAny>>,
    /// The encoded headers.
    fields: Vec<u8>,
}

impl LastHead {
    /// Appends the encoding of `headers` to `fields` and returns the head, if the status and the
    /// headers are those of the last head.
    pub(super) fn repeat(
        &self,
        status: u16,
        headers: &Bound<'_, PyList>,
        fields: &mut Vec<u8>,
    ) -> Option<ResponseHead> {
        let is_same = self.head.status == status
            && !self.headers.is_empty()
            && self.headers.len() == headers.len()
            && headers.iter().zip(&self.headers).all(|(header, last)| header.is(last));
        if !is_same {
            return None;
        }
        fields.extend_from_slice(&self.fields);
        Some(self.head)
    }

    /// Keeps a head, if the application refers to each of the headers other than by this list.
    /// `headers` are exact tuples of two exact `bytes`, and `fields` is their encoding.
    pub(super) fn store(&mut self, head: ResponseHead, headers: &Bound<'_, PyList>, fields: &[u8]) {
        /// References of the list, and of the iteration below.
        const OTHER_REFERENCES: isize = 2;
        let py = headers.py();
        let is_small = headers.len() <= MAX_HEADERS && fields.len() <= MAX_ENCODED_BYTES;
        let is_kept = |header: Bound<'_, PyAny>| reference_count(header.as_unbound(), py) > OTHER_REFERENCES;
        if !is_small || !headers.iter().all(is_kept) {
            return;
        }
        self.head = head;
        self.headers.clear();
        self.headers.extend(headers.iter().map(Bound::unbind));
        self.fields.clear();
        self.fields.extend_from_slice(fields);
    }
}
