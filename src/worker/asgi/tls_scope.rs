//! The `tls` extension of ASGI scopes (ASGI TLS extension, version 0.2).

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rgun_channel::frame::TlsInfo;

/// The extension of the last request. All requests of a connection have the same extension. Without
/// client certificates, most connections have the same extension, too.
#[derive(Debug, Default)]
pub(super) struct LastExtension {
    /// The TLS block from which `extension` was built.
    block: Vec<u8>,
    /// The application gets only copies.
    extension: Option<Py<PyDict>>,
}

impl LastExtension {
    /// Returns the value of `scope["extensions"]["tls"]` for a frame's TLS block; the application
    /// may change it.
    pub(super) fn copy<'py>(&mut self, py: Python<'py>, block: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let last = match &mut self.extension {
            Some(last) if self.block == block => last,
            last => {
                let info =
                    TlsInfo::decode(block).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
                let built = tls_extension(py, &info)?.unbind();
                self.block.clear();
                self.block.extend_from_slice(block);
                last.insert(built)
            }
        };
        let copy = last.bind(py).copy()?;
        let key = intern!(py, "client_cert_chain");
        if let Some(chain) = copy.get_item(key)? {
            let chain = chain.cast::<PyList>()?;
            copy.set_item(key, chain.get_slice(0, chain.len()))?;
        }
        Ok(copy)
    }
}

/// Builds the value of `scope["extensions"]["tls"]`.
fn tls_extension<'py>(py: Python<'py>, info: &TlsInfo<'_>) -> PyResult<Bound<'py, PyDict>> {
    let tls = PyDict::new(py);
    tls.set_item("server_cert", Some(info.server_cert).filter(|cert| !cert.is_empty()))?;
    let chain = PyList::empty(py);
    for cert in info.client.iter().flat_map(rgun_channel::frame::ClientCert::chain) {
        chain.append(cert)?;
    }
    tls.set_item(intern!(py, "client_cert_chain"), chain)?;
    tls.set_item("client_cert_name", info.client.map(|client| client.subject))?;
    // A client whose certificate is not valid cannot connect.
    tls.set_item("client_cert_error", py.None())?;
    tls.set_item("tls_version", Some(info.version).filter(|version| *version != 0))?;
    tls.set_item("cipher_suite", Some(info.cipher_suite).filter(|suite| *suite != 0))?;
    Ok(tls)
}
