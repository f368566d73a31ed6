//! The connection scope of the ASGI HTTP specification, with uvicorn's values where that leaves a choice.
//!
//! What is the same for all requests of a listener is in a prepared dictionary that is copied, then overwritten. Header
//! names of the frame's table are made once.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use rgun_channel::Broken;
use rgun_channel::control::{ListenerInfo, Start};
use rgun_channel::frame::{FieldName, Request};
use rgun_channel::header::{METHOD_LITERAL, METHODS, NAMES, method_index};

use crate::python::latin1;
use crate::wsgi::environ::percent_decode;

/// Makes scopes.
#[derive(Debug)]
pub(super) struct Scopes {
    /// By listener.
    templates: Vec<Py<PyDict>>,
    /// By index of [`NAMES`].
    names: Vec<Py<PyBytes>>,
    /// By index of [`METHODS`].
    methods: Vec<Py<PyString>>,
    keys: Keys,
    root_path: Vec<u8>,
    /// Copied into each scope, so that what one request's middleware adds is not in the next one's.
    asgi: Py<PyDict>,
    extensions: Py<PyDict>,
    state: Py<PyDict>,
}

/// Interned keys and values.
#[derive(Debug)]
struct Keys {
    asgi: Py<PyString>,
    http_version: Py<PyString>,
    client: Py<PyString>,
    scheme: Py<PyString>,
    headers: Py<PyString>,
    state: Py<PyString>,
    method: Py<PyString>,
    path: Py<PyString>,
    raw_path: Py<PyString>,
    query_string: Py<PyString>,
    extensions: Py<PyString>,
    http_1_0: Py<PyString>,
    http_2: Py<PyString>,
    https: Py<PyString>,
}

impl Scopes {
    /// Prepares the templates; `asgi` is the versions' dictionary, `state` that of lifespan.
    pub(super) fn new(
        py: Python<'_>,
        start: &Start,
        asgi: Bound<'_, PyDict>,
        state: Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let extensions = PyDict::new(py);
        for name in ["http.response.pathsend", "http.response.early_hint", "http.response.trailers"] {
            extensions.set_item(string(name), PyDict::new(py))?;
        }
        let templates = start
            .listeners
            .iter()
            .map(|listener| {
                let template = PyDict::new(py);
                let none = py.None();
                let none = none.bind(py);
                template.set_item(string("type"), string("http"))?;
                template.set_item(string("asgi"), none)?;
                template.set_item(string("http_version"), string("1.1"))?;
                template.set_item(string("server"), server(py, listener)?)?;
                template.set_item(string("client"), none)?;
                template.set_item(string("scheme"), string("http"))?;
                template.set_item(string("root_path"), &start.root_path)?;
                for key in ["headers", "state", "method", "path", "raw_path", "query_string", "extensions"] {
                    template.set_item(string(key), none)?;
                }
                // Once more: what goes through here may be in the order of insertion only if it is copied.
                Ok(template.copy()?.unbind())
            })
            .collect::<PyResult<_>>()?;
        Ok(Self {
            templates,
            names: NAMES.iter().map(|name| PyBytes::new(py, name.as_bytes()).unbind()).collect(),
            methods: METHODS.iter().map(|method| string(method)).collect(),
            keys: Keys {
                asgi: string("asgi"),
                http_version: string("http_version"),
                client: string("client"),
                scheme: string("scheme"),
                headers: string("headers"),
                state: string("state"),
                method: string("method"),
                path: string("path"),
                raw_path: string("raw_path"),
                query_string: string("query_string"),
                extensions: string("extensions"),
                http_1_0: string("1.0"),
                http_2: string("2"),
                https: string("https"),
            },
            root_path: start.root_path.clone().into_bytes(),
            asgi: asgi.unbind(),
            extensions: extensions.unbind(),
            state: state.unbind(),
        })
    }

    /// The scope of one request.
    pub(super) fn make<'py>(&self, py: Python<'py>, request: &Request<'_>) -> PyResult<Bound<'py, PyDict>> {
        let keys = &self.keys;
        let template =
            self.templates
                .get(usize::from(request.listener))
                .or_else(|| self.templates.first())
                .ok_or_else(|| PyRuntimeError::new_err(Broken::Frame("no such listener").to_string()))?;
        let scope = template.bind(py).copy()?;
        scope.set_item(&keys.asgi, self.asgi.bind(py).copy()?)?;
        match request.version {
            10 => scope.set_item(&keys.http_version, &keys.http_1_0)?,
            20 => scope.set_item(&keys.http_version, &keys.http_2)?,
            _ => {}
        }
        if !request.peer.is_empty() {
            scope.set_item(&keys.client, (latin1(py, request.peer)?, request.peer_port))?;
        }
        if request.https {
            scope.set_item(&keys.scheme, &keys.https)?;
        }
        scope.set_item(&keys.headers, self.headers(py, request)?)?;
        scope.set_item(&keys.state, self.state.bind(py).copy()?)?;
        let method = method_index(request.method);
        match self.methods.get(usize::from(method)) {
            Some(name) if method != METHOD_LITERAL => scope.set_item(&keys.method, name)?,
            _ => scope.set_item(&keys.method, latin1(py, request.method)?)?,
        }
        self.set_path(py, &scope, request.path)?;
        scope.set_item(&keys.query_string, PyBytes::new(py, request.query))?;
        scope.set_item(&keys.extensions, self.extensions.bind(py).copy()?)?;
        Ok(scope)
    }

    /// As received: repeated fields stay apart, names are lower-case (the daemon has seen to it).
    fn headers<'py>(&self, py: Python<'py>, request: &Request<'_>) -> PyResult<Bound<'py, PyList>> {
        let headers = PyList::empty(py);
        for (name, value) in request.fields() {
            let value = PyBytes::new(py, value);
            let pair = match name {
                FieldName::Known(index) => {
                    PyTuple::new(py, [self.names[usize::from(index)].bind(py), &value])?
                }
                FieldName::Literal(name) => PyTuple::new(py, [&PyBytes::new(py, name), &value])?,
            };
            headers.append(pair)?;
        }
        Ok(headers)
    }

    /// `path` begins with `root_path`, whether a proxy has stripped that or the application is mounted below it: as
    /// uvicorn has it, and Starlette expects it.
    fn set_path(&self, py: Python<'_>, scope: &Bound<'_, PyDict>, path: &[u8]) -> PyResult<()> {
        let keys = &self.keys;
        if self.root_path.is_empty() {
            scope.set_item(&keys.raw_path, PyBytes::new(py, path))?;
            scope.set_item(&keys.path, decode(py, path)?)
        } else {
            scope.set_item(&keys.raw_path, PyBytes::new(py, &[&self.root_path, path].concat()))?;
            // The configured one is not encoded.
            let path = if path.contains(&b'%') { percent_decode(path) } else { path.to_vec() };
            let path = [&*self.root_path, &path].concat();
            scope.set_item(&keys.path, PyString::new(py, &String::from_utf8_lossy(&path)))
        }
    }
}

/// Percent-encoded UTF-8; what is none is replaced, as `urllib.parse.unquote()` does.
fn decode<'py>(py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyString>> {
    if path.contains(&b'%') {
        Ok(PyString::new(py, &String::from_utf8_lossy(&percent_decode(path))))
    } else if path.is_ascii() {
        latin1(py, path)
    } else {
        Ok(PyString::new(py, &String::from_utf8_lossy(path)))
    }
}

/// `(host, port)`, or `(path, None)` for a unix socket.
fn server<'py>(py: Python<'py>, listener: &ListenerInfo) -> PyResult<Bound<'py, PyTuple>> {
    if listener.path.is_empty() {
        let port = listener.port.parse::<u16>().ok();
        (&listener.name, port).into_pyobject(py)
    } else {
        (&listener.path, py.None()).into_pyobject(py)
    }
}
