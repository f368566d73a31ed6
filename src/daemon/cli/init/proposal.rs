//! The files that `rgun init` proposes for a project.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::edit::{self, Entry};
use super::interpreter;
use super::project::{self, Application};
use super::request::InitRequest;
use crate::cli::compat::peers::DropIn;
use crate::cli::migrate::{self, MigrateRequest, Plan, render};
use crate::config::{ConfigErrors, Environment, Value, name};
use crate::exit_status::{EX_CONFIG, EX_USAGE};

/// The lowest uid of ordinary users (login.defs(5)).
const FIRST_USER_ID: u32 = 1000;

/// Words by which a unit that starts a server of Python applications is recognized.
const SERVERS: [&str; 5] = ["gunicorn", "uvicorn", "granian", "hypercorn", "daphne"];

/// A file to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewFile {
    /// The absolute path on the machine that runs the service.
    pub(super) path: PathBuf,
    pub(super) content: String,
    /// The current content; `None` if there is no file.
    pub(super) old: Option<String>,
    /// Whether the file may hold secrets: only root and the service's group may read it.
    pub(super) is_secret: bool,
}

/// The result of looking at a project.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) files: Vec<NewFile>,
    /// Sentences for the operator.
    pub(super) notes: Vec<String>,
    /// The user of the service.
    pub(super) user: String,
    /// The file in `files` that systemd-sysusers(8) reads, if the user is the instance's own.
    pub(super) sysusers: Option<PathBuf>,
    /// The address of the socket: `ListenStream=`.
    pub(super) address: String,
}

/// Looks at the project, and returns what to write. `root` is the directory below which the files
/// are written: `/`, or an image's root.
///
/// # Errors
/// The reason, and the exit status.
pub(super) fn propose(
    request: &InitRequest,
    environment: &Environment,
    cwd: &Path,
    root: &Path,
) -> Result<Proposal, (String, u8)> {
    let project = cwd.join(&request.directory);
    let project = fs::canonicalize(&project)
        .ok()
        .filter(|project| project.is_dir())
        .ok_or_else(|| (format!("{}: there is no such directory", project.display()), EX_USAGE))?;
    if project::has_control_characters(&project) {
        return Err((
            format!(
                "{}: a unit cannot name a path with control characters",
                project.display().to_string().escape_debug()
            ),
            EX_USAGE,
        ));
    }
    let owner =
        fs::metadata(&project).ok().and_then(|of| User::from_uid(Uid::from_raw(of.uid())).ok().flatten());
    let mut notes = Vec::new();
    let mut plan = read_deployment(request, &project, environment, root, &mut notes)?;
    add_application(&mut plan, request, &project, owner.as_ref(), environment, &mut notes)?;
    let service = &request.service;
    let user = choose_user(request, &mut plan, &project, owner.as_ref(), &mut notes);
    let is_own_user = user == service.user();
    set_user(&mut plan, request, &user);
    add_places(&mut plan, &project, root);
    if let Some(address) = &request.bind {
        plan.directives.retain(|(part, ..)| *part != DropIn::Socket);
        plan.listen(address, None, "--bind");
    }
    notes.append(&mut plan.changed);
    notes.append(&mut plan.left_out);
    let address =
        plan.directives.iter().find(|(part, key, _)| *part == DropIn::Socket && key == "ListenStream");
    let address = address.map_or_else(|| service.address(), |(.., address)| address.clone());
    let comment = format!("Written by `rgun init` for {}.", project.display());
    let mut files = Vec::new();
    let mut sysusers = None;
    let home = format!("/var/lib/{user}");
    if is_own_user && service.is_instance() {
        let path = PathBuf::from(format!("/etc/sysusers.d/{user}.conf"));
        let content = format!("# {comment}\nu {user} - \"rgun instance {}\" {home}\n", service.label());
        files.push(NewFile { old: read_old(root, &path), path: path.clone(), content, is_secret: false });
        sysusers = Some(path);
    }
    files.push(configuration(&plan, request, &comment, root)?);
    files.extend(drop_ins(&plan, request, &comment, root));
    files.retain(|file| file.old.as_ref() != Some(&file.content));
    let sysusers = sysusers.filter(|path| files.iter().any(|file| file.path == *path));
    Ok(Proposal { files, notes, user, sysusers, address })
}

/// Reads the units that serve the project today, else its Procfile, and its `gunicorn.conf.py`.
fn read_deployment(
    request: &InitRequest,
    project: &Path,
    environment: &Environment,
    root: &Path,
    notes: &mut Vec<String>,
) -> Result<Plan, (String, u8)> {
    let mut files = units_of(project, &root.join("etc/systemd/system"));
    for unit in &files {
        notes.push(format!(
            "the settings of {} are taken over; disable this unit before you start the new one",
            unit.display()
        ));
    }
    let procfile = project.join("Procfile");
    let has_procfile = files.is_empty() && procfile.is_file();
    if has_procfile {
        files.push(procfile.clone());
    }
    let configuration = project.join("gunicorn.conf.py");
    if configuration.is_file() {
        if request.python.is_some() {
            files.push(configuration);
        } else {
            notes.push(format!(
                "{} is a Python program, which rgun init does not execute: pass --python to take its settings over",
                configuration.display()
            ));
        }
    }
    let label = request.service.label();
    let request = MigrateRequest { files, write: None, yes: false, python: request.python.clone() };
    let plan = migrate::plan_of(&request, &[label, "web"], environment, project)?;
    if has_procfile && plan.settings.contains_key(name::TARGET) {
        notes.push(format!("the settings of {} are taken over", procfile.display()));
    }
    Ok(plan)
}

/// Returns the units in this directory that start a server in the project, sorted by name.
fn units_of(project: &Path, directory: &Path) -> Vec<PathBuf> {
    let Some(project) = project.to_str() else { return Vec::new() };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut units: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|kind| kind == "service"))
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines();
            let names_project = text.match_indices(project).any(|(start, _)| {
                // /srv/shop2 is another project.
                text[start + project.len()..]
                    .chars()
                    .next()
                    .is_none_or(|next| !next.is_alphanumeric() && !"-_.".contains(next))
            });
            let starts_server = lines.any(|line| {
                line.starts_with("ExecStart=") && SERVERS.iter().any(|server| line.contains(server))
            });
            names_project && starts_server
        })
        .collect();
    units.sort();
    units
}

/// Adds the application and its interpreter, unless a unit has named them.
fn add_application(
    plan: &mut Plan,
    request: &InitRequest,
    project: &Path,
    owner: Option<&User>,
    environment: &Environment,
    notes: &mut Vec<String>,
) -> Result<(), (String, u8)> {
    let origin = project.display().to_string();
    let directory = match plan.directory() {
        Some(directory) if plan.settings.contains_key(name::TARGET) => PathBuf::from(directory),
        _ => {
            let Application { target, directory } = choose_application(project, notes)?;
            plan.set(name::TARGET, Value::text(target), &origin);
            plan.set(name::DIRECTORY, Value::os(directory.as_os_str()), &origin);
            directory
        }
    };
    if let Some(python) = &request.python {
        plan.set(name::PYTHON, Value::os(python), "--python");
    }
    if !plan.settings.contains_key(name::PYTHON) {
        let home = owner.map(|owner| owner.dir.as_path());
        let found = interpreter::find(project, &directory, home, environment)
            .map_err(|errors: ConfigErrors| (errors.to_string(), EX_CONFIG))?;
        plan.set(name::PYTHON, Value::os(found.path.as_os_str()), &origin);
        notes.extend(found.note);
        // The interpreter is known now.
        plan.left_out.retain(|note| !note.contains(migrate::UNKNOWN_INTERPRETER));
    }
    Ok(())
}

/// Returns the most likely application; notes name the others.
fn choose_application(project: &Path, notes: &mut Vec<String>) -> Result<Application, (String, u8)> {
    let mut found = project::find_applications(project).into_iter();
    let Some(chosen) = found.next() else {
        let reason = format!(
            "{}: no application found: there is no manage.py of Django, and no wsgi.py, asgi.py, main.py, app.py or package \
             that defines application, app or create_app()\n    hint: name the project's directory with --directory, or write \
             the configuration yourself, see rgun.toml(5)",
            project.display()
        );
        return Err((reason, EX_CONFIG));
    };
    let others: Vec<_> = found.map(|other| other.target).collect();
    if !others.is_empty() {
        notes.push(format!(
            "app.target is {}; the project also defines {}: change the key to serve another application",
            chosen.target,
            others.join(", ")
        ));
    }
    Ok(chosen)
}

/// Returns the user of the service: that of `--user`, of the old unit, or the owner of a project in
/// a home directory; else the service's own.
fn choose_user(
    request: &InitRequest,
    plan: &mut Plan,
    project: &Path,
    owner: Option<&User>,
    notes: &mut Vec<String>,
) -> String {
    let of_unit = plan.directives.iter().position(|(part, key, _)| *part == DropIn::Service && key == "User");
    let of_unit = of_unit.map(|idx| plan.directives.remove(idx).2);
    if let Some(user) = &request.user {
        return user.clone();
    }
    if let Some(user) = of_unit.filter(|user| user != "root") {
        return user;
    }
    let at_home = owner.filter(|owner| {
        owner.uid.as_raw() >= FIRST_USER_ID && owner.dir != Path::new("/") && project.starts_with(&owner.dir)
    });
    match at_home {
        Some(owner) => {
            notes.push(format!(
                "the service runs as {0}, because {1} is in the home directory of {0}, which other users often cannot enter: \
                 --user names another user",
                owner.name,
                project.display()
            ));
            owner.name.clone()
        }
        None => request.service.user(),
    }
}

/// Sets the user of the service and its primary group, and names the group in the notes about the
/// old one.
fn set_user(plan: &mut Plan, request: &InitRequest, user: &str) {
    let is_own_user = user == request.service.user();
    let group = if is_own_user { user.to_owned() } else { group_of(user) };
    let path = request.service.configuration();
    let text = format!("the primary group is {group}, which may read {} and owns new files", path.display());
    for note in &mut plan.changed {
        *note = note.replace(migrate::PRIMARY_GROUP, &text);
    }
    if !is_own_user {
        plan.directive(DropIn::Service, "User", user);
        plan.directive(DropIn::Service, "Group", &group);
    }
}

/// Returns the primary group of a user; the user's name if there is no such user yet.
fn group_of(user: &str) -> String {
    let known = User::from_name(user).ok().flatten();
    let group = known.and_then(|user| nix::unistd::Group::from_gid(user.gid).ok().flatten());
    group.map_or_else(|| user.to_owned(), |group| group.name)
}

/// Adds what the project needs from the machine: directories to write to, variables, and services
/// to start after.
fn add_places(plan: &mut Plan, project: &Path, root: &Path) {
    for directory in project::data_directories(project) {
        let is_writable = directory.starts_with("/var/lib/rgun");
        if !is_writable {
            plan.directive(DropIn::Service, "ReadWritePaths", &escape(&directory));
        }
    }
    if project.join(".env").is_file() {
        // The rest of the line is the path, without quoting.
        let path = project.join(".env").to_string_lossy().replace('%', "%%");
        plan.directive(DropIn::Service, "EnvironmentFile", &format!("-{path}"));
    }
    let directories = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
    let has_unit = |unit: &str| directories.iter().any(|directory| root.join(directory).join(unit).is_file());
    for unit in project::services(&project::requirements(project), has_unit) {
        plan.directive(DropIn::Unit, "After", unit);
    }
}

/// Formats a path for a unit: a percent sign would begin a specifier, and a space ends the path.
fn escape(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    if text.contains([' ', '\'', '"', '\\']) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text
    }
}

/// Returns the configuration: a new file, or the existing one with the keys set.
fn configuration(
    plan: &Plan,
    request: &InitRequest,
    comment: &str,
    root: &Path,
) -> Result<NewFile, (String, u8)> {
    let entries: Vec<Entry> = render::entries(plan);
    let path = request.service.configuration();
    let old = read_old(root, &path);
    let content = match &old {
        Some(old) => edit::set_keys(old, &entries)
            .map_err(|reason| (format!("{}: {reason}", path.display()), EX_CONFIG))?,
        None => edit::new_file(&entries, comment),
    };
    let content = match render::static_mounts(plan) {
        mounts if mounts.is_empty() || content.contains(&mounts) => content,
        mounts => format!("{content}\n{mounts}"),
    };
    Ok(NewFile { path, content, old, is_secret: true })
}

/// Returns the drop-ins of service and socket; those without content are omitted.
fn drop_ins(plan: &Plan, request: &InitRequest, comment: &str, root: &Path) -> Vec<NewFile> {
    let service = [(DropIn::Unit, "Unit"), (DropIn::Service, "Service")];
    let service: String =
        service.iter().map(|(part, heading)| render::section(plan, *part, heading)).collect();
    let socket = render::section(plan, DropIn::Socket, "Socket");
    let units = [(request.service.service_unit(), service), (request.service.socket_unit(), socket)];
    units
        .into_iter()
        .filter(|(_, content)| !content.is_empty())
        .map(|(unit, content)| {
            let path = PathBuf::from(format!("/etc/systemd/system/{unit}.d/10-init.conf"));
            let content = format!("# {comment}\n{content}");
            NewFile { old: read_old(root, &path), path, content, is_secret: false }
        })
        .collect()
}

/// Returns the current content of a file below `root`.
fn read_old(root: &Path, path: &Path) -> Option<String> {
    render::read_existing(&below(root, path))
}

/// Returns the place of an absolute path below `root`.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
