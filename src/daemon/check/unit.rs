//! Reads the settings of a systemd unit that decide what the application can do: user, environment,
//! sandbox.
//!
//! The settings come from `systemctl show`. Without a running manager (in a chroot, while an image
//! is built) the unit's files are read instead (systemd.unit(5)).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::unit_syntax::{expand, is_yes, parse_environment_file, split_assignment, split_words};
use crate::pool::WORKER_USER_CAPABILITIES;

/// A unit that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// `rgun.service`.
    pub(super) name: String,
    /// `User=`; empty for root.
    pub(super) user: String,
    /// `Group=`; empty for the user's primary group.
    pub(super) group: String,
    /// `SupplementaryGroups=`.
    pub(super) supplementary: Vec<String>,
    /// `DynamicUser=`: the user exists only while the service runs.
    pub(super) dynamic_user: bool,
    /// `AmbientCapabilities=`, in lower case.
    pub(super) ambient: Vec<String>,
    /// `CapabilityBoundingSet=`, in lower case; `None` if it is unset or names exceptions (`~`), which
    /// counts as a set with all capabilities.
    pub(super) bounding: Option<Vec<String>>,
    /// `SystemCallFilter=`, as systemd has expanded it; empty without a filter, and if no systemd
    /// runs.
    pub(super) system_calls: String,
    /// `WorkingDirectory=`.
    pub(super) directory: Option<PathBuf>,
    /// `Environment=`, `NAME=VALUE` each.
    pub(super) environment: Vec<String>,
    /// `EnvironmentFile=`, and whether the file may be missing.
    pub(super) environment_files: Vec<(PathBuf, bool)>,
    /// `StateDirectory=` and the other [`DIRECTORIES`]: environment variable and paths.
    pub(super) directories: Vec<(&'static str, Vec<PathBuf>)>,
    /// `ReadWritePaths=`.
    pub(super) writable: Vec<PathBuf>,
    /// `ProtectHome=` hides home directories.
    pub(super) hides_homes: bool,
    /// `ProtectSystem=strict`: everything not granted to the service is read-only.
    pub(super) is_strict: bool,
    /// `Requires=`.
    pub(super) required: Vec<String>,
    /// `TriggeredBy=`: the loaded units that start this one. `None` without a running manager.
    pub(super) triggers: Option<Vec<String>>,
}

/// The properties to read.
const PROPERTIES: &str = "LoadState,Requires,TriggeredBy,User,Group,SupplementaryGroups,DynamicUser,\
                          WorkingDirectory,Environment,EnvironmentFiles,StateDirectory,CacheDirectory,LogsDirectory,RuntimeDirectory,\
                          ConfigurationDirectory,ReadWritePaths,ProtectHome,ProtectSystem,AmbientCapabilities,\
                          CapabilityBoundingSet,SystemCallFilter";

/// The directories of unit files, by precedence (systemd.unit(5)).
const SEARCH_PATH: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The directories that systemd creates for a service: setting, environment variable, parent.
const DIRECTORIES: [(&str, &str, &str); 5] = [
    ("StateDirectory", "STATE_DIRECTORY", "/var/lib"),
    ("CacheDirectory", "CACHE_DIRECTORY", "/var/cache"),
    ("LogsDirectory", "LOGS_DIRECTORY", "/var/log"),
    ("RuntimeDirectory", "RUNTIME_DIRECTORY", "/run"),
    ("ConfigurationDirectory", "CONFIGURATION_DIRECTORY", "/etc"),
];

impl Unit {
    /// Finds a unit by name; `.service` may be omitted.
    pub(super) fn find(name: &str) -> Option<Self> {
        let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        match systemctl_show(&name) {
            Some(text) => Self::from_properties(name, &text),
            None => Self::from_files(&name, &SEARCH_PATH.map(Path::new)),
        }
    }

    /// Parses the output of `systemctl show`.
    fn from_properties(name: String, text: &str) -> Option<Self> {
        let mut unit = Self { name, ..Self::default() };
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let mut is_loaded = false;
        for (key, value) in lines {
            if key == "LoadState" {
                is_loaded = value == "loaded";
            } else if key == "EnvironmentFiles" {
                let (path, how) = value.rsplit_once(" (").unwrap_or((value, ""));
                unit.environment_files.push((path.into(), how.contains("=yes")));
            } else if key == "SystemCallFilter" {
                value.clone_into(&mut unit.system_calls);
            } else if key == "WorkingDirectory" && value.starts_with('!') {
                unit.assign(key, &value[1..]);
            } else {
                unit.assign(key, value);
            }
        }
        is_loaded.then_some(unit)
    }

    /// Reads the unit's file and its drop-ins.
    fn from_files(name: &str, search: &[&Path]) -> Option<Self> {
        let (template, instance) = match name.split_once('@') {
            Some((prefix, rest)) => {
                let (instance, kind) = rest.rsplit_once('.')?;
                (Some(format!("{prefix}@.{kind}")), instance.to_owned())
            }
            None => (None, String::new()),
        };
        let names: Vec<&str> = [Some(name), template.as_deref()].into_iter().flatten().collect();
        let file = names.iter().find_map(|name| {
            search.iter().map(|directory| directory.join(name)).find_map(|path| fs::read_to_string(path).ok())
        })?;
        let mut unit = Self { name: name.to_owned(), ..Self::default() };
        unit.read(&file, &instance);
        for text in read_drop_ins(&names, search) {
            unit.read(&text, &instance);
        }
        Some(unit)
    }

    /// Reads the `[Service]` section of a file, and `Requires=` of the `[Unit]` section.
    fn read(&mut self, text: &str, instance: &str) {
        let text = text.replace("\\\n", " ");
        let mut section = "";
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), expand(value.trim(), instance));
            if section == "[Unit]" && key == "Requires" {
                self.assign(key, &value);
            } else if section == "[Service]" {
                match key {
                    "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
                    "EnvironmentFile" => {
                        let path = value.strip_prefix('-');
                        let is_optional = path.is_some();
                        self.environment_files.push((path.unwrap_or(&value).into(), is_optional));
                    }
                    "WorkingDirectory" => {
                        self.assign("WorkingDirectory", value.strip_prefix('-').unwrap_or(&value));
                    }
                    key => self.assign(key, &value),
                }
            }
        }
    }

    /// Applies one setting. Lists are appended to; an empty value clears them.
    fn assign(&mut self, key: &str, value: &str) {
        let extend = |list: &mut Vec<String>| {
            if value.is_empty() {
                list.clear();
            }
            list.extend(split_words(value));
        };
        match key {
            "User" => value.clone_into(&mut self.user),
            "Group" => value.clone_into(&mut self.group),
            "SupplementaryGroups" => extend(&mut self.supplementary),
            "AmbientCapabilities" => {
                extend(&mut self.ambient);
                for name in &mut self.ambient {
                    name.make_ascii_lowercase();
                }
            }
            "CapabilityBoundingSet" if value.contains('~') => self.bounding = None,
            "CapabilityBoundingSet" => {
                let bounding = self.bounding.get_or_insert_default();
                extend(bounding);
                for name in bounding {
                    name.make_ascii_lowercase();
                }
            }
            "DynamicUser" => self.dynamic_user = is_yes(value),
            // "~", the user's home, is resolved in `identity`.
            "WorkingDirectory" => self.directory = (!value.is_empty()).then(|| value.into()),
            "Environment" => extend(&mut self.environment),
            "ReadWritePaths" => {
                if value.is_empty() {
                    self.writable.clear();
                }
                let path = |word: String| PathBuf::from(word.trim_start_matches(['-', '+']));
                self.writable.extend(split_words(value).into_iter().map(path));
            }
            "ProtectHome" => self.hides_homes = is_yes(value) || value == "tmpfs",
            "ProtectSystem" => self.is_strict = value == "strict",
            // An empty value does not clear a dependency (systemd.unit(5)).
            "Requires" => self.required.extend(split_words(value)),
            "TriggeredBy" => self.triggers = Some(split_words(value)),
            _ => {
                let known = DIRECTORIES.iter().find(|(setting, ..)| *setting == key);
                let Some((_, variable, root)) = known else { return };
                // "name:link" also creates a symbolic link.
                let path = |word: String| Path::new(root).join(word.split(':').next().unwrap_or_default());
                let paths: Vec<_> = split_words(value).into_iter().map(path).collect();
                match self.directories.iter_mut().find(|(other, _)| other == variable) {
                    _ if paths.is_empty() => self.directories.retain(|(other, _)| other != variable),
                    Some((_, listed)) => listed.extend(paths),
                    None => self.directories.push((variable, paths)),
                }
            }
        }
    }

    /// Returns the capabilities that the daemon lacks to run workers with another group or, with
    /// `changes_user`, as another user.
    pub(super) fn missing_capabilities(&self, is_root: bool, changes_user: bool) -> Vec<&'static str> {
        let has = |name: &str| {
            let name = name.to_ascii_lowercase();
            let is_bound = self.bounding.as_ref().is_none_or(|bounding| bounding.contains(&name));
            is_bound && (is_root || self.ambient.contains(&name))
        };
        let needed = WORKER_USER_CAPABILITIES.split(' ');
        needed.filter(|name| (changes_user || *name == "CAP_SETGID") && !has(name)).collect()
    }

    /// Returns the required socket units whose sockets the service gets.
    pub(super) fn sockets(&self) -> Vec<&str> {
        let own = self.name.replace(".service", ".socket");
        let is_its = |unit: &&String| match &self.triggers {
            Some(triggers) => unit.ends_with(".socket") && triggers.contains(unit),
            None => **unit == own,
        };
        self.required.iter().filter(is_its).map(String::as_str).collect()
    }

    /// Returns which of these system calls the filter refuses.
    pub(super) fn refused_calls(&self, calls: &[&'static str]) -> Vec<&'static str> {
        let (list, is_denied) = match self.system_calls.strip_prefix('~') {
            Some(list) => (list, true),
            None => (self.system_calls.as_str(), false),
        };
        if list.is_empty() {
            return Vec::new();
        }
        // "name:errno" is refused with that error.
        let is_listed =
            |call: &str| list.split_whitespace().any(|entry| entry.split(':').next() == Some(call));
        calls.iter().copied().filter(|call| is_listed(call) == is_denied).collect()
    }

    /// Returns whether the sandbox allows the service to write to `path`.
    pub(super) fn allows_writing(&self, path: &Path) -> bool {
        let writable = self.directories.iter().flat_map(|(_, paths)| paths).chain(&self.writable);
        let mut writable = writable.map(PathBuf::as_path).chain([Path::new("/tmp"), Path::new("/var/tmp")]);
        !self.is_strict || writable.any(|directory| path.starts_with(directory))
    }

    /// Returns the environment variables, including those of `EnvironmentFile=`.
    ///
    /// # Errors
    /// A sentence about a file that cannot be read.
    pub(super) fn variables(&self) -> Result<Vec<(OsString, OsString)>, String> {
        // Environment= overrides the variables with the unit's directories.
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        for (variable, paths) in &self.directories {
            let paths: Vec<&OsStr> = paths.iter().map(|path| path.as_os_str()).collect();
            variables.push(((*variable).into(), paths.join(OsStr::new(":"))));
        }
        variables.extend(self.environment.iter().filter_map(|line| split_assignment(line)));
        for (path, is_optional) in &self.environment_files {
            match fs::read(path) {
                Ok(bytes) => {
                    variables.extend(
                        parse_environment_file(&bytes).iter().filter_map(|line| split_assignment(line)),
                    );
                }
                Err(_) if *is_optional => {}
                Err(error) => {
                    let path = path.display();
                    return Err(format!("EnvironmentFile={path} of {}: {error}", self.name));
                }
            }
        }
        Ok(variables)
    }
}

/// Returns the output of `systemctl show`, or `None` if no systemd manager runs.
fn systemctl_show(name: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--no-pager", "--property", PROPERTIES, "--", name]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads the files in the `NAME.d` directories, sorted by name. Of files with the same name, only
/// the file in the first directory is read.
fn read_drop_ins(names: &[&str], search: &[&Path]) -> Vec<String> {
    let mut found: Vec<(OsString, String)> = Vec::new();
    for directory in search.iter().flat_map(|root| names.iter().map(|name| root.join(format!("{name}.d")))) {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_conf = entry.path().extension().is_some_and(|extension| extension == "conf");
            if is_conf
                && found.iter().all(|(other, _)| *other != name)
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                found.push((name, text));
            }
        }
    }
    found.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    found.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pairs: &[(OsString, OsString)]) -> Vec<String> {
        pairs.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
    }

    #[test]
    fn properties_of_systemctl_show_are_parsed() {
        let shown = "User=shop\nGroup=\nSupplementaryGroups=video render\nDynamicUser=no\nWorkingDirectory=!/srv/shop\n\
                     Environment=A=1 \"B=two words\"\nEnvironmentFiles=/etc/default/shop (ignore_errors=yes)\n\
                     StateDirectory=rgun shop:link\nReadWritePaths=-/srv/media\nProtectHome=read-only\n\
                     ProtectSystem=strict\nLoadState=loaded\nRequires=shop.socket docker.socket -.mount\n\
                     TriggeredBy=shop.socket rgun-metrics.socket\n";
        let unit = Unit::from_properties("shop.service".into(), shown).unwrap();
        assert_eq!((unit.user.as_str(), unit.group.as_str()), ("shop", ""));
        assert_eq!(unit.supplementary, ["video", "render"]);
        assert_eq!(unit.sockets(), ["shop.socket"]);
        assert_eq!(unit.directory, Some("/srv/shop".into()));
        assert_eq!(unit.environment_files, [("/etc/default/shop".into(), true)]);
        assert_eq!(
            text(&unit.variables().unwrap()),
            ["STATE_DIRECTORY=/var/lib/rgun:/var/lib/shop", "A=1", "B=two words"]
        );
        assert!(!unit.hides_homes && !unit.dynamic_user);
        for (path, is_writable) in [
            ("/var/lib/shop/db", true),
            ("/srv/media/a", true),
            ("/tmp/x", true),
            ("/srv/shop/db.sqlite3", false),
        ] {
            assert_eq!(unit.allows_writing(Path::new(path)), is_writable, "{path}");
        }
        assert_eq!(Unit::from_properties("x.service".into(), "LoadState=not-found\nUser=\n"), None);
    }

    #[test]
    fn unit_files_are_read_with_drop_ins_without_a_manager() {
        let root = crate::systemd::scratch_dir("unit-files");
        let (etc, lib) = (root.join("etc"), root.join("lib"));
        fs::create_dir_all(etc.join("rgun@.service.d")).unwrap();
        fs::create_dir_all(lib.join("rgun@shop.service.d")).unwrap();
        fs::write(
            lib.join("rgun@.service"),
            "[Unit]\nUser=nobody\nRequires=rgun@%i.socket\n[Service]\n# User=root\nUser=rgun\nStateDirectory=%i\nEnvironment=A=1 \\\n  B=2\n\
             EnvironmentFile=-/etc/default/%i\n",
        )
        .unwrap();
        fs::write(
            etc.join("rgun@.service.d/10-user.conf"),
            "[Service]\nUser=shop\nEnvironment=\nEnvironment=C=3\n",
        )
        .unwrap();
        fs::write(
            lib.join("rgun@shop.service.d/20.conf"),
            "[Service]\nSupplementaryGroups=video\nStateDirectory=media\nEnvironment=\"D=50%%i %i\"\n\
             ReadWritePaths=/srv/a\nReadWritePaths=\nReadWritePaths=/srv/b\n",
        )
        .unwrap();
        let unit = Unit::from_files("rgun@shop.service", &[&etc, &lib]).unwrap();
        assert_eq!(unit.user, "shop");
        assert_eq!(unit.supplementary, ["video"]);
        assert_eq!(unit.sockets(), ["rgun@shop.socket"]);
        assert_eq!(
            text(&unit.variables().unwrap()),
            ["STATE_DIRECTORY=/var/lib/shop:/var/lib/media", "C=3", "D=50%i shop"]
        );
        assert_eq!(unit.writable, [Path::new("/srv/b")]);
        assert_eq!(unit.environment_files, [("/etc/default/shop".into(), true)]);
        assert_eq!(Unit::from_files("rgun.service", &[&etc, &lib]), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn capabilities_depend_on_user_and_bounding_set() {
        let unit = |lines: &str| {
            let mut unit = Unit::default();
            unit.read(&format!("[Service]\n{lines}\n"), "");
            unit
        };
        let all: Vec<&str> = WORKER_USER_CAPABILITIES.split(' ').collect();
        let ambient = format!("AmbientCapabilities={WORKER_USER_CAPABILITIES}");
        assert_eq!(unit("").missing_capabilities(false, true), all);
        assert_eq!(unit("").missing_capabilities(false, false), ["CAP_SETGID"]);
        assert!(unit("").missing_capabilities(true, true).is_empty());
        assert!(unit(&ambient).missing_capabilities(false, true).is_empty());
        let bounded = "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_SETUID CAP_SETGID";
        assert_eq!(unit(bounded).missing_capabilities(true, true), ["CAP_KILL"]);
        assert_eq!(unit(&format!("{ambient}\n{bounded}")).missing_capabilities(false, true), ["CAP_KILL"]);
        assert!(unit("CapabilityBoundingSet=~CAP_KILL").missing_capabilities(true, true).is_empty());
    }

    #[test]
    fn filter_that_refuses_another_user_is_found() {
        let refused = |filter: &str| {
            let shown = format!("LoadState=loaded\nSystemCallFilter={filter}\n");
            Unit::from_properties("shop.service".into(), &shown).unwrap().refused_calls(&[
                "setgroups",
                "setresuid",
                "capset",
            ])
        };
        assert!(refused("").is_empty());
        assert!(refused("accept capset setgroups setresgid setresuid").is_empty());
        assert_eq!(refused("accept setgroups setresuid32"), ["setresuid", "capset"]);
        assert_eq!(refused("~capset:1 ptrace"), ["capset"]);
    }

    #[test]
    fn environment_file_allows_comments_quotes_and_must_exist() {
        let root = crate::systemd::scratch_dir("environment-file");
        fs::create_dir_all(&root).unwrap();
        let path = root.join("env");
        fs::write(&path, "# a comment\n\nA=1\nB=\"two words\"\n C = 'three' \n; D=4\nlong=a\\\nb\n").unwrap();
        let mut unit = Unit { environment_files: vec![(path, false)], ..Unit::default() };
        assert_eq!(text(&unit.variables().unwrap()), ["A=1", "B=two words", "C=three", "long=ab"]);
        unit.environment_files.push((root.join("missing"), false));
        assert!(unit.variables().unwrap_err().contains("missing"));
        unit.environment_files[1].1 = true;
        assert_eq!(unit.variables().unwrap().len(), 4);
        fs::remove_dir_all(root).unwrap();
    }
}
