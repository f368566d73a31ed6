//! Checks settings against each other: reports those that have no effect together, although each is
//! valid.

use super::checker::Checker;
use super::environment::SCRIPT_NAME;
use super::keys::{self, name};
use super::value::{Source, Value};
use super::{Compression, Log, Preload, Proxy, ProxyHeaders, Timeouts, Workers, units};

/// Reports the settings without effect.
pub(super) fn check(
    checker: &mut Checker<'_>,
    workers: &Workers,
    timeouts: &Timeouts,
    log: &Log,
    compression: &Compression,
    proxy: &Proxy,
) {
    checker.warn_about_script_name();
    checker.warn_about_disabled_sections(compression, proxy);
    if workers.refork.is_some() && workers.preload != Preload::Application {
        checker.require(
            name::REFORK,
            name::PRELOAD,
            "has no effect without workers.preload = true",
            "write preload = true in [workers], or remove refork",
        );
    }
    if workers.max_requests_jitter > 0 && workers.max_requests.is_none() {
        checker.require(
            name::MAX_REQUESTS_JITTER,
            name::MAX_REQUESTS,
            "is added to workers.max_requests, which is not set",
            "set max_requests (--max-requests) as well, e.g. to 1000, or remove the jitter",
        );
    }
    let longest = timeouts
        .paths
        .iter()
        .filter_map(|rule| rule.request)
        .fold(timeouts.request, |a, b| a.zip(b).map(|(a, b)| a.max(b)));
    if let (Some(slow), Some(longest)) = (log.slow, longest)
        && slow >= longest
    {
        checker.warnings.push(format!(
            "log.slow = \"{}\" has no effect: no request runs for longer than {}, its deadline",
            units::format_duration(slow),
            units::format_duration(longest)
        ));
    }
}

impl Checker<'_> {
    /// Warns if the application is in the list of `workers.preload`.
    pub(super) fn warn_about_preloaded_application(&mut self, preload: &Preload) {
        let target = self.setting(name::TARGET).map(|setting| &setting.value);
        let (Preload::Modules(modules), Some(Value::Text(target))) = (preload, target) else { return };
        let module = target.split(':').next().unwrap_or_default();
        if modules.iter().any(|listed| listed == module) {
            self.warnings.push(format!(
                "workers.preload: {module} is the application's module, so all workers share what its import creates; \
                 write preload = true for that, or remove it from the list"
            ));
        }
    }

    /// Warns about `SCRIPT_NAME`: gunicorn reads it, but rgun only with APP on the command line.
    fn warn_about_script_name(&mut self) {
        if self.setting(name::ROOT_PATH).is_none()
            && let Some(path) = self.layers.environment.value(SCRIPT_NAME)
        {
            self.warnings.push(format!(
                "SCRIPT_NAME={}: ignored without APP on the command line; the path under which a proxy publishes the application is {} \
                 (--root-path, {})",
                path.to_string_lossy(),
                name::ROOT_PATH,
                keys::variable_name(name::ROOT_PATH)
            ));
        }
    }

    /// Warns about settings of features that are off.
    fn warn_about_disabled_sections(&mut self, compression: &Compression, proxy: &Proxy) {
        if compression.algorithms.is_empty() {
            let keys = [name::COMPRESSION_LEVEL, name::COMPRESSION_TYPES, name::COMPRESSION_MIN_SIZE];
            for key in keys {
                self.warn_without_effect(key, "compression.algorithms is \"off\"");
            }
        }
        if proxy.headers == ProxyHeaders::Off {
            self.warn_without_effect(name::FORWARDED_FIELDS, "proxy.headers is \"off\"");
        }
    }

    /// Warns that `key` has no effect, if it is set.
    pub(super) fn warn_without_effect(&mut self, key: &str, reason: &str) {
        if let Some(setting) = self.setting(key).filter(|setting| setting.source != Source::Implied) {
            self.warnings
                .push(format!("{}: {key} = {} has no effect: {reason}", setting.origin, setting.value));
        }
    }
}
