//! A cell for state that is used only by a thread attached to the interpreter, so by one thread at
//! a time. `Mutex` and PyO3 classes that are not `frozen` count borrows with atomic instructions.
//! An ASGI request needed about forty such instructions, 4 % of its CPU time. The GIL makes them
//! unnecessary.
//!
//! # Why `unsafe`
//! PyO3 0.30 has no safe type for data guarded by the GIL (`GILProtected` was removed, since there
//! are interpreters without a GIL; rgun does not support those).
#![expect(unsafe_code, reason = "the compiler does not know that the interpreter has a lock")]

use std::cell::{Ref, RefCell, RefMut};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A `RefCell` that is borrowed with the GIL held. Borrow it for a few instructions only, never
/// while Python code runs: such code may switch threads or borrow the cell again.
#[derive(Default)]
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: the borrow count is read and written only with a `Python<'_>`, which one thread has at a
// time (`bootstrap.py` rejects interpreters without a GIL). A borrow is tied to that token and is
// not `Send`, so the same thread ends it, attached; if that thread detaches meanwhile, the count
// keeps other threads out. `T: Send`, because any attached thread may take the value out.
unsafe impl<T: Send> Sync for GilCell<T> {}

/// Omits the value: the caller may not be attached.
impl<T> std::fmt::Debug for GilCell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GilCell").finish_non_exhaustive()
    }
}

impl<T> GilCell<T> {
    /// Creates a cell.
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Borrows the value.
    ///
    /// # Panics
    /// The cell is borrowed mutably.
    pub(crate) fn borrow<'a>(&'a self, _py: Python<'a>) -> Ref<'a, T> {
        self.0.borrow()
    }

    /// Borrows the value mutably.
    ///
    /// # Panics
    /// The cell is borrowed.
    pub(crate) fn borrow_mut<'a>(&'a self, _py: Python<'a>) -> RefMut<'a, T> {
        self.0.borrow_mut()
    }

    /// Borrows the value.
    ///
    /// # Errors
    /// The cell is borrowed mutably.
    pub(crate) fn try_borrow<'a>(&'a self, _py: Python<'a>) -> PyResult<Ref<'a, T>> {
        self.0.try_borrow().map_err(|_| PyRuntimeError::new_err("Already mutably borrowed"))
    }

    /// Borrows the value mutably.
    ///
    /// # Errors
    /// The cell is borrowed.
    pub(crate) fn try_borrow_mut<'a>(&'a self, _py: Python<'a>) -> PyResult<RefMut<'a, T>> {
        self.0.try_borrow_mut().map_err(|_| PyRuntimeError::new_err("Already borrowed"))
    }
}

impl<T: Default> GilCell<T> {
    /// Takes the value, leaving the default.
    pub(crate) fn take(&self, py: Python<'_>) -> T {
        std::mem::take(&mut *self.borrow_mut(py))
    }

    /// Stores a value.
    pub(crate) fn put(&self, py: Python<'_>, value: T) {
        *self.borrow_mut(py) = value;
    }
}

impl<T> GilCell<Option<Py<T>>> {
    /// Stores an object for each request: dropping a `Bound` skips the check whether the thread is attached.
    pub(crate) fn replace(&self, py: Python<'_>, object: Option<Py<T>>) {
        let old = std::mem::replace(&mut *self.borrow_mut(py), object);
        drop(old.map(|old| old.into_bound(py)));
    }
}
