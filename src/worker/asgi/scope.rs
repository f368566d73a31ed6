//! Builds the connection scopes of the ASGI HTTP and WebSocket specifications. Where these leave a
//! choice, the values are uvicorn's.
//!
//! The values common to all requests of a listener are in a template that is copied for each
//! request. The names of well-known headers are made once.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use rgun_channel::ProtocolError;
use rgun_channel::control::{ListenerInfo, Start};
use rgun_channel::frame::{FieldName, Request};
use rgun_channel::header::{METHOD_GET, METHOD_LITERAL, METHODS, NAMES, X_REQUEST_ID, method_index};

use super::last_scope::{CLIENT, ExtensionKeys, LastScope, PATH, RAW_PATH};
use super::tls_scope::LastExtension;
use crate::last_dict::DictTemplate;
use crate::object_cache::ObjectCache;
use crate::percent::{percent_decode, strip_root};
use crate::python::latin1;

/// Cached scope values: `(name, value)` of fields, clients, `path` with `raw_path`.
type ValueCache = ObjectCache<PyTuple, Py<PyTuple>, (Py<PyString>, Py<PyBytes>)>;

/// Values of earlier requests, for reuse.
#[derive(Debug, Default)]
pub(super) struct ScopeCache {
    values: ValueCache,
    /// By listener: the last HTTP scope and the last WebSocket scope.
    last: Vec<[Option<LastScope>; 2]>,
    tls: LastExtension,
    /// The id of the last request.
    pub(super) request_id: Option<Py<PyString>>,
}

/// Builds scopes.
#[derive(Debug)]
pub(super) struct ScopeBuilder {
    http: ScopeKind,
    websocket: ScopeKind,
    /// Names of well-known headers, by index of [`NAMES`].
    field_names: Vec<Py<PyBytes>>,
    /// Method strings, by index of [`METHODS`].
    methods: Vec<Py<PyString>>,
    keys: ScopeKeys,
    /// Configured root path, not percent-encoded.
    root_path: Vec<u8>,
    /// State of lifespan; copied into each scope.
    state: Py<PyDict>,
}

/// Keys of an HTTP scope, in uvicorn's order.
const HTTP_KEYS: [&str; 14] = [
    "type",
    "asgi",
    "http_version",
    "server",
    "client",
    "scheme",
    "root_path",
    "headers",
    "state",
    "method",
    "path",
    "raw_path",
    "query_string",
    "extensions",
];

/// Keys of a WebSocket scope, in uvicorn's order.
const WEBSOCKET_KEYS: [&str; 14] = [
    "type",
    "asgi",
    "http_version",
    "scheme",
    "server",
    "client",
    "root_path",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "subprotocols",
    "state",
    "extensions",
];

/// The values that differ between requests and WebSockets.
#[derive(Debug)]
struct ScopeKind {
    /// One template for each listener.
    templates: Vec<Py<PyDict>>,
    /// Template of the scope's `asgi`, copied because middleware may change it.
    asgi: DictTemplate,
    /// Template of the scope's `extensions`.
    extensions: Py<PyDict>,
    /// Scheme of a request over TLS.
    secure_scheme: Py<PyString>,
}

impl ScopeKind {
    /// Prepares the templates. `keys` are in uvicorn's order.
    fn new(
        py: Python<'_>,
        start: &Start,
        [name, scheme, secure]: [&str; 3],
        keys: &[&str],
        asgi: &Bound<'_, PyDict>,
        extensions: &[&str],
    ) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let templates = start
            .listeners
            .iter()
            .map(|listener| {
                let template = PyDict::new(py);
                for key in keys {
                    let value = match *key {
                        "type" => string(name).into_any(),
                        "http_version" => string("1.1").into_any(),
                        "scheme" => string(scheme).into_any(),
                        "server" => server_address(py, listener)?.into_any().unbind(),
                        "root_path" => PyString::new(py, &start.root_path).into_any().unbind(),
                        // The most frequent value; replaced for other methods.
                        "method" => string("GET").into_any(),
                        "query_string" => PyBytes::new(py, b"").into_any().unbind(),
                        _ => py.None(),
                    };
                    template.set_item(string(key), value)?;
                }
                Ok(template.unbind())
            })
            .collect::<PyResult<_>>()?;
        let offered = PyDict::new(py);
        for name in extensions {
            offered.set_item(string(name), PyDict::new(py))?;
        }
        Ok(Self {
            templates,
            asgi: DictTemplate::new(asgi)?,
            extensions: offered.unbind(),
            secure_scheme: string(secure),
        })
    }
}

impl ScopeKind {
    /// Returns the last scope of this kind and of the request's listener; makes it from the
    /// template before the first request.
    fn last_scope<'c>(
        &self,
        py: Python<'_>,
        last: &'c mut Vec<[Option<LastScope>; 2]>,
        request: &Request<'_>,
    ) -> PyResult<&'c mut LastScope> {
        let listener = usize::from(request.listener);
        if listener >= last.len() {
            last.resize_with(listener + 1, Default::default);
        }
        match &mut last[listener][usize::from(request.websocket)] {
            Some(last) => Ok(last),
            none => {
                let template = self.templates.get(listener).or_else(|| self.templates.first());
                let template = template.ok_or_else(|| {
                    PyRuntimeError::new_err(ProtocolError::Frame("no such listener").to_string())
                })?;
                Ok(none.insert(LastScope::new(template.bind(py), self.extensions.bind(py))?))
            }
        }
    }
}

/// Interned keys and values.
#[derive(Debug)]
struct ScopeKeys {
    extension: ExtensionKeys,
    http_version: Py<PyString>,
    client: Py<PyString>,
    scheme: Py<PyString>,
    headers: Py<PyString>,
    state: Py<PyString>,
    method: Py<PyString>,
    path: Py<PyString>,
    raw_path: Py<PyString>,
    query_string: Py<PyString>,
    root_path: Py<PyString>,
    server: Py<PyString>,
    http_1_0: Py<PyString>,
    http_2: Py<PyString>,
    subprotocols: Py<PyString>,
    tls: Py<PyString>,
}

const PATHSEND: &str = "http.response.pathsend";

/// The extensions of the ASGI HTTP specification that are offered; [`PATHSEND`] only with
/// [`Start::pathsend`].
const HTTP_EXTENSIONS: [&str; 4] =
    [PATHSEND, "http.response.zerocopysend", "http.response.early_hint", "http.response.trailers"];

impl ScopeBuilder {
    /// Prepares the templates. `asgi` is the scope's value for this key, `state` the state of
    /// lifespan.
    pub(super) fn new(
        py: Python<'_>,
        start: &Start,
        asgi: &Bound<'_, PyDict>,
        state: Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let websocket_asgi = asgi.copy()?;
        // Since 2.4 `send()` may raise an `OSError` after a disconnect.
        websocket_asgi.set_item(string("spec_version"), string("2.4"))?;
        let extensions: Vec<_> =
            HTTP_EXTENSIONS.into_iter().filter(|name| start.pathsend || *name != PATHSEND).collect();
        let http = ScopeKind::new(py, start, ["http", "http", "https"], &HTTP_KEYS, asgi, &extensions)?;
        let websocket = ScopeKind::new(
            py,
            start,
            ["websocket", "ws", "wss"],
            &WEBSOCKET_KEYS,
            &websocket_asgi,
            &["websocket.http.response"],
        )?;
        Ok(Self {
            http,
            websocket,
            field_names: NAMES.iter().map(|name| PyBytes::new(py, name.as_bytes()).unbind()).collect(),
            methods: METHODS.iter().map(|method| string(method)).collect(),
            keys: ScopeKeys {
                extension: ExtensionKeys {
                    asgi: string("asgi"),
                    extensions: string("extensions"),
                    rgun: string("rgun"),
                    request_id: string("request_id"),
                },
                http_version: string("http_version"),
                client: string("client"),
                scheme: string("scheme"),
                headers: string("headers"),
                state: string("state"),
                method: string("method"),
                path: string("path"),
                raw_path: string("raw_path"),
                query_string: string("query_string"),
                root_path: string("root_path"),
                server: string("server"),
                http_1_0: string("1.0"),
                http_2: string("2"),
                subprotocols: string("subprotocols"),
                tls: string("tls"),
            },
            root_path: start.root_path.clone().into_bytes(),
            state: state.unbind(),
        })
    }

    /// Builds the scope of a request or WebSocket.
    pub(super) fn build<'py>(
        &self,
        py: Python<'py>,
        cache: &mut ScopeCache,
        request: &Request<'_>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let keys = &self.keys;
        let kind = if request.websocket { &self.websocket } else { &self.http };
        let ScopeCache { values, last, tls, request_id: last_id } = cache;
        let last = kind.last_scope(py, last, request)?;
        self.set_client(py, last, values, request)?;
        last.set_asgi(py, &keys.extension, &kind.asgi)?;
        let tls = match request.tls {
            [] => None,
            block => Some((&keys.tls, tls.copy(py, block)?)),
        };
        let request_id = latin1(py, request.request_id)?;
        last.set_extensions(py, &keys.extension, &request_id, tls)?;
        *last_id = Some(request_id.unbind());
        let make = || build_paths(py, request.path, &self.root_path);
        let scope = values.path(request.path, make, |(path, raw_path)| {
            if ValueCache::keeps_path(request.path) {
                last.values.set(PATH, &[&keys.path], path.bind(py))?;
                last.values.set(RAW_PATH, &[&keys.raw_path], raw_path.bind(py))?;
                return last.values.copy(py);
            }
            let scope = last.values.copy(py)?;
            scope.set_item(&keys.path, path)?;
            scope.set_item(&keys.raw_path, raw_path)?;
            Ok(scope)
        })?;
        match request.version {
            10 => scope.set_item(&keys.http_version, &keys.http_1_0)?,
            20 => scope.set_item(&keys.http_version, &keys.http_2)?,
            _ => {}
        }
        if request.https {
            scope.set_item(&keys.scheme, &kind.secure_scheme)?;
        }
        scope.set_item(&keys.headers, self.build_headers(py, values, request)?)?;
        scope.set_item(&keys.state, self.state.bind(py).copy()?)?;
        if request.websocket {
            scope.set_item(&keys.subprotocols, subprotocols(py, request)?)?;
        } else {
            match method_index(request.method) {
                METHOD_GET => {}
                METHOD_LITERAL => scope.set_item(&keys.method, latin1(py, request.method)?)?,
                method => scope.set_item(&keys.method, &self.methods[usize::from(method)])?,
            }
        }
        if request.server_port != 0 || !request.root_path.is_empty() {
            self.set_published(py, &scope, request)?;
        }
        if !request.query.is_empty() {
            scope.set_item(&keys.query_string, PyBytes::new(py, request.query))?;
        }
        Ok(scope)
    }

    fn set_client(
        &self,
        py: Python<'_>,
        last: &mut LastScope,
        values: &mut ValueCache,
        request: &Request<'_>,
    ) -> PyResult<()> {
        let key = &self.keys.client;
        if request.peer.is_empty() {
            return last.values.set(CLIENT, &[key], py.None().bind(py));
        }
        let client = values.client(request.peer, request.peer_port, || {
            Ok((latin1(py, request.peer)?, request.peer_port).into_pyobject(py)?.unbind())
        })?;
        last.values.set(CLIENT, &[key], client.bind(py))
    }

    /// Sets the values that depend on the host, port and path under which a proxy publishes the
    /// application.
    fn set_published(
        &self,
        py: Python<'_>,
        scope: &Bound<'_, PyDict>,
        request: &Request<'_>,
    ) -> PyResult<()> {
        let keys = &self.keys;
        if request.server_port != 0
            && let Some(server) = scope.get_item(&keys.server)?
        {
            let (name, port) = server.extract::<(Bound<'_, PyString>, Option<u16>)>()?;
            // A Unix socket has no port; its name is a path.
            if port.is_some() {
                scope.set_item(&keys.server, (name, request.server_port))?;
            }
        }
        if !request.root_path.is_empty() {
            let (path, raw_path) = build_paths(py, request.path, request.root_path)?;
            scope.set_item(&keys.root_path, latin1(py, request.root_path)?)?;
            scope.set_item(&keys.path, path)?;
            scope.set_item(&keys.raw_path, raw_path)?;
        }
        Ok(())
    }

    /// Builds the headers as received: repeated fields stay separate, and the daemon has
    /// lower-cased the names. Appends `x-request-id` if the client sent none. If the client sent
    /// one, the daemon has already replaced its value.
    fn build_headers<'py>(
        &self,
        py: Python<'py>,
        values: &mut ValueCache,
        request: &Request<'_>,
    ) -> PyResult<Bound<'py, PyList>> {
        let headers = PyList::empty(py);
        let mut has_id = false;
        for (name, value) in request.fields() {
            let pair = match name {
                FieldName::Known(index) => values.field(py, index, value, || {
                    PyTuple::new(
                        py,
                        [self.field_names[usize::from(index)].bind(py), &PyBytes::new(py, value)],
                    )
                })?,
                FieldName::Literal(name) => {
                    PyTuple::new(py, [&PyBytes::new(py, name), &PyBytes::new(py, value)])?
                }
            };
            has_id |= match name {
                FieldName::Known(index) => index == X_REQUEST_ID,
                FieldName::Literal(name) => name == b"x-request-id",
            };
            headers.append(pair)?;
        }
        if !has_id && !request.request_id.is_empty() {
            let name = self.field_names[usize::from(X_REQUEST_ID)].bind(py);
            headers.append(PyTuple::new(py, [name, &PyBytes::new(py, request.request_id)])?)?;
        }
        Ok(headers)
    }
}

/// Builds `path` and `raw_path`. Both begin with `root_path`, whether or not a proxy has stripped
/// it: Starlette expects it.
fn build_paths(py: Python<'_>, path: &[u8], root: &[u8]) -> PyResult<(Py<PyString>, Py<PyBytes>)> {
    if root.is_empty() {
        return Ok((decode_path(py, path)?.unbind(), PyBytes::new(py, path).unbind()));
    }
    let decoded = if path.contains(&b'%') { percent_decode(path) } else { path.to_vec() };
    let missing = if strip_root(&decoded, root).is_some() { b"" } else { root };
    let full = [missing, &decoded].concat();
    // Only the request's part is percent-encoded.
    let raw = PyBytes::new(py, &[missing, path].concat()).unbind();
    Ok((PyString::new(py, &String::from_utf8_lossy(&full)).unbind(), raw))
}

/// Returns the subprotocols that the client offers, in its order of preference (RFC 6455 §11.3.4).
fn subprotocols<'py>(py: Python<'py>, request: &Request<'_>) -> PyResult<Bound<'py, PyList>> {
    let subprotocols = PyList::empty(py);
    for (_, value) in request.fields().filter(|(name, _)| name.as_bytes() == b"sec-websocket-protocol") {
        for subprotocol in value.split(|byte| *byte == b',') {
            subprotocols.append(latin1(py, subprotocol.trim_ascii())?)?;
        }
    }
    Ok(subprotocols)
}

/// Decodes percent-encoded UTF-8; replaces invalid bytes, as `urllib.parse.unquote()` does.
fn decode_path<'py>(py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyString>> {
    if path.contains(&b'%') {
        Ok(PyString::new(py, &String::from_utf8_lossy(&percent_decode(path))))
    } else if path.is_ascii() {
        latin1(py, path)
    } else {
        Ok(PyString::new(py, &String::from_utf8_lossy(path)))
    }
}

/// Returns `(host, port)`, or `(path, None)` for a Unix socket.
fn server_address<'py>(py: Python<'py>, listener: &ListenerInfo) -> PyResult<Bound<'py, PyTuple>> {
    if listener.path.is_empty() {
        let port = listener.port.parse::<u16>().ok();
        (&listener.name, port).into_pyobject(py)
    } else {
        (&listener.path, py.None()).into_pyobject(py)
    }
}
