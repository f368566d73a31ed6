//! Chooses a certificate by the server name that a client sends (SNI, RFC 6066 §3).

use std::collections::{BTreeSet, HashMap};

/// The names of all certificates.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    /// Positions of the certificates by name, in the order of the configuration; `*.` stands for
    /// one label.
    by_name: HashMap<String, Vec<usize>>,
    /// Positions of the first certificate and of others with the same names, whose keys may be of
    /// another kind.
    default: Vec<usize>,
}

impl NameIndex {
    /// Indexes the certificates' names, which are in lower case.
    pub(super) fn new(certificates: &[BTreeSet<String>]) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, names) in certificates.iter().enumerate() {
            for name in names {
                by_name.entry(name.clone()).or_default().push(position);
            }
        }
        let first = certificates.first();
        let default = certificates.iter().enumerate().filter(|(_, names)| first == Some(names));
        Self { default: default.map(|(position, _)| position).collect(), by_name }
    }

    /// Returns the positions of the certificates for a name, the preferred one first: the
    /// certificates with the name itself, or else those with a wildcard for its first label (RFC
    /// 6125 §6.4.3), or else the first certificate and others with the same names.
    pub(super) fn candidates(&self, server_name: Option<&str>) -> &[usize] {
        let found = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            self.by_name.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        found.unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_chosen_by_name_then_wildcard_then_first() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let index = NameIndex::new(&[
            names(&["example.org", "www.example.org"]),
            names(&["*.example.org"]),
            names(&["example.net"]),
            names(&["example.org", "www.example.org"]),
        ]);
        for (name, expected) in [
            (Some("example.org"), &[0, 3][..]),
            (Some("EXAMPLE.org"), &[0, 3]),
            (Some("www.example.org"), &[0, 3]),
            (Some("api.example.org"), &[1]),
            (Some("a.b.example.org"), &[0, 3]),
            (Some("example.net"), &[2]),
            (Some("org"), &[0, 3]),
            (Some("*.example.org"), &[1]),
            (Some(""), &[0, 3]),
            (None, &[0, 3]),
        ] {
            assert_eq!(index.candidates(name), expected, "{name:?}");
        }
    }
}
