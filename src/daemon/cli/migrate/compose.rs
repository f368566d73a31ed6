//! Compose files: each service that starts a server becomes a migration of its own.

use super::container::{self, ContainerCommand, Image};
use super::env_file;
use super::plan::{EnvPlace, Plan};
use super::server::ReplacedServer;
use super::tokens::{self, Syntax};
use super::words::{Known, Scope};
use super::yaml::{self, Node};
use crate::config::{Value, name};

/// A Compose file.
struct ComposeFile<'a> {
    label: &'a str,
    /// The directory of the file.
    directory: &'a str,
    /// The variables of `.env`, which Compose puts into the file's text.
    interpolation: Scope,
}

/// Returns a plan for each service that starts a server. Other services are left out with a note.
/// `directory` is the directory of the file. `image` is the Containerfile that was passed, for
/// services that build their image.
///
/// # Errors
/// The text is not YAML.
pub(super) fn migrate(
    text: &str,
    label: &str,
    directory: &str,
    image: Option<&Image>,
    plan: &mut Plan,
) -> Result<Vec<Plan>, String> {
    let root = yaml::parse(text)?;
    let file = ComposeFile { label, directory, interpolation: interpolation(directory, plan) };
    let mut servers = Vec::new();
    for (service_name, node) in root.get("services").map(Node::entries).unwrap_or_default() {
        let built = image.filter(|_| node.get("build").is_some());
        let own = built.cloned().unwrap_or_else(|| Image::of(plan));
        let command = |key| {
            let found = node.get(key)?;
            Some((command_of(found)?, format!("{label}:{}", found.line)))
        };
        let (mut service, process, origin) = own.process(label, command("entrypoint"), command("command"));
        service.name.clone_from(service_name);
        file.add_context(node, &mut service);
        if process.is_some_and(|process| container::run(process, &origin, &mut service)) {
            container::note_container(&format!("{label}: {service_name}"), &mut service);
            servers.push(service);
        } else {
            file.note_other(service_name, node, plan);
        }
    }
    if servers.is_empty() {
        plan.left_out(label, &format!("has no service that starts {}", ReplacedServer::NAMES));
    }
    Ok(servers)
}

/// Returns the variables of `.env`: the file that was passed, or the one on this machine.
fn interpolation(directory: &str, plan: &Plan) -> Scope {
    let passed = plan.env_files.iter().find(|file| file.path.ends_with("/.env")).cloned();
    let path = format!("{directory}/.env");
    let read = || Some(env_file::parse(&path, &std::fs::read_to_string(&path).ok()?));
    passed.or_else(read).map(|file| file.variables).unwrap_or_default().into_iter().collect()
}

/// Returns the command of a node: a list of words, or a line. Compose splits a line into words, too,
/// but starts no shell for it.
fn command_of(node: &Node) -> Option<ContainerCommand> {
    let plain = |text: &str| text.replace("$$", "$");
    let Some(line) = node.text() else {
        let items = node.items().iter().filter_map(Node::text).map(|text| tokens::word(&plain(text)));
        return Some(ContainerCommand::Words(items.collect::<Option<_>>()?));
    };
    let words = tokens::split(&plain(line).replace('\n', " "), Syntax::Shell)?;
    Some(ContainerCommand::Words(words.into_iter().flat_map(|command| command.words).collect()))
}

impl ComposeFile<'_> {
    /// Adds the variables and the directory of the command. Notes the user and the ports.
    fn add_context(&self, node: &Node, plan: &mut Plan) {
        let origin = |node: &Node| format!("{}:{}", self.label, node.line);
        for file in node.get("env_file").map(Node::items).unwrap_or_default() {
            if let Some(path) = file.text().or_else(|| file.get("path")?.text()) {
                let full = if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("{}/{}", self.directory, path.trim_start_matches("./"))
                };
                let is_optional = file.get("required").and_then(Node::text) == Some("false");
                plan.add_env_file(&format!("{}{full}", if is_optional { "-" } else { "" }), &origin(file));
            }
        }
        if let Some(environment) = node.get("environment") {
            for (name, value) in environment.entries() {
                self.export(name, value.text(), &origin(value), plan);
            }
            for item in environment.items() {
                if let Some(text) = item.text() {
                    let (name, value) =
                        text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
                    self.export(name, value, &origin(item), plan);
                }
            }
        }
        if let Some((text, node)) = node.get("working_dir").and_then(|node| Some((node.text()?, node))) {
            plan.set(name::DIRECTORY, Value::text(text), &origin(node));
        }
        if let Some((text, node)) = node.get("user").and_then(|node| Some((node.text()?, node))) {
            let text =
                format!("user {text}: a user of the container; write User= in a drop-in of rgun.service");
            plan.left_out(&origin(node), &text);
        }
        for port in node.get("ports").map(Node::items).unwrap_or_default() {
            let long = || Some(format!("{}:{}", port.get("published")?.text()?, port.get("target")?.text()?));
            if let Some(text) = port.text().map(str::to_owned).or_else(long) {
                container::note_ports(&text, &origin(port), plan);
            }
        }
    }

    /// Sets a variable. Without a value, the variable has its value in the environment in which
    /// Compose runs.
    fn export(&self, name: &str, value: Option<&str>, origin: &str, plan: &mut Plan) {
        let unknown = |text: &str| {
            format!("environment {name}: {text}; write Environment={name}=… in a drop-in of rgun.service")
        };
        let Some(value) = value else {
            match self.interpolation.get(name) {
                Some(Known::Value(value)) => plan.export(name, value, origin, EnvPlace::DropIn),
                _ => {
                    plan.left_out(origin, &unknown("has the value of the environment in which Compose runs"));
                }
            }
            return;
        };
        // In a Compose file, "$$" is a dollar sign for the container.
        let parts: Option<Vec<_>> = value.split("$$").map(tokens::word).collect();
        let expanded = parts
            .unwrap_or_default()
            .iter()
            .map(|word| word.expand(&self.interpolation))
            .collect::<Result<Vec<_>, _>>();
        match expanded {
            Ok(parts) => {
                plan.changed.extend(
                    parts.iter().flat_map(|part| &part.notes).map(|note| format!("{origin}: {note}")),
                );
                let text = parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("$");
                plan.export(name, &text, origin, EnvPlace::DropIn);
            }
            Err(part) => {
                plan.left_out(origin, &unknown(&format!("the value of {} is not known here", part.source)));
            }
        }
    }

    /// Notes a service that starts no server.
    fn note_other(&self, service_name: &str, node: &Node, plan: &mut Plan) {
        let command = node.get("command").or_else(|| node.get("entrypoint"));
        let text = match (command, node.get("build")) {
            (Some(_), _) => "its command starts no server that rgun replaces",
            (None, Some(_)) => "the image has the command; pass the Containerfile too if it starts a server",
            (None, None) => {
                "the image has the command; rgun replaces a server in it only if the image is yours"
            }
        };
        let line = command.map_or(node.line, |command| command.line);
        plan.left_out(&format!("{}:{line}", self.label), &format!("service {service_name}: {text}"));
    }
}
