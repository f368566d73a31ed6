//! The awaitable of a `send()` that has completed.
//!
//! Nearly every `await send(message)` awaits it, so `__await__` and `__next__` are C functions of a
//! subclass: PyO3's functions would take 100 more instructions per message.
//!
//! # Why `unsafe`
//! PyO3 has no safe way to fill a slot of a type with a C function.
#![expect(unsafe_code, reason = "creates a type, whose slots CPython calls directly")]

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::awaitable::exception_from_throw;

/// A `send()` that has completed. [`create`] makes the only instance, of a subclass.
#[pyclass(frozen, subclass, module = "rgun")]
#[derive(Debug)]
pub(crate) struct CompletedSend;

#[pymethods]
impl CompletedSend {
    #[new]
    fn new() -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "the signature is Python's")]
    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyStopIteration::new_err(()))
    }

    #[expect(clippy::unused_self, reason = "the signature is Python's")]
    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(exception_from_throw(kind, value, traceback)?)
    }

    #[expect(clippy::unused_self, reason = "the signature is Python's")]
    fn close(&self) {}
}

/// Creates the awaitable.
pub(super) fn create(py: Python<'_>) -> PyResult<Py<CompletedSend>> {
    let mut slots = [
        slot(ffi::Py_am_await, return_self as *mut c_void),
        slot(ffi::Py_tp_iter, return_self as *mut c_void),
        slot(ffi::Py_tp_iternext, end_iteration as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut specification = ffi::PyType_Spec {
        name: c"rgun.CompletedSend".as_ptr(),
        // The size of the base class.
        basicsize: 0,
        itemsize: 0,
        flags: c_uint::try_from(ffi::Py_TPFLAGS_DEFAULT).expect("flags of the limited API"),
        slots: slots.as_mut_ptr(),
    };
    // CPython 3.9 accepts only a tuple.
    let bases = PyTuple::new(py, [CompletedSend::type_object(py)])?;
    // SAFETY: the slots end with a zero, and their functions have the signatures of the slots;
    // CPython copies slots and specification; the name is static. The result is a new reference, or
    // null with an exception set.
    let subclass = unsafe {
        let subclass = ffi::PyType_FromSpecWithBases(&raw mut specification, bases.as_ptr());
        Bound::from_owned_ptr_or_err(py, subclass)?
    };
    Ok(subclass.call0()?.cast_into::<CompletedSend>()?.unbind())
}

const fn slot(slot: c_int, function: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc: function }
}

/// `__await__` and `__iter__`.
///
/// # Safety
/// Call it while attached, with an object.
unsafe extern "C" fn return_self(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as the caller guarantees.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// `__next__`: null without an exception ends the iteration, and `await` returns None.
///
/// # Safety
/// No condition: the argument is not used. The signature is that of the slot.
unsafe extern "C" fn end_iteration(_: *mut ffi::PyObject) -> *mut ffi::PyObject {
    null_mut()
}
