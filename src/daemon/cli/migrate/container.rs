//! Descriptions of containers: Containerfiles, and quadlet's `.container` units.
//!
//! A container needs no units: there, rgun runs with the flags of the old command. The result has
//! the command's settings for a systemd service. Instructions about the image itself (FROM, COPY,
//! volumes) do not concern rgun and are not listed.

use super::plan::{EnvPlace, Plan};
use super::server::ReplacedServer;
use super::shell;
use super::tokens::{self, Syntax};
use super::words::{Known, Scope, Word};
use crate::config::{Value, name};

/// A command in a description of a container.
#[derive(Debug, Clone)]
pub(super) enum ContainerCommand {
    /// A line for `sh -c`.
    Line(String),
    /// The program and its arguments.
    Words(Vec<Word>),
}

/// The image of a Containerfile, as described by the lines read so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    plan: Plan,
    /// The arguments of the build (`ARG`) with their defaults.
    arguments: Scope,
    entrypoint: Option<(ContainerCommand, String)>,
    command: Option<(ContainerCommand, String)>,
}

/// Returns the plan of the container's command; no plan if the command starts no server.
pub(super) fn migrate_containerfile(text: &str, label: &str, plan: &mut Plan) -> Vec<Plan> {
    let image = read_image(text, label, plan);
    let (mut service, command, origin) = image.process(label, None, None);
    let is_server = command.is_some_and(|command| run(command, &origin, &mut service));
    if is_server {
        note_container(label, &mut service);
        return vec![service];
    }
    plan.left_out(
        label,
        &format!(
            "has no CMD or ENTRYPOINT that starts {}; if one runs a script, pass the script too",
            ReplacedServer::NAMES
        ),
    );
    Vec::new()
}

/// Reads a Containerfile. Returns the image of its last stage.
pub(super) fn read_image(text: &str, label: &str, plan: &Plan) -> Image {
    let mut stages: Vec<(String, Image)> = Vec::new();
    let mut image = Image::of(plan);
    for (line, number) in joined_lines(text) {
        let Some((instruction, rest)) = line.split_once(char::is_whitespace) else { continue };
        let (origin, rest) = (format!("{label}:{number}"), rest.trim());
        if instruction.eq_ignore_ascii_case("FROM") {
            let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
            let based_on = stages.iter().rev().find(|(name, _)| Some(&name.as_str()) == words.first());
            image = match based_on {
                Some((_, stage)) => stage.clone(),
                None => Image { plan: plan.clone(), arguments: image.arguments, ..Image::default() },
            };
            let name = words.get(2).copied().unwrap_or_default().to_owned();
            stages.push((name, image.clone()));
            continue;
        }
        image.add(&instruction.to_ascii_uppercase(), rest, &origin);
        if let Some((_, stage)) = stages.last_mut() {
            stage.clone_from(&image);
        }
    }
    image
}

impl Image {
    /// Returns an image of which only the plan is known.
    pub(super) fn of(plan: &Plan) -> Self {
        Self { plan: plan.clone(), ..Self::default() }
    }

    fn add(&mut self, instruction: &str, rest: &str, origin: &str) {
        match instruction {
            "ARG" => {
                if let Some((name, value)) = rest.split_once('=') {
                    self.arguments.define(name, Known::Value(value.trim_matches(['"', '\'']).to_owned()));
                }
            }
            "ENV" => self.add_variables(rest, origin),
            "WORKDIR" => match self.expand(rest) {
                Some(path) if path.starts_with('/') => {
                    self.plan.set(name::DIRECTORY, Value::text(path), origin);
                }
                Some(path) => {
                    let base = self.plan.directory().unwrap_or_default();
                    self.plan.set(name::DIRECTORY, Value::text(format!("{base}/{path}")), origin);
                }
                None => self.plan.left_out(
                    origin,
                    &format!("WORKDIR {rest}: the value is not known here; write app.directory"),
                ),
            },
            "USER" => {
                self.plan.left_out(origin, &format!("USER {rest}: write User= in a drop-in of rgun.service"));
            }
            "CMD" => self.command = Some((command_of(rest), origin.to_owned())),
            "ENTRYPOINT" => {
                self.entrypoint = Some((command_of(rest), origin.to_owned()));
                // An entrypoint resets the command of the base image.
                self.command = None;
            }
            _ => {}
        }
    }

    fn add_variables(&mut self, rest: &str, origin: &str) {
        let words = tokens::split(rest, Syntax::Shell)
            .unwrap_or_default()
            .into_iter()
            .flat_map(|command| command.words);
        let pairs: Vec<_> = words.map(|word| word.assignment()).collect();
        let is_old_form = pairs.first().is_none_or(Option::is_none);
        let old = rest.split_once(char::is_whitespace).filter(|_| is_old_form);
        let old = old.and_then(|(name, value)| Some((name.to_owned(), tokens::word(value.trim())?)));
        for (name, value) in pairs.into_iter().flatten().chain(old) {
            let mut scope = self.arguments.clone();
            scope.extend(&self.plan.scope());
            match value.expand(&scope) {
                Ok(expanded) => self.plan.export(&name, &expanded.text, origin, EnvPlace::DropIn),
                // `$PATH` has directories that only the image knows; `/usr/bin` stands for them.
                Err(unknown) if name == "PATH" && unknown.is_variable("PATH") => {
                    let path = value.unquoted().replace("${PATH}", "/usr/bin").replace("$PATH", "/usr/bin");
                    self.plan.search_path = Some(path);
                }
                Err(unknown) => self.plan.left_out(
                    origin,
                    &format!("ENV {name}: the value of {} is not known here; write Environment={name}=… in a drop-in of rgun.service", unknown.source),
                ),
            }
        }
    }

    fn expand(&self, text: &str) -> Option<String> {
        let mut scope = self.arguments.clone();
        scope.extend(&self.plan.scope());
        tokens::word(text)?.expand(&scope).ok().map(|expanded| expanded.text)
    }

    /// Returns the plan of a container of this image, its command, and the place of the command.
    /// `entrypoint` and `command` replace those of the image.
    pub(super) fn process(
        self,
        label: &str,
        entrypoint: Option<(ContainerCommand, String)>,
        command: Option<(ContainerCommand, String)>,
    ) -> (Plan, Option<ContainerCommand>, String) {
        // An entrypoint outside the image also removes the image's command.
        let own_command = if entrypoint.is_some() { None } else { self.command };
        let (entrypoint, command) = (entrypoint.or(self.entrypoint), command.or(own_command));
        let (process, origin) = match (entrypoint, command) {
            (Some((ContainerCommand::Words(mut first), origin)), Some((command, place))) => {
                let is_args = !matches!(command, ContainerCommand::Line(_));
                match command {
                    ContainerCommand::Words(rest) => first.extend(rest),
                    ContainerCommand::Line(line) => first.extend(["sh", "-c", &line].map(Word::literal)),
                }
                let is_script = is_args && first.len() > 1;
                (Some(ContainerCommand::Words(first)), if is_script { place } else { origin })
            }
            // `sh -c` ignores the command.
            (Some((entrypoint, origin)), _) => (Some(entrypoint), origin),
            (None, Some((command, origin))) => (Some(command), origin),
            (None, None) => (None, label.to_owned()),
        };
        (self.plan, process, origin)
    }
}

/// Adds the settings of a command, if it starts a server. Returns whether it does.
pub(super) fn run(command: ContainerCommand, origin: &str, plan: &mut Plan) -> bool {
    match command {
        ContainerCommand::Line(line) => {
            shell::migrate_line(&line, Syntax::Shell, &Scope::default(), origin, plan)
        }
        ContainerCommand::Words(words) => shell::migrate_words(words, &Scope::default(), origin, plan),
    }
}

/// Adds the command of a quadlet unit.
pub(super) fn migrate_quadlet(text: &str, label: &str, plan: &mut Plan) -> Vec<Plan> {
    let mut service = plan.clone();
    let (mut entrypoint, mut command) = (None, None);
    for (line, number) in joined_lines(text) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (origin, value) = (format!("{label}:{number}"), value.trim());
        match key.trim() {
            "WorkingDir" => service.set(name::DIRECTORY, Value::text(value), &origin),
            "Environment" => {
                for (name, value) in
                    shlex::split(value).unwrap_or_default().iter().filter_map(|word| word.split_once('='))
                {
                    service.export(name, &value.replace("%%", "%"), &origin, EnvPlace::DropIn);
                }
            }
            "EnvironmentFile" if value.starts_with('/') => service.add_env_file(value, &origin),
            "EnvironmentFile" => service.left_out(
                &origin,
                &format!("EnvironmentFile={value}: write the full path in a drop-in of rgun.service"),
            ),
            "User" => service.left_out(
                &origin,
                &format!("User={value}: a user of the container; write User= in a drop-in of rgun.service"),
            ),
            "PublishPort" => note_ports(value, &origin, &mut service),
            "Exec" => command = Some((value.to_owned(), origin)),
            "Entrypoint" => entrypoint = Some(value.to_owned()),
            _ => {}
        }
    }
    if let Some((command, origin)) = command {
        let line = entrypoint.map_or(command.clone(), |entrypoint| format!("{entrypoint} {command}"));
        if shell::migrate_line(&line, Syntax::Unit, &Scope::default(), &origin, &mut service) {
            note_container(label, &mut service);
            return vec![service];
        }
    }
    plan.left_out(
        label,
        "has no Exec= that starts a server; the image may have the command: pass its Containerfile",
    );
    Vec::new()
}

/// Notes a port of the host that differs from the container's: `8080:80`. A port that is published on
/// the loopback interface (`127.0.0.1:8080:80`) keeps its address on the host, because that of the
/// container would admit other machines.
pub(super) fn note_ports(value: &str, origin: &str, plan: &mut Plan) {
    let plain = value.split('/').next().unwrap_or(value);
    let mut parts = plain.rsplitn(2, ':');
    if let (Some(inner), Some(outer)) = (parts.next(), parts.next())
        && outer != inner
    {
        if let Some(("127.0.0.1" | "localhost" | "[::1]", _)) = outer.rsplit_once(':') {
            let outer = outer.replace("localhost", "127.0.0.1");
            plan.changed.push(format!(
                "{origin}: port {value}: the socket listens at {outer}, where the host has published the container"
            ));
            return plan.loopback_ports.push((inner.to_owned(), outer));
        }
        plan.left_out(
            origin,
            &format!("port {value}: clients connect to {outer}, the container listens on {inner}; write ListenStream={outer} in a drop-in of rgun.socket if rgun replaces the container"),
        );
    }
}

/// Notes what the result of a container's description is for.
pub(super) fn note_container(label: &str, plan: &mut Plan) {
    plan.left_out(
        label,
        "the container: in a container, run rgun APP with the flags of the command; these files are for a service \
         of systemd",
    );
}

/// Reads a command: a list in JSON, or a line.
fn command_of(text: &str) -> ContainerCommand {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => ContainerCommand::Words(words.iter().map(|word| Word::literal(word)).collect()),
        Err(_) => ContainerCommand::Line(text.to_owned()),
    }
}

/// Returns the lines without comments, each with its number. A line that ends with a backslash is
/// joined with the next line.
fn joined_lines(text: &str) -> Vec<(String, usize)> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    let mut is_continued = false;
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (content, continues) =
            line.strip_suffix('\\').map_or((line, false), |content| (content.trim_end(), true));
        match lines.last_mut().filter(|_| is_continued) {
            Some((last, _)) => {
                last.push(' ');
                last.push_str(content);
            }
            None => lines.push((content.to_owned(), idx + 1)),
        }
        is_continued = continues;
    }
    lines
}
