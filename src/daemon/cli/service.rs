//! The names that belong to a service: `rgun.service`, or `rgun@NAME.service` for an instance.
//!
//! The units in `systemd/` define these names; their comments have the reasons.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::Failure;

/// Maximum length of an instance's name: `rgun-NAME` is a user, whose name has at most 31 bytes
/// (sysusers.d(5)).
const MAX_NAME_BYTES: usize = 26;

/// A packaged service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// The name of the instance; `None` for `rgun.service`.
    instance: Option<String>,
}

impl Service {
    /// Returns the service of this instance, or `rgun.service`.
    ///
    /// # Errors
    /// A usage error if `instance` cannot be an instance's name.
    pub(super) fn new(instance: Option<String>) -> Result<Self, Failure> {
        let wrong = instance.as_deref().and_then(|name| Some((name, name_fault(name)?)));
        match wrong {
            None => Ok(Self { instance }),
            Some((name, reason)) => Err(Failure::usage(format!(
                "error: NAME: \"{}\": {reason}\n    hint: write NAME as in rgun@NAME.service: lower-case letters, \
                 digits, - and _, at most {MAX_NAME_BYTES} in all; without NAME the service is rgun.service\n",
                name.escape_debug()
            ))),
        }
    }

    /// Returns `rgun` or `rgun@NAME`: the unit's name without its suffix.
    pub(super) fn unit_stem(&self) -> String {
        self.joined('@')
    }

    /// Returns the name of the service unit.
    pub(super) fn service_unit(&self) -> String {
        format!("{}.service", self.unit_stem())
    }

    /// Returns the name of the socket unit.
    pub(super) fn socket_unit(&self) -> String {
        format!("{}.socket", self.unit_stem())
    }

    /// Returns the name of the socket unit for metrics.
    pub(super) fn metrics_unit(&self) -> String {
        match &self.instance {
            Some(name) => format!("rgun-metrics@{name}.socket"),
            None => "rgun-metrics.socket".to_owned(),
        }
    }

    /// Returns the service whose runtime directory has this path; `None` if that is no packaged service's.
    pub(super) fn of_runtime_directory(path: &Path) -> Option<Self> {
        let user = path.strip_prefix("/run").ok()?.to_str()?;
        let instance = match user.strip_prefix("rgun-") {
            Some(name) => Some(name.to_owned()),
            None if user == "rgun" => None,
            None => return None,
        };
        Self::new(instance).ok()
    }

    /// Returns `rgun` or `rgun-NAME`: the user, and the name of the service's directories in /run,
    /// /var/lib and /var/cache.
    pub(super) fn user(&self) -> String {
        self.joined('-')
    }

    /// Returns the path of the configuration.
    pub(super) fn configuration(&self) -> PathBuf {
        PathBuf::from(format!("/etc/rgun/{}.toml", self.label()))
    }

    /// Returns the name of the instance; `rgun` for `rgun.service`.
    pub(super) fn label(&self) -> &str {
        self.instance.as_deref().unwrap_or("rgun")
    }

    /// Returns the instance as an argument of a command; empty for `rgun.service`.
    pub(super) fn argument(&self) -> &str {
        self.instance.as_deref().unwrap_or_default()
    }

    /// Returns whether this is an instance, not `rgun.service`.
    pub(super) fn is_instance(&self) -> bool {
        self.instance.is_some()
    }

    /// Returns the address of the packaged socket unit: `ListenStream=`.
    pub(super) fn address(&self) -> String {
        match &self.instance {
            Some(name) => format!("/run/rgun-{name}.sock"),
            None => "127.0.0.1:8000".to_owned(),
        }
    }

    /// Returns the service's runtime directory.
    pub(super) fn runtime_directory(&self) -> PathBuf {
        PathBuf::from("/run").join(self.user())
    }

    fn joined(&self, separator: char) -> String {
        match &self.instance {
            Some(name) => format!("rgun{separator}{name}"),
            None => "rgun".to_owned(),
        }
    }
}

/// Returns rgun's directory among those of `$RUNTIME_DIRECTORY` or another such variable, which
/// systemd sorts by name: the unit may have directories for the application, too. Without one of
/// rgun's name, returns the first; `None` if there is none.
pub fn own_directory(directories: &OsStr) -> Option<PathBuf> {
    let directories: Vec<_> =
        std::env::split_paths(directories).filter(|path| !path.as_os_str().is_empty()).collect();
    let is_own = |path: &&PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name == "rgun" || name.starts_with("rgun-")
    };
    directories.iter().find(is_own).or(directories.first()).cloned()
}

/// Returns why this cannot be the name of an instance.
fn name_fault(name: &str) -> Option<&'static str> {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name == "rgun" {
        // /etc/rgun/rgun.toml would configure two services.
        Some("is the name of rgun.service's configuration")
    } else if name.len() > MAX_NAME_BYTES {
        Some("is too long for the name of an instance")
    } else if !name.bytes().all(is_allowed) || !name.starts_with(|first: char| first.is_ascii_alphanumeric())
    {
        Some("cannot be the name of an instance")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_status::EX_USAGE;

    #[test]
    fn instance_has_names_of_its_own() {
        let shop = Service::new(Some("shop-eu".into())).unwrap();
        assert_eq!(shop.service_unit(), "rgun@shop-eu.service");
        assert_eq!(shop.socket_unit(), "rgun@shop-eu.socket");
        assert_eq!(shop.user(), "rgun-shop-eu");
        assert_eq!(shop.configuration(), PathBuf::from("/etc/rgun/shop-eu.toml"));
        assert_eq!(shop.runtime_directory(), PathBuf::from("/run/rgun-shop-eu"));
        assert_eq!(shop.metrics_unit(), "rgun-metrics@shop-eu.socket");
        assert_eq!(Service::of_runtime_directory(&shop.runtime_directory()), Some(shop));
    }

    #[test]
    fn service_without_a_name_is_rgun_service() {
        let service = Service::new(None).unwrap();
        assert_eq!(service.service_unit(), "rgun.service");
        assert_eq!(service.configuration(), PathBuf::from("/etc/rgun/rgun.toml"));
        assert_eq!(service.runtime_directory(), PathBuf::from("/run/rgun"));
        assert_eq!(service.metrics_unit(), "rgun-metrics.socket");
        assert_eq!(Service::of_runtime_directory(Path::new("/run/rgun")), Some(service));
        for other in ["/run/rgun-", "/run/rgunx", "/tmp/rgun", "/run"] {
            assert_eq!(Service::of_runtime_directory(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn invalid_instance_name_is_a_usage_error() {
        for name in ["", "rgun", "Shop", "a/b", "..", "-a", "a b", "a@b", "a.b", &"a".repeat(27)] {
            let failure = Service::new(Some(name.to_owned())).unwrap_err();
            assert_eq!(failure.status, EX_USAGE, "{name}");
            assert!(failure.text.contains("as in rgun@NAME.service"), "{}", failure.text);
        }
    }

    #[test]
    fn own_directory_is_found_among_those_of_the_application() {
        for (directories, expected) in [
            ("/run/gunicorn:/run/rgun", Some("/run/rgun")),
            ("/run/app:/run/rgun-shop:/run/z", Some("/run/rgun-shop")),
            ("/run/user/1000/app:/run/user/1000/other", Some("/run/user/1000/app")),
            ("", None),
        ] {
            let found = own_directory(directories.as_ref());
            assert_eq!(found.as_deref(), expected.map(Path::new), "{directories}");
        }
    }
}
