//! Calls without an argument tuple, in both directions: [`call`] calls a Python function; [`bind`]
//! makes a Python function from a Rust object, such as the `start_response`, `write`, `receive` and
//! `send` that applications get.
//!
//! Calling an instance of a class (`tp_call`) or a PyO3 function makes a tuple; `METH_FASTCALL`
//! does not. The limited API has it since 3.10, CPython since 3.7. Together with the reuse of the
//! functions by later exchanges this saves 0.1 µs per request (WSGI and ASGI, CPython 3.13).
//!
//! # Why `unsafe`
//! PyO3 has no such functions for the limited API of 3.9.
#![expect(unsafe_code, reason = "calls a function of the C API, and is called by CPython")]

use std::any::Any;
use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{Borrowed, PyClass};

/// Maximum number of positional arguments.
const MAX_ARGUMENTS: usize = 3;

/// Arguments by position; None for those not passed.
pub(crate) type Arguments<'a, 'py> = [Option<Borrowed<'a, 'py, PyAny>>; MAX_ARGUMENTS];

/// A function bound to an object.
pub(crate) trait FastFunction {
    /// The type of the object.
    type Object: PyClass;

    /// The function's `__name__`. The object has a method of the same name that accepts keywords.
    /// That method is called if [`FastFunction::call`] returns `None`, and raises the exception for
    /// wrong arguments.
    const NAME: &'static CStr;

    /// Performs the call. Returns `None` if the arguments are not the usual ones.
    fn call<'py>(
        object: &Bound<'py, Self::Object>,
        arguments: Arguments<'_, 'py>,
    ) -> Option<PyResult<Bound<'py, PyAny>>>;
}

/// From CPython's `methodobject.h`: arguments are passed in an array, names of keywords in a tuple.
const METH_FASTCALL: c_int = 0x0080;

/// `PyCFunctionFastWithKeywords` of the C API.
type FastCallPointer = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Returns a Python built-in that calls `F` with `object` bound as its first argument.
pub(crate) fn bind<F: FastFunction>(object: &Bound<'_, F::Object>) -> PyResult<Py<PyAny>> {
    let definition = const {
        &ffi::PyMethodDef {
            ml_name: F::NAME.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                // SAFETY: the flags tell CPython the actual type of the pointer.
                PyCFunction: unsafe {
                    std::mem::transmute::<FastCallPointer, ffi::PyCFunction>(trampoline::<F>)
                },
            },
            ml_flags: METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: c"".as_ptr(),
        }
    };
    // SAFETY: the definition is static and never written; the function takes its own reference to
    // the object; the thread is attached. The result is a new reference, or null with an exception
    // set.
    unsafe {
        let function =
            ffi::PyCFunction_NewEx(std::ptr::from_ref(definition).cast_mut(), object.as_ptr(), null_mut());
        Bound::from_owned_ptr_or_err(object.py(), function).map(Bound::unbind)
    }
}

/// Entry point for CPython: converts the arguments and calls `F`.
///
/// # Safety
/// Call it through a function made by [`bind`], while attached: `object` is an `F::Object`;
/// `arguments` has `n_arguments` positional arguments, then one for each name in the tuple `names`,
/// unless that is null.
unsafe extern "C" fn trampoline<F: FastFunction>(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    n_arguments: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let call = |py: Python<'_>| {
        // SAFETY: as the caller guarantees; all of them live until we return.
        unsafe {
            let object = Borrowed::from_ptr(py, object);
            let object = object.cast_unchecked::<F::Object>();
            let names = (!names.is_null()).then(|| Borrowed::from_ptr(py, names));
            let n_arguments = n_arguments.unsigned_abs();
            let at = |index: usize| Borrowed::from_ptr(py, *arguments.add(index));
            if names.is_none() && n_arguments <= MAX_ARGUMENTS {
                let positional =
                    std::array::from_fn(|position| (position < n_arguments).then(|| at(position)));
                if let Some(result) = F::call(&object, positional) {
                    return result.map(Bound::unbind);
                }
            }
            let positional = PyTuple::new(py, (0..n_arguments).map(at))?;
            let keywords = PyDict::new(py);
            if let Some(names) = names {
                for (index, name) in names.cast_unchecked::<PyTuple>().iter().enumerate() {
                    keywords.set_item(name, at(n_arguments + index))?;
                }
            }
            let method = object.as_any().getattr(F::NAME)?;
            method.call(positional, Some(&keywords)).map(Bound::unbind)
        }
    };
    // The thread is attached already; PyO3 needs the token.
    let result = catch_unwind(AssertUnwindSafe(|| Python::attach(call)))
        .unwrap_or_else(|panic| Err(PanicException::new_err(panic_message(&*panic))));
    match result {
        Ok(object) => object.into_ptr(),
        Err(error) => {
            // SAFETY: as the caller guarantees.
            error.restore(unsafe { Python::assume_attached() });
            null_mut()
        }
    }
}

/// Maximum number of arguments of [`call`].
const MAX_CALL_ARGUMENTS: usize = 5;

/// Calls an object with `N` positional arguments. Unlike PyO3's `call1` it makes no tuple for them
/// if the object is a Python function.
pub(crate) fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N <= MAX_CALL_ARGUMENTS) }
    let at = |index: usize| arguments.get(index).map_or(null_mut(), |argument| argument.as_ptr());
    // SAFETY: pointers to objects, which the borrows keep alive, up to the first null; the thread
    // is attached. The result is a new reference, or null with an exception set.
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            at(0),
            at(1),
            at(2),
            at(3),
            at(4),
            null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
