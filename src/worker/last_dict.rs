//! A dictionary with the values of the last request, which the next request copies.
//!
//! Requests repeat most values: the path, the client, a browser's header fields. Copying an entry
//! of a dictionary costs a few instructions, setting one costs 220. Without this module the
//! smallest request would cost a WSGI worker 1000 more instructions (of 9000), and an ASGI worker
//! 400 more (of 21000).

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::python::{has_entries, reference_count};

/// A copy of a template with `N` values of the last request. The index of a value is its *place*.
/// The values stay here until the next request, so set only values that are kept anyway
/// ([`crate::object_cache`]) or refer to nothing large.
pub(crate) struct LastDict<const N: usize> {
    /// The application gets only copies.
    dict: Py<PyDict>,
    /// The values that were set.
    values: [Option<Py<PyAny>>; N],
}

impl<const N: usize> LastDict<N> {
    /// Copies a template.
    pub(crate) fn new(template: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self { dict: template.copy()?.unbind(), values: [const { None }; N] })
    }

    /// Sets the value of a place and of its `keys`, unless it is the same object as last time.
    pub(crate) fn set<T>(
        &mut self,
        place: usize,
        keys: &[&Py<PyString>],
        value: &Bound<'_, T>,
    ) -> PyResult<()> {
        let value = value.as_any();
        let last = &mut self.values[place];
        if last.as_ref().is_some_and(|last| last.is(value)) {
            return Ok(());
        }
        // If setting fails, the next request must not assume that the value is set.
        *last = None;
        for key in keys {
            self.dict.bind(value.py()).set_item(key, value)?;
        }
        *last = Some(value.clone().unbind());
        Ok(())
    }

    /// Returns whether the dictionary at a place can be in the next copy, too: the application has
    /// kept no reference to it, and it has the entries of `template`, from which it was copied.
    pub(crate) fn can_repeat(&self, py: Python<'_>, place: usize, template: &DictTemplate) -> bool {
        /// References of `dict` and `values`.
        const OWN_REFERENCES: isize = 2;
        self.values[place].as_ref().is_some_and(|value| {
            reference_count(value, py) == OWN_REFERENCES
                && value.bind(py).cast().is_ok_and(|value| has_entries(value, &template.entries))
        })
    }

    /// Returns a copy for the application.
    pub(crate) fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.dict.bind(py).copy()
    }
}

/// A dictionary that is copied for requests, with its entries in an array: comparing a copy with
/// the array takes about 450 instructions, comparing it with the dictionary 900.
#[derive(Debug)]
pub(crate) struct DictTemplate {
    dict: Py<PyDict>,
    entries: Vec<(Py<PyAny>, Py<PyAny>)>,
}

impl DictTemplate {
    /// Copies the template's dictionary and its entries.
    pub(crate) fn new(dict: &Bound<'_, PyDict>) -> PyResult<Self> {
        let entries = dict.iter().map(|(key, value)| (key.unbind(), value.unbind())).collect();
        Ok(Self { dict: dict.copy()?.unbind(), entries })
    }

    /// Sets an entry.
    pub(crate) fn set(&mut self, key: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.dict.bind(key.py()).set_item(key, value)?;
        let new = value.clone().unbind();
        match self.entries.iter_mut().find(|(known, _)| known.is(key)) {
            Some((_, value)) => *value = new,
            None => self.entries.push((key.clone().into_any().unbind(), new)),
        }
        Ok(())
    }

    /// Returns a copy of the dictionary.
    pub(crate) fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.dict.bind(py).copy()
    }
}

impl<const N: usize> std::fmt::Debug for LastDict<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LastDict").finish_non_exhaustive()
    }
}
