//! The `tls` extension of ASGI scopes (ASGI TLS extension, version 0.2).

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rgun_channel::frame::TlsInfo;

/// Builds the value of `scope["extensions"]["tls"]`.
pub(super) fn tls_extension<'py>(py: Python<'py>, info: &TlsInfo<'_>) -> PyResult<Bound<'py, PyDict>> {
    let tls = PyDict::new(py);
    tls.set_item("server_cert", Some(info.server_cert).filter(|cert| !cert.is_empty()))?;
    let chain = PyList::empty(py);
    for cert in info.client.iter().flat_map(rgun_channel::frame::ClientCert::chain) {
        chain.append(cert)?;
    }
    tls.set_item("client_cert_chain", chain)?;
    tls.set_item("client_cert_name", info.client.map(|client| client.subject))?;
    // A client whose certificate is not valid cannot connect.
    tls.set_item("client_cert_error", py.None())?;
    tls.set_item("tls_version", Some(info.version).filter(|version| *version != 0))?;
    tls.set_item("cipher_suite", Some(info.cipher_suite).filter(|suite| *suite != 0))?;
    Ok(tls)
}
