//! The interface `org.varlink.service`, which describes all interfaces.

use serde_json::{Value, json};

use super::fault::CallFault;

/// The name and the definition of each interface.
const INTERFACES: [(&str, &str); 3] = [
    ("org.varlink.service", include_str!("org.varlink.service.varlink")),
    ("io.rgun.Server", include_str!("io.rgun.Server.varlink")),
    ("io.systemd.Metrics", include_str!("io.systemd.Metrics.varlink")),
];

/// Returns the reply to GetInfo.
pub(super) fn info() -> Value {
    let interfaces: Vec<&str> = INTERFACES.iter().map(|(name, _)| *name).collect();
    json!({
        "vendor": "rgun",
        "product": "rgun",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "man:rgun(8)",
        "interfaces": interfaces,
    })
}

/// Returns the definition of an interface.
///
/// # Errors
/// There is no interface of this name.
pub(super) fn definition(name: &str) -> Result<&'static str, CallFault> {
    let found = INTERFACES.iter().find(|(other, _)| *other == name);
    found.map(|(_, text)| *text).ok_or_else(|| CallFault::InterfaceNotFound { interface: name.to_owned() })
}
