//! The variables of `environ` that describe the client's TLS session, with the names of Apache's
//! `mod_ssl`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rgun_channel::frame::{ClientCert, TlsInfo};

use crate::python::latin1;
use crate::tls::{cipher_name, protocol_name};

/// Interned keys.
#[derive(Debug)]
pub(super) struct TlsKeys {
    protocol: Py<PyString>,
    cipher: Py<PyString>,
    server_name: Py<PyString>,
    verify: Py<PyString>,
    subject: Py<PyString>,
    issuer: Py<PyString>,
    serial: Py<PyString>,
    not_before: Py<PyString>,
    not_after: Py<PyString>,
    cert: Py<PyString>,
}

impl TlsKeys {
    pub(super) fn new(py: Python<'_>) -> Self {
        let string = |text: &str| PyString::intern(py, text).unbind();
        Self {
            protocol: string("SSL_PROTOCOL"),
            cipher: string("SSL_CIPHER"),
            server_name: string("SSL_TLS_SNI"),
            verify: string("SSL_CLIENT_VERIFY"),
            subject: string("SSL_CLIENT_S_DN"),
            issuer: string("SSL_CLIENT_I_DN"),
            serial: string("SSL_CLIENT_M_SERIAL"),
            not_before: string("SSL_CLIENT_V_START"),
            not_after: string("SSL_CLIENT_V_END"),
            cert: string("SSL_CLIENT_CERT"),
        }
    }

    /// Sets the variables for a frame's TLS block. The texts of a certificate are UTF-8, whose
    /// bytes are decoded as ISO-8859-1 (PEP 3333).
    pub(super) fn set(&self, py: Python<'_>, environ: &Bound<'_, PyDict>, block: &[u8]) -> PyResult<()> {
        if block.is_empty() {
            return Ok(());
        }
        let info = TlsInfo::decode(block).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        environ.set_item(&self.protocol, protocol_name(info.version))?;
        environ.set_item(&self.cipher, cipher_name(info.cipher_suite))?;
        if !info.server_name.is_empty() {
            environ.set_item(&self.server_name, info.server_name)?;
        }
        let Some(client) = &info.client else {
            return environ.set_item(&self.verify, "NONE");
        };
        environ.set_item(&self.verify, "SUCCESS")?;
        let ClientCert { subject, issuer, serial, not_before, not_after, .. } = client;
        for (key, text) in [
            (&self.subject, subject),
            (&self.issuer, issuer),
            (&self.serial, serial),
            (&self.not_before, not_before),
            (&self.not_after, not_after),
        ] {
            environ.set_item(key, latin1(py, text.as_bytes())?)?;
        }
        for (position, cert) in client.chain().enumerate() {
            match position.checked_sub(1) {
                None => environ.set_item(&self.cert, cert)?,
                Some(number) => environ.set_item(format!("SSL_CLIENT_CERT_CHAIN_{number}"), cert)?,
            }
        }
        Ok(())
    }
}
