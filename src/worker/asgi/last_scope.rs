//! The values of the last scope, in a dictionary that the next scope copies.
//!
//! The application may change the dictionaries `asgi` and `extensions`, so running requests do not
//! share them. The next request gets the same dictionaries again unless the application has changed
//! or kept them: checking them costs a third of copying them.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::last_dict::{DictTemplate, LastDict};
use crate::python::reference_count;

/// Index of `client` in [`LastScope::values`].
pub(super) const CLIENT: usize = 0;
/// Index of `path`.
pub(super) const PATH: usize = 1;
/// Index of `raw_path`.
pub(super) const RAW_PATH: usize = 2;
const ASGI: usize = 3;
const EXTENSIONS: usize = 4;

/// The scope of the last request of one listener, without the values that differ from request to
/// request.
#[derive(Debug)]
pub(super) struct LastScope {
    pub(super) values: LastDict<5>,
    /// Template of `extensions`. Its `rgun` is [`LastScope::own_extension`].
    extensions: DictTemplate,
    /// `scope["extensions"]["rgun"]`.
    own_extension: Py<PyDict>,
}

/// Keys of the scope and of its extensions.
#[derive(Debug)]
pub(super) struct ExtensionKeys {
    pub(super) asgi: Py<PyString>,
    pub(super) extensions: Py<PyString>,
    pub(super) rgun: Py<PyString>,
    pub(super) request_id: Py<PyString>,
}

impl LastScope {
    /// Copies the templates of a scope and of its `extensions`.
    pub(super) fn new(scope: &Bound<'_, PyDict>, extensions: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self {
            values: LastDict::new(scope)?,
            extensions: DictTemplate::new(extensions)?,
            own_extension: PyDict::new(scope.py()).unbind(),
        })
    }

    /// Sets `asgi` to a dictionary with the entries of `template`.
    pub(super) fn set_asgi(
        &mut self,
        py: Python<'_>,
        keys: &ExtensionKeys,
        template: &DictTemplate,
    ) -> PyResult<()> {
        if self.values.can_repeat(py, ASGI, template) {
            return Ok(());
        }
        self.values.set(ASGI, &[&keys.asgi], &template.copy(py)?)
    }

    /// Sets `extensions` to a dictionary with the entries of the template, this request id, and
    /// the key and value `other`, if any.
    pub(super) fn set_extensions(
        &mut self,
        py: Python<'_>,
        keys: &ExtensionKeys,
        request_id: &Bound<'_, PyString>,
        other: Option<(&Py<PyString>, Bound<'_, PyDict>)>,
    ) -> PyResult<()> {
        if other.is_none() && self.repeat_extensions(py, keys, request_id)? {
            return Ok(());
        }
        let own = PyDict::new(py);
        own.set_item(&keys.request_id, request_id)?;
        self.extensions.set(keys.rgun.bind(py), own.as_any())?;
        self.own_extension = own.unbind();
        let extensions = self.extensions.copy(py)?;
        if let Some((key, value)) = other {
            extensions.set_item(key, value)?;
        }
        self.values.set(EXTENSIONS, &[&keys.extensions], &extensions)
    }

    /// Sets the request id in the extensions of the last request. Returns false if the application
    /// still refers to these extensions or has changed them.
    fn repeat_extensions(
        &self,
        py: Python<'_>,
        keys: &ExtensionKeys,
        request_id: &Bound<'_, PyString>,
    ) -> PyResult<bool> {
        /// References of this object, of the template's dictionary and entries, and of the
        /// extensions themselves.
        const OWN_REFERENCES: isize = 4;
        if reference_count(&self.own_extension, py) != OWN_REFERENCES
            || !self.values.can_repeat(py, EXTENSIONS, &self.extensions)
        {
            return Ok(false);
        }
        let own = self.own_extension.bind(py);
        own.set_item(&keys.request_id, request_id)?;
        // The application may have added entries.
        Ok(own.len() == 1)
    }
}
