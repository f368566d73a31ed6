//! The environ dictionary of PEP 3333.
//!
//! Each listener has a template, a dictionary with the entries that all requests share. Each slot
//! keeps a copy of the template with the values of the slot's last request ([`LastEnviron`]). A
//! request copies this dictionary and overwrites the entries that differ: a copy takes 107 ns,
//! building the dictionary 340 ns. Keys are interned once.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rgun_channel::ProtocolError;
use rgun_channel::control::{ListenerInfo, Start};
use rgun_channel::frame::{FieldName, Request};
use rgun_channel::header::{
    METHOD_GET, METHOD_LITERAL, METHODS, NAMES, X_REQUEST_ID, index_of, method_index,
};

use super::file_wrapper::FileWrapper;
use super::input::Input;
use super::last_environ::{
    FieldSet, LastEnviron, MAX_REMOVED_FIELDS, PATH_INFO, RAW_URI, REMOTE_ADDR, REMOTE_PORT, RequestFields,
};
use super::tls_environ::TlsKeys;
use crate::bodies::SpooledBodies;
use crate::object_cache::ObjectCache;
use crate::percent::{percent_decode, strip_root};
use crate::python::{decimal, latin1};

/// A slot's cached strings: field values, clients as (address, port), paths as (raw, `PATH_INFO`).
type StringCache = ObjectCache<PyString, (Py<PyString>, Py<PyString>), (Py<PyString>, Py<PyString>)>;

/// The values that a slot keeps from earlier requests.
#[derive(Debug, Default)]
pub(crate) struct EnvironCache {
    strings: StringCache,
    /// By listener: for http and for https.
    last: Vec<[Option<LastEnviron>; 2]>,
    /// The id of the last request.
    pub(crate) request_id: Option<Py<PyString>>,
}

/// Builds environs.
#[derive(Debug)]
pub(crate) struct EnvironBuilder {
    /// By listener: for http and for https.
    templates: Vec<[Py<PyDict>; 2]>,
    /// Keys `HTTP_*` and `CONTENT_*`, by index of [`NAMES`].
    names: Vec<Py<PyString>>,
    /// Method strings, by index of [`METHODS`].
    methods: Vec<Py<PyString>>,
    keys: EnvironKeys,
    tls_keys: TlsKeys,
    /// Configured root path, not percent-encoded.
    root_path: Vec<u8>,
    /// Index of `content-length` in [`NAMES`].
    content_length: u8,
    /// Index of `cookie` in [`NAMES`].
    cookie: u8,
}

/// Interned keys and values.
#[derive(Debug)]
struct EnvironKeys {
    request_method: Py<PyString>,
    script_name: Py<PyString>,
    server_port: Py<PyString>,
    path_info: Py<PyString>,
    query_string: Py<PyString>,
    raw_uri: Py<PyString>,
    request_uri: Py<PyString>,
    content_length: Py<PyString>,
    server_protocol: Py<PyString>,
    remote_addr: Py<PyString>,
    remote_port: Py<PyString>,
    input: Py<PyString>,
    request_id: Py<PyString>,
    http_1_0: Py<PyString>,
    http_2: Py<PyString>,
}

impl EnvironKeys {
    fn new(py: Python<'_>) -> Self {
        let string = |text: &str| PyString::intern(py, text).unbind();
        Self {
            request_method: string("REQUEST_METHOD"),
            script_name: string("SCRIPT_NAME"),
            server_port: string("SERVER_PORT"),
            path_info: string("PATH_INFO"),
            query_string: string("QUERY_STRING"),
            raw_uri: string("RAW_URI"),
            request_uri: string("REQUEST_URI"),
            content_length: string("CONTENT_LENGTH"),
            server_protocol: string("SERVER_PROTOCOL"),
            remote_addr: string("REMOTE_ADDR"),
            remote_port: string("REMOTE_PORT"),
            input: string("wsgi.input"),
            request_id: string("rgun.request_id"),
            http_1_0: string("HTTP/1.0"),
            http_2: string("HTTP/2.0"),
        }
    }
}

impl EnvironBuilder {
    /// Prepares templates, keys and names. `early_hints` becomes the value of `wsgi.early_hints`.
    pub(crate) fn new(py: Python<'_>, start: &Start, early_hints: &Bound<'_, PyAny>) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let template = base_template(py, start, early_hints)?;
        let templates = start
            .listeners
            .iter()
            .map(|listener| listener_templates(py, &template, listener))
            .collect::<PyResult<_>>()?;
        let names = NAMES
            .iter()
            .map(|name| match *name {
                "content-type" => string("CONTENT_TYPE"),
                "content-length" => string("CONTENT_LENGTH"),
                name => string(&cgi_name(name.as_bytes())),
            })
            .collect();
        Ok(Self {
            templates,
            names,
            methods: METHODS.iter().map(|method| string(method)).collect(),
            keys: EnvironKeys::new(py),
            tls_keys: TlsKeys::new(py),
            root_path: start.root_path.clone().into_bytes(),
            content_length: index_of(b"content-length").expect("in the table"),
            cookie: index_of(b"cookie").expect("in the table"),
        })
    }

    /// Builds the environ of one request. Waits for a spooled body without the GIL.
    pub(crate) fn build<'py>(
        &self,
        py: Python<'py>,
        bodies: &SpooledBodies,
        cache: &mut EnvironCache,
        request: &Request<'_>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let keys = &self.keys;
        let EnvironCache { strings, last, request_id: last_id } = cache;
        let last = self.last_environ(py, last, request)?;
        let mut fields = self.keep_fields(py, last, strings, request)?;
        if last.fields_not_in(fields.kept).count_ones() > MAX_REMOVED_FIELDS {
            *last = LastEnviron::new(self.template(request)?.bind(py))?;
            fields = self.keep_fields(py, last, strings, request)?;
        }
        self.set_client(py, last, strings, request)?;
        let environ = self.set_target(py, last, strings, request)?;

        match method_index(request.method) {
            METHOD_GET => {}
            METHOD_LITERAL => environ.set_item(&keys.request_method, latin1(py, request.method)?)?,
            method => environ.set_item(&keys.request_method, &self.methods[usize::from(method)])?,
        }
        if request.server_port != 0 || !request.root_path.is_empty() {
            self.set_published(py, &environ, request)?;
        }
        match request.version {
            10 => environ.set_item(&keys.server_protocol, &keys.http_1_0)?,
            20 => environ.set_item(&keys.server_protocol, &keys.http_2)?,
            _ => {}
        }
        let mut unsent = last.fields_not_in(fields.kept);
        while unsent != 0 {
            environ.del_item(&self.names[unsent.trailing_zeros() as usize])?;
            unsent &= unsent - 1;
        }
        if fields.has_more {
            self.set_fields(py, &environ, fields.kept, request)?;
        }
        if fields.has_length || request.body_len > 0 {
            environ.set_item(&keys.content_length, decimal(py, request.body_len)?)?;
        }
        self.set_body(py, &environ, bodies, request)?;
        let request_id = latin1(py, request.request_id)?;
        environ.set_item(&self.names[usize::from(X_REQUEST_ID)], &request_id)?;
        environ.set_item(&keys.request_id, &request_id)?;
        *last_id = Some(request_id.unbind());
        self.tls_keys.set(py, &environ, request.tls)?;
        Ok(environ)
    }

    /// Returns the template for a request.
    fn template(&self, request: &Request<'_>) -> PyResult<&Py<PyDict>> {
        let templates = self.templates.get(usize::from(request.listener)).or_else(|| self.templates.first());
        let templates = templates.ok_or_else(|| {
            pyo3::exceptions::PyRuntimeError::new_err(ProtocolError::Frame("no such listener").to_string())
        })?;
        Ok(&templates[usize::from(request.https)])
    }

    /// Returns the last environ of requests with the same template; makes it before the first such
    /// request.
    fn last_environ<'c>(
        &self,
        py: Python<'_>,
        last: &'c mut Vec<[Option<LastEnviron>; 2]>,
        request: &Request<'_>,
    ) -> PyResult<&'c mut LastEnviron> {
        let listener = usize::from(request.listener);
        if listener >= last.len() {
            last.resize_with(listener + 1, Default::default);
        }
        match &mut last[listener][usize::from(request.https)] {
            Some(last) => Ok(last),
            none => Ok(none.insert(LastEnviron::new(self.template(request)?.bind(py))?)),
        }
    }

    fn set_client(
        &self,
        py: Python<'_>,
        last: &mut LastEnviron,
        strings: &mut StringCache,
        request: &Request<'_>,
    ) -> PyResult<()> {
        let keys = &self.keys;
        if request.peer.is_empty() {
            let unknown = intern!(py, "");
            last.values.set(REMOTE_ADDR, &[&keys.remote_addr], unknown)?;
            return last.values.set(REMOTE_PORT, &[&keys.remote_port], unknown);
        }
        let (address, port) = strings.client(request.peer, request.peer_port, || {
            let port = decimal(py, request.peer_port.into())?;
            Ok((latin1(py, request.peer)?.unbind(), port.unbind()))
        })?;
        last.values.set(REMOTE_ADDR, &[&keys.remote_addr], address.bind(py))?;
        last.values.set(REMOTE_PORT, &[&keys.remote_port], port.bind(py))
    }

    /// Sets the path in the last environ, and returns a copy for the request with the whole target.
    /// The query, and a path that is not cached, are set in the copy only.
    fn set_target<'py>(
        &self,
        py: Python<'py>,
        last: &mut LastEnviron,
        strings: &mut StringCache,
        request: &Request<'_>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let keys = &self.keys;
        let make = || {
            let raw = latin1(py, request.path)?;
            let path = path_info(py, request.path, &self.root_path)?.unwrap_or_else(|| raw.clone());
            Ok((raw.unbind(), path.unbind()))
        };
        let environ = strings.path(request.path, make, |(raw, path)| {
            if StringCache::keeps_path(request.path) {
                last.values.set(PATH_INFO, &[&keys.path_info], path.bind(py))?;
                last.values.set(RAW_URI, &[&keys.raw_uri, &keys.request_uri], raw.bind(py))?;
                return last.values.copy(py);
            }
            let environ = last.values.copy(py)?;
            environ.set_item(&keys.path_info, path)?;
            environ.set_item(&keys.raw_uri, raw)?;
            environ.set_item(&keys.request_uri, raw)?;
            Ok(environ)
        })?;
        if !request.query.is_empty() {
            environ.set_item(&keys.query_string, latin1(py, request.query)?)?;
            let raw = latin1(py, &[request.path, b"?", request.query].concat())?;
            environ.set_item(&keys.raw_uri, &raw)?;
            environ.set_item(&keys.request_uri, raw)?;
        }
        Ok(environ)
    }

    /// Sets the entries that depend on the host, port and path under which a proxy publishes the
    /// application.
    fn set_published(
        &self,
        py: Python<'_>,
        environ: &Bound<'_, PyDict>,
        request: &Request<'_>,
    ) -> PyResult<()> {
        let keys = &self.keys;
        if request.server_port != 0 {
            environ.set_item(&keys.server_port, decimal(py, request.server_port.into())?)?;
        }
        if !request.root_path.is_empty() {
            environ.set_item(&keys.script_name, latin1(py, request.root_path)?)?;
            if let Some(path) = path_info(py, request.path, request.root_path)? {
                environ.set_item(&keys.path_info, path)?;
            }
        }
        Ok(())
    }

    /// Sets the first value of each well-known header field in the last environ.
    /// [`EnvironBuilder::set_fields`] sets the other values.
    fn keep_fields(
        &self,
        py: Python<'_>,
        last: &mut LastEnviron,
        strings: &mut StringCache,
        request: &Request<'_>,
    ) -> PyResult<RequestFields> {
        let mut fields = RequestFields::default();
        let mut seen: FieldSet = 0;
        let mut has_alias = false;
        for (name, value) in request.fields() {
            match name {
                FieldName::Known(index) if index == self.content_length => fields.has_length = true,
                FieldName::Known(index) => {
                    let bit = 1 << index;
                    if seen & bit == 0 && !has_alias && strings.keeps_field(index, value) {
                        let value = strings.field(py, index, value, || latin1(py, value))?;
                        last.set_field(index, &self.names[usize::from(index)], &value)?;
                        fields.kept |= bit;
                    } else {
                        fields.has_more = true;
                    }
                    seen |= bit;
                }
                FieldName::Literal(name) => {
                    fields.has_more = true;
                    // `X_Real_IP` has the same key as `X-Real-IP`. The daemon forwards such names
                    // only if configured to.
                    has_alias |= name.contains(&b'_');
                }
            }
        }
        Ok(fields)
    }

    /// Sets the header fields, except the first values of those in `kept`, which are set already.
    /// Joins the values of a repeated field (RFC 9110 §5.3).
    fn set_fields(
        &self,
        py: Python<'_>,
        environ: &Bound<'_, PyDict>,
        kept: FieldSet,
        request: &Request<'_>,
    ) -> PyResult<()> {
        let mut seen: FieldSet = 0;
        let mut has_alias = false;
        for (name, value) in request.fields() {
            match name {
                FieldName::Known(index) if index == self.content_length => {}
                FieldName::Known(index) => {
                    let bit = 1 << index;
                    let is_first = seen & bit == 0;
                    seen |= bit;
                    if is_first && kept & bit != 0 {
                        continue;
                    }
                    let key = &self.names[usize::from(index)];
                    let value = latin1(py, value)?;
                    if is_first && !(has_alias && environ.contains(key)?) {
                        environ.set_item(key, value)?;
                    } else {
                        // RFC 9113 §8.2.3: cookies are joined by their own separator.
                        let separator = if index == self.cookie { "; " } else { "," };
                        append_field(environ, key.bind(py), separator, &value)?;
                    }
                }
                FieldName::Literal(name) => {
                    has_alias |= name.contains(&b'_');
                    let key = latin1(py, cgi_name(name).as_bytes())?;
                    let value = latin1(py, value)?;
                    if environ.contains(&key)? {
                        append_field(environ, &key, ",", &value)?;
                    } else {
                        environ.set_item(key, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set_body(
        &self,
        py: Python<'_>,
        environ: &Bound<'_, PyDict>,
        bodies: &SpooledBodies,
        request: &Request<'_>,
    ) -> PyResult<()> {
        if request.is_takeover() {
            // The descriptor is the socket of a takeover, not a body.
        } else if request.body_is_fd {
            let file = py.detach(|| bodies.take(request.exchange));
            environ.set_item(&self.keys.input, Input::file(file, request.body_len).into_pyobject(py)?)?;
        } else if !request.body.is_empty() {
            environ.set_item(&self.keys.input, Input::copy(py, request.body).into_pyobject(py)?)?;
        }
        Ok(())
    }
}

/// Makes the entries that all requests share, and the placeholders that each request overwrites.
fn base_template<'py>(
    py: Python<'py>,
    start: &Start,
    early_hints: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let string = |text: &str| PyString::intern(py, text);
    let template = PyDict::new(py);
    for (key, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", &start.root_path),
        ("PATH_INFO", ""),
        ("QUERY_STRING", ""),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", concat!("rgun/", env!("CARGO_PKG_VERSION"))),
        ("REMOTE_ADDR", ""),
        ("REMOTE_PORT", ""),
        ("wsgi.url_scheme", "http"),
        // Overwritten by every request. They make the dictionary large enough (64 slots, 42 usable)
        // for a browser's fields, so that copies do not grow.
        ("RAW_URI", ""),
        ("REQUEST_URI", ""),
        ("HTTP_X_REQUEST_ID", ""),
        ("rgun.request_id", ""),
    ] {
        // SCRIPT_NAME comes from the configuration as UTF-8; PEP 3333 requires its bytes as
        // ISO-8859-1.
        template.set_item(string(key), latin1(py, value.as_bytes())?)?;
    }
    template.set_item(string("wsgi.version"), (1, 0))?;
    template.set_item(string("wsgi.errors"), py.import("sys")?.getattr("stderr")?)?;
    template.set_item(string("wsgi.multithread"), start.threads > 1)?;
    template.set_item(string("wsgi.multiprocess"), start.multiprocess)?;
    template.set_item(string("wsgi.run_once"), false)?;
    template.set_item(string("wsgi.input_terminated"), true)?;
    template.set_item(string("wsgi.file_wrapper"), py.get_type::<FileWrapper>())?;
    template.set_item(string("wsgi.early_hints"), early_hints)?;
    // Shared by all requests without a body: an empty input has no state.
    template.set_item(string("wsgi.input"), Input::copy(py, b"").into_pyobject(py)?)?;
    Ok(template)
}

/// Makes the templates of one listener: for http and for https.
fn listener_templates(
    py: Python<'_>,
    base: &Bound<'_, PyDict>,
    listener: &ListenerInfo,
) -> PyResult<[Py<PyDict>; 2]> {
    let string = |text: &str| PyString::intern(py, text);
    let template = base.copy()?;
    template.set_item(string("SERVER_NAME"), latin1(py, listener.name.as_bytes())?)?;
    template.set_item(string("SERVER_PORT"), latin1(py, listener.port.as_bytes())?)?;
    let secure = template.copy()?;
    secure.set_item(string("wsgi.url_scheme"), string("https"))?;
    // A variable of CGI that wsgiref and others read.
    secure.set_item(string("HTTPS"), string("on"))?;
    if !listener.path.is_empty() {
        // A Unix socket has no port. The scheme's default port keeps `:port` out of reconstructed
        // URLs.
        secure.set_item(string("SERVER_PORT"), string("443"))?;
    }
    Ok([template.unbind(), secure.unbind()])
}

/// Converts `accept-language` to `HTTP_ACCEPT_LANGUAGE`. Names are ASCII (RFC 9110 §5.1).
fn cgi_name(name: &[u8]) -> String {
    let mut key = String::with_capacity(5 + name.len());
    key.push_str("HTTP_");
    key.extend(name.iter().map(|byte| match byte {
        b'-' => '_',
        byte => char::from(byte.to_ascii_uppercase()),
    }));
    key
}

/// Appends a value to a key's value, or sets the value if the key is missing.
fn append_field(
    environ: &Bound<'_, PyDict>,
    key: &Bound<'_, PyString>,
    separator: &str,
    value: &Bound<'_, PyString>,
) -> PyResult<()> {
    let joined = match environ.get_item(key)? {
        Some(first) => first.add(separator)?.add(value)?,
        None => value.clone().into_any(),
    };
    environ.set_item(key, joined)
}

/// Returns `PATH_INFO` below a root path if it differs from the raw path.
fn path_info<'py>(py: Python<'py>, path: &[u8], root: &[u8]) -> PyResult<Option<Bound<'py, PyString>>> {
    if path == b"*" {
        // OPTIONS * (RFC 9110 §9.3.7) has no path; REQUEST_URI has the asterisk.
        return latin1(py, b"").map(Some);
    }
    if root.is_empty() && !path.contains(&b'%') {
        return Ok(None);
    }
    let decoded = percent_decode(path);
    // If the prefix is missing, a proxy has stripped it.
    latin1(py, strip_root(&decoded, root).unwrap_or(&decoded)).map(Some)
}
