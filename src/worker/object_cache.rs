//! A cache of Python objects made from request values: a proxy, a browser and a load generator
//! repeat most values with each request. `str`, `bytes` and tuples of them are immutable, so
//! requests can share them.

use pyo3::prelude::*;
use rgun_channel::header::NAMES;

/// Fields that are not cached: they differ from request to request, or are secrets.
const UNCACHED_FIELDS: [&str; 5] =
    ["authorization", "cookie", "sec-websocket-key", "x-csrf-token", "x-request-id"];

/// Maximum length of a cached value.
const MAX_VALUE_BYTES: usize = 256;

/// Number of cached clients, indexed by their port.
const MAX_CLIENTS: usize = 256;

/// Number of cached paths, indexed by a hash of their ends.
const MAX_PATHS: usize = 64;

/// Maximum length of a cached path: longer paths seldom repeat, and may be secrets.
const MAX_PATH_BYTES: usize = 48;

/// The last value of each well-known field as an `F`, the last clients as `C`s and the last paths
/// as `P`s. The owner must tolerate Python code running while the cache is borrowed.
pub(crate) struct ObjectCache<F, C, P> {
    /// By index of [`NAMES`]; `None` for the [`UNCACHED_FIELDS`].
    fields: Vec<Option<Field<F>>>,
    clients: Vec<Client<C>>,
    paths: Vec<Path<P>>,
}

struct Field<F> {
    value: Vec<u8>,
    object: Option<Py<F>>,
}

struct Client<C> {
    peer: Vec<u8>,
    port: u16,
    object: Option<C>,
}

struct Path<P> {
    path: Vec<u8>,
    object: Option<P>,
}

impl<F, C, P> Default for ObjectCache<F, C, P> {
    fn default() -> Self {
        let field = |name: &&str| {
            (!UNCACHED_FIELDS.contains(name)).then(|| Field { value: Vec::new(), object: None })
        };
        let client = || Client { peer: Vec::new(), port: 0, object: None };
        let path = || Path { path: Vec::new(), object: None };
        Self {
            fields: NAMES.iter().map(field).collect(),
            clients: std::iter::repeat_with(client).take(MAX_CLIENTS).collect(),
            paths: std::iter::repeat_with(path).take(MAX_PATHS).collect(),
        }
    }
}

impl<F, C, P> std::fmt::Debug for ObjectCache<F, C, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectCache").finish_non_exhaustive()
    }
}

impl<F, C, P> ObjectCache<F, C, P> {
    /// Returns whether [`ObjectCache::field`] keeps this value.
    pub(crate) fn keeps_field(&self, index: u8, value: &[u8]) -> bool {
        value.len() <= MAX_VALUE_BYTES && matches!(self.fields.get(usize::from(index)), Some(Some(_)))
    }

    /// Returns whether [`ObjectCache::path`] keeps this path.
    pub(crate) fn keeps_path(path: &[u8]) -> bool {
        path.len() <= MAX_PATH_BYTES
    }

    /// Returns the object for a field value; calls `make` if the value differs from the last one.
    pub(crate) fn field<'py>(
        &mut self,
        py: Python<'py>,
        index: u8,
        value: &[u8],
        make: impl FnOnce() -> PyResult<Bound<'py, F>>,
    ) -> PyResult<Bound<'py, F>> {
        let Some(Some(field)) = self.fields.get_mut(usize::from(index)) else { return make() };
        if let Some(object) = &field.object
            && field.value == value
        {
            return Ok(object.bind(py).clone());
        }
        let made = make()?;
        if value.len() <= MAX_VALUE_BYTES {
            field.value.clear();
            field.value.extend_from_slice(value);
            field.object = Some(made.clone().unbind());
        }
        Ok(made)
    }

    /// Returns the object for a client; calls `make` if it is not cached.
    pub(crate) fn client(
        &mut self,
        peer: &[u8],
        port: u16,
        make: impl FnOnce() -> PyResult<C>,
    ) -> PyResult<&C> {
        // Linux assigns every other port, often in sequence (`__inet_hash_connect`).
        let client = &mut self.clients[usize::from(port.rotate_right(1)) % MAX_CLIENTS];
        if client.port != port || client.peer != peer {
            client.object = None;
        }
        match client.object {
            Some(ref object) => Ok(object),
            ref mut none => {
                let made = make()?;
                client.port = port;
                client.peer.clear();
                client.peer.extend_from_slice(peer);
                Ok(none.insert(made))
            }
        }
    }

    /// Calls `with` with the object for a raw path; calls `make` first if it is not cached.
    pub(crate) fn path<R>(
        &mut self,
        path: &[u8],
        make: impl FnOnce() -> PyResult<P>,
        with: impl FnOnce(&P) -> PyResult<R>,
    ) -> PyResult<R> {
        if !Self::keeps_path(path) {
            return with(&make()?);
        }
        let end = &path[path.len().saturating_sub(8)..];
        let hash = end.iter().fold(path.len(), |hash, byte| hash.wrapping_mul(31) + usize::from(*byte));
        let entry = &mut self.paths[hash % MAX_PATHS];
        if let Some(object) = &entry.object
            && entry.path == path
        {
            return with(object);
        }
        let made = make()?;
        entry.path.clear();
        entry.path.extend_from_slice(path);
        with(entry.object.insert(made))
    }
}
