//! What is only touched by whoever is attached to the interpreter, and so by one thread at a time.
//!
//! `Mutex` and PyO3's classes that are not `frozen` count their borrows with atomic instructions, of which a request of
//! ASGI took some forty: 4 % of all the CPU that it needed. The interpreter's own lock makes them unnecessary.
//!
//! # Why `unsafe`
//! No safe type of PyO3 0.30 says "with the interpreter's lock" (`GILProtected` has gone, as there are interpreters
//! without that lock: rgun refuses those).
#![expect(unsafe_code, reason = "that the interpreter has a lock is nothing that the compiler knows")]

use std::cell::{Ref, RefCell, RefMut};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A `RefCell` for those who are attached. To be borrowed for a few instructions, and not while Python code runs: that
/// may let another thread in, or come back.
#[derive(Default)]
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: the cell's count of borrows is read and written by who has a `Python<'_>` only, which one thread has at a time
// (`bootstrap.py` refuses interpreters without a global lock). A borrow is tied to that token and is not `Send`, so that it is
// given back by the same thread, attached; where that thread is detached meanwhile, the count keeps others from what is
// borrowed. `T: Send` because whichever thread is attached may take out what is in it.
unsafe impl<T: Send> Sync for GilCell<T> {}

/// Without what is in it, as whoever asks may not be attached.
impl<T> std::fmt::Debug for GilCell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GilCell").finish_non_exhaustive()
    }
}

impl<T> GilCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// # Panics
    /// If it is borrowed mutably.
    pub(crate) fn borrow<'a>(&'a self, _py: Python<'a>) -> Ref<'a, T> {
        self.0.borrow()
    }

    /// # Panics
    /// If it is borrowed.
    pub(crate) fn borrow_mut<'a>(&'a self, _py: Python<'a>) -> RefMut<'a, T> {
        self.0.borrow_mut()
    }

    /// # Errors
    /// It is borrowed mutably.
    pub(crate) fn try_borrow<'a>(&'a self, _py: Python<'a>) -> PyResult<Ref<'a, T>> {
        self.0.try_borrow().map_err(|_| PyRuntimeError::new_err("Already mutably borrowed"))
    }

    /// # Errors
    /// It is borrowed.
    pub(crate) fn try_borrow_mut<'a>(&'a self, _py: Python<'a>) -> PyResult<RefMut<'a, T>> {
        self.0.try_borrow_mut().map_err(|_| PyRuntimeError::new_err("Already borrowed"))
    }
}

impl<T: Default> GilCell<T> {
    /// What is in it, for as long as it is not in use there.
    pub(crate) fn take(&self, py: Python<'_>) -> T {
        std::mem::take(&mut *self.borrow_mut(py))
    }

    pub(crate) fn put(&self, py: Python<'_>, value: T) {
        *self.borrow_mut(py) = value;
    }
}
