//! An environ with the values of a slot's last request, which the slot's next request copies.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rgun_channel::header::NAMES;

use crate::last_dict::LastDict;

/// Number of places: one for each header field, by index of [`NAMES`], and four others.
const N_PLACES: usize = NAMES.len() + 4;

/// The place of `PATH_INFO`.
pub(super) const PATH_INFO: usize = NAMES.len();
/// The place of `RAW_URI` and `REQUEST_URI`, which have the same value.
pub(super) const RAW_URI: usize = NAMES.len() + 1;
/// The place of `REMOTE_ADDR`.
pub(super) const REMOTE_ADDR: usize = NAMES.len() + 2;
/// The place of `REMOTE_PORT`.
pub(super) const REMOTE_PORT: usize = NAMES.len() + 3;

/// A set of header fields: bits by index of [`NAMES`].
pub(super) type FieldSet = u128;
const _: () = assert!(NAMES.len() <= FieldSet::BITS as usize);

/// The header fields of one request.
#[derive(Debug, Default)]
pub(super) struct RequestFields {
    /// Fields whose first value is set in the last environ.
    pub(super) kept: FieldSet,
    /// The request has other fields, or further values of these.
    pub(super) has_more: bool,
    /// The request has a Content-Length.
    pub(super) has_length: bool,
}

/// Maximum number of fields of earlier requests that are removed from an environ one by one. If
/// there are more, the slot makes a new copy of the template.
pub(super) const MAX_REMOVED_FIELDS: u32 = 3;

/// A copy of a template with the values of the last request.
#[derive(Debug)]
pub(crate) struct LastEnviron {
    pub(super) values: LastDict<N_PLACES>,
    /// The header fields that were set.
    fields: FieldSet,
}

impl LastEnviron {
    /// Copies a template.
    pub(super) fn new(template: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self { values: LastDict::new(template)?, fields: 0 })
    }

    /// Sets the value of a header field.
    pub(super) fn set_field(
        &mut self,
        index: u8,
        key: &Py<PyString>,
        value: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        self.values.set(usize::from(index), &[key], value)?;
        self.fields |= 1 << index;
        Ok(())
    }

    /// Returns the header fields of earlier requests that are not among `sent`.
    pub(super) fn fields_not_in(&self, sent: FieldSet) -> FieldSet {
        self.fields & !sent
    }
}
