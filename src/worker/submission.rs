//! A frame that was claimed from the submission ring.
//!
//! A large inline body is copied once, from the ring into the `bytes` object that the application
//! gets. That needs the GIL. A thread that waits for a request does not hold it, and so copies the
//! whole frame; under load, requests are there already and threads claim them with the GIL held.
//!
//! # Why `unsafe`
//! The limited API has no safe function that creates a `bytes` object and leaves the bytes to be
//! written.
#![expect(unsafe_code, reason = "writes into a new bytes object")]

use std::mem::MaybeUninit;
use std::ptr::null;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::ProtocolError;
use rgun_channel::frame::Request;
use rgun_channel::ring::FrameInRing;

/// Minimum length in bytes of a body that is stored apart.
const MIN_APART: usize = 4096;

/// A claimed frame. Reused for the next one.
#[derive(Debug, Default)]
pub(crate) struct ClaimBuffer {
    /// The frame, without its body if that is in `body`.
    frame: Vec<u8>,
    /// The inline body of a request, if it is stored apart.
    body: Option<Py<PyBytes>>,
}

impl ClaimBuffer {
    /// Copies a frame from the ring, except for a large body, which becomes a `bytes` object.
    pub(crate) fn read(&mut self, py: Python<'_>, mut claimed: FrameInRing<'_>) {
        self.clear();
        let len = claimed.len();
        if len >= Request::PREFIX_BYTES + MIN_APART {
            claimed.copy_out(Request::PREFIX_BYTES, &mut self.frame);
            // A body longer than the frame is an error that decoding finds.
            if let Some(body_len) = Request::inline_body_len(&self.frame)
                && (MIN_APART..=claimed.len()).contains(&body_len)
            {
                claimed.copy_out(claimed.len() - body_len, &mut self.frame);
                self.body = read_body(py, &mut claimed);
            }
        }
        claimed.copy_out(claimed.len(), &mut self.frame);
    }

    /// Copies a whole frame from the ring.
    pub(crate) fn read_whole(&mut self, mut claimed: FrameInRing<'_>) {
        self.clear();
        claimed.copy_out(claimed.len(), &mut self.frame);
    }

    /// Returns the frame, and the body that is not part of it.
    pub(crate) fn take(&mut self) -> (&[u8], Option<Py<PyBytes>>) {
        (&self.frame, self.body.take())
    }

    fn clear(&mut self) {
        self.frame.clear();
        self.body = None;
    }
}

/// Decodes a request, whose body may be apart from its frame.
///
/// # Errors
/// A length or value is impossible.
pub(crate) fn decode_request<'a>(
    py: Python<'_>,
    frame: &'a [u8],
    body: Option<&Py<PyBytes>>,
) -> Result<Request<'a>, ProtocolError> {
    match body {
        Some(body) => Request::decode_without_body(frame, body.as_bytes(py).len()),
        None => Request::decode(frame),
    }
}

/// Copies the rest of the frame into a `bytes` object. Returns `None` and copies nothing if there is
/// no memory for it.
fn read_body(py: Python<'_>, claimed: &mut FrameInRing<'_>) -> Option<Py<PyBytes>> {
    let len = isize::try_from(claimed.len()).ok()?;
    // SAFETY: with a null pointer, CPython allocates an object of this length whose bytes are to be
    // written before any other use (C API, "Bytes Objects"). The result is a new reference, or null
    // with an exception set, which `take` clears.
    let bytes = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyBytes_FromStringAndSize(null(), len)) };
    let Some(bytes) = bytes else {
        drop(PyErr::take(py));
        return None;
    };
    // SAFETY: the object is a bytes object, as just created.
    let bytes = unsafe { bytes.cast_into_unchecked::<PyBytes>() };
    // SAFETY: the pointer is to the object's own bytes, of which there are `len`; no other reference to
    // the object exists, so nothing reads or writes them meanwhile.
    let content = unsafe {
        let start = ffi::PyBytes_AsString(bytes.as_ptr()).cast::<MaybeUninit<u8>>();
        std::slice::from_raw_parts_mut(start, claimed.len())
    };
    claimed.copy_to(content);
    Some(bytes.unbind())
}
