//! `get_debug()` and `is_running()` of asyncio's event loop, as built-in functions.
//!
//! asyncio calls `loop.get_debug()` when it creates a Future or a task, and `loop.is_running()` for
//! an eager task. Both are Python methods that read one attribute, and a call takes 780
//! instructions. A call of the functions here takes 480. Each request needs one task at least.
//! uvloop's methods are built-in functions already.
//!
//! # Why `unsafe`
//! A function of [`crate::fastcall`] would cost as much as the Python method.
#![expect(unsafe_code, reason = "functions that CPython calls directly")]

use std::ffi::CStr;
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Replaces both methods of this loop. They must only read `_debug` and `_thread_id`, which
/// `Server.has_asyncio_flags` in `asgi.py` checks.
pub(super) fn install(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event_loop.py();
    let attributes = event_loop.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    let get_debug = bind(&attributes, const { &definition(c"get_debug", read_debug) })?;
    let is_running = bind(&attributes, const { &definition(c"is_running", read_running) })?;
    event_loop.setattr(intern!(py, "get_debug"), get_debug)?;
    event_loop.setattr(intern!(py, "is_running"), is_running)
}

/// Returns the definition of a function without arguments.
const fn definition(name: &'static CStr, function: ffi::PyCFunction) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: c"".as_ptr(),
    }
}

/// Returns a Python function that is called with the loop's attributes.
fn bind<'py>(
    attributes: &Bound<'py, PyDict>,
    definition: &'static ffi::PyMethodDef,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the definition is static and never written; the function takes its own reference to
    // the attributes; the thread is attached. The result is a new reference, or null with an
    // exception set.
    unsafe {
        let function = ffi::PyCFunction_NewEx(
            std::ptr::from_ref(definition).cast_mut(),
            attributes.as_ptr(),
            null_mut(),
        );
        Bound::from_owned_ptr_or_err(attributes.py(), function)
    }
}

/// `BaseEventLoop.get_debug`: returns `_debug`.
///
/// # Safety
/// As [`attribute`].
unsafe extern "C" fn read_debug(attributes: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as the caller guarantees; a null has an exception set.
    unsafe {
        let value = attribute(attributes, intern!(Python::assume_attached(), "_debug").as_ptr());
        ffi::Py_XINCREF(value);
        value
    }
}

/// `BaseEventLoop.is_running`: returns whether `_thread_id` is not None.
///
/// # Safety
/// As [`attribute`].
unsafe extern "C" fn read_running(
    attributes: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as the caller guarantees; a null has an exception set.
    unsafe {
        let value = attribute(attributes, intern!(Python::assume_attached(), "_thread_id").as_ptr());
        if value.is_null() { value } else { ffi::PyBool_FromLong((value != ffi::Py_None()).into()) }
    }
}

/// Returns a borrowed reference to an attribute of the loop, or null with an exception set.
///
/// # Safety
/// Call it while attached, with a dictionary and a string.
unsafe fn attribute(attributes: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as the caller guarantees.
    unsafe {
        let value = ffi::PyDict_GetItemWithError(attributes, name);
        if value.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetObject(ffi::PyExc_AttributeError, name);
        }
        value
    }
}
