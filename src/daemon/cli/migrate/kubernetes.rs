//! Manifests of Kubernetes: each container that starts a server becomes a migration of its own.
//!
//! A pod needs no units: there, rgun runs with the flags of the old command. The result has the
//! container's settings for a systemd service. Fields that concern only the cluster (labels,
//! selectors, volumes) are not listed.

use super::container::{self, ContainerCommand, Image};
use super::plan::{EnvPlace, Plan};
use super::server::ReplacedServer;
use super::words::{Known, Piece, Scope, Variable, Word, is_name};
use super::yaml::{self, Node};
use crate::config::{Value, name};

/// The reason for which a template is refused.
const TEMPLATE: &str = "is a template of Helm; pass what helm template prints";

/// The objects of a file.
struct Manifests {
    label: String,
    objects: Vec<Node>,
}

/// A container of a pod.
struct Container<'a> {
    file: &'a Manifests,
    node: &'a Node,
    /// The variables whose values are known only in the cluster.
    unknown: Scope,
}

/// Returns a plan for each container that starts a server. Other containers are left out with a
/// note. `image` is the Containerfile that was passed, for containers without a command.
///
/// # Errors
/// The text is not YAML, or a template of Helm.
pub(super) fn migrate(
    text: &str,
    label: &str,
    image: Option<&Image>,
    plan: &mut Plan,
) -> Result<Vec<Plan>, String> {
    let is_template = text.contains("{{");
    let explain = |reason: String| if is_template { TEMPLATE.to_owned() } else { reason };
    let documents = yaml::parse_all(text).map_err(explain)?;
    let objects = documents.into_iter().flat_map(|document| match document.get("items") {
        Some(items) if is_kind(&document, "List") => items.items().to_vec(),
        _ => vec![document],
    });
    let file = Manifests { label: label.to_owned(), objects: objects.collect() };
    let mut servers = Vec::new();
    for object in &file.objects {
        let spec = object.get("spec");
        // A Deployment, and any other controller of pods, contains the template of a pod.
        let template = spec.and_then(|spec| spec.get("template")?.get("spec"));
        let pod = template.or(spec.filter(|_| is_kind(object, "Pod")));
        if let Some(pod) = pod {
            servers.extend(file.pod(object, pod, image, plan));
        }
    }
    if servers.is_empty() && is_template {
        return Err(TEMPLATE.to_owned());
    }
    if servers.is_empty() {
        plan.left_out(label, &format!("has no container that starts {}", ReplacedServer::NAMES));
    }
    Ok(servers)
}

fn is_kind(object: &Node, kind: &str) -> bool {
    object.get("kind").and_then(Node::text) == Some(kind)
}

/// Returns the name of an object.
fn name_of(object: &Node) -> &str {
    object.get("metadata").and_then(|metadata| metadata.get("name")?.text()).unwrap_or_default()
}

impl Manifests {
    fn origin(&self, node: &Node) -> String {
        format!("{}:{}", self.label, node.line)
    }

    /// Returns the plans of a pod's containers.
    fn pod(&self, object: &Node, pod: &Node, image: Option<&Image>, plan: &mut Plan) -> Vec<Plan> {
        let mut servers = Vec::new();
        for node in pod.get("containers").map(Node::items).unwrap_or_default() {
            let own = image.cloned().unwrap_or_else(|| Image::of(plan));
            let mut container = Container { file: self, node, unknown: Scope::default() };
            if let Some(mut service) = container.migrate(own, plan) {
                node.get("name").and_then(Node::text).unwrap_or_default().clone_into(&mut service.name);
                self.note_pod(object, pod, &mut service);
                servers.push(service);
            }
        }
        if let [service] = servers.as_mut_slice() {
            name_of(object).clone_into(&mut service.name);
        }
        servers
    }

    /// Notes the settings of the pod that concern a container with a server.
    fn note_pod(&self, object: &Node, pod: &Node, plan: &mut Plan) {
        let replicas = object.get("spec").and_then(|spec| spec.get("replicas"));
        if let Some((count, node)) = replicas.and_then(|node| Some((node.text()?, node))) {
            let text = format!("replicas: {count}: the result is the service of one pod");
            if count != "1" {
                plan.left_out(&self.origin(node), &text);
            }
        }
        if let Some((time, node)) =
            pod.get("terminationGracePeriodSeconds").and_then(|node| Some((node.text()?, node)))
        {
            let text = format!(
                "terminationGracePeriodSeconds: {time}: write timeouts.drain, and TimeoutStopSec= of the unit, which must be longer"
            );
            plan.left_out(&self.origin(node), &text);
        }
        for init in pod.get("initContainers").map(Node::items).unwrap_or_default() {
            let words = [init.get("command"), init.get("args")].into_iter().flatten().flat_map(Node::items);
            let command = words.filter_map(Node::text).collect::<Vec<_>>().join(" ");
            let text =
                format!("initContainers: {command}: ExecStartPre= in the unit runs a command before rgun");
            plan.left_out(&self.origin(init), &text);
        }
        self.note_user(pod, plan);
        let is_mine = |service: &&Node| {
            let wanted = service.get("spec").and_then(|spec| spec.get("selector")).map(Node::entries);
            let metadata = object.get("spec").and_then(|spec| spec.get("template")?.get("metadata"));
            let labels = metadata.or(object.get("metadata")).and_then(|metadata| metadata.get("labels"));
            let has =
                |key: &str, value: &Node| labels.and_then(|labels| labels.get(key)?.text()) == value.text();
            wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| has(key, value)))
        };
        for service in self.objects.iter().filter(|other| is_kind(other, "Service")).filter(is_mine) {
            let ports = service.get("spec").and_then(|spec| spec.get("ports"));
            for port in ports.map(Node::items).unwrap_or_default() {
                let outer = port.get("port").and_then(Node::text).unwrap_or_default();
                let inner = port.get("targetPort").and_then(Node::text).unwrap_or(outer);
                container::note_ports(&format!("{outer}:{inner}"), &self.origin(port), plan);
            }
        }
    }

    /// Notes the user of a pod or a container.
    fn note_user(&self, node: &Node, plan: &mut Plan) {
        let context = node.get("securityContext");
        if let Some((user, node)) = context.and_then(|context| {
            let user = context.get("runAsUser")?;
            Some((user.text()?, user))
        }) {
            let text = format!(
                "runAsUser: {user}: a user of the container; write User= in a drop-in of rgun.service"
            );
            plan.left_out(&self.origin(node), &text);
        }
    }

    /// Returns the data of a `ConfigMap` of the file.
    fn config_map(&self, name: &str) -> Option<&Node> {
        let maps = self.objects.iter().filter(|object| is_kind(object, "ConfigMap"));
        maps.into_iter().find(|map| name_of(map) == name)?.get("data")
    }
}

impl Container<'_> {
    /// Returns the plan of the container; no plan if its command starts no server.
    fn migrate(&mut self, image: Image, plan: &mut Plan) -> Option<Plan> {
        let (file, node) = (self.file, self.node);
        // The plan of the image, with the variables that the words of the command refer to.
        let (mut context, ..) = image.clone().process(&file.label, None, None);
        self.add_environment(&mut context);
        let scope = context.scope();
        let command = |key: &str| {
            let found = node.get(key)?;
            let words = found.items().iter().filter_map(Node::text).map(|text| self.word(text, &scope));
            Some((ContainerCommand::Words(words.collect()), file.origin(found)))
        };
        let (_, process, origin) = image.process(&file.label, command("command"), command("args"));
        let mut service = context;
        if let Some((text, place)) = node.get("workingDir").and_then(|place| Some((place.text()?, place))) {
            service.set(name::DIRECTORY, Value::text(text), &file.origin(place));
        }
        let container_name = node.get("name").and_then(Node::text).unwrap_or_default();
        if process.is_some_and(|process| container::run(process, &origin, &mut service)) {
            self.note_container(&mut service);
            container::note_container(&file.origin(node), &mut service);
            return Some(service);
        }
        let text = if node.get("command").or(node.get("args")).is_some() {
            "its command starts no server that rgun replaces"
        } else {
            "the image has the command; pass the Containerfile too if it starts a server"
        };
        plan.left_out(&file.origin(node), &format!("container {container_name}: {text}"));
        None
    }

    /// Adds the variables of the container: those of `env` replace those of `envFrom`.
    fn add_environment(&mut self, plan: &mut Plan) {
        let file = self.file;
        for source in self.node.get("envFrom").map(Node::items).unwrap_or_default() {
            let origin = file.origin(source);
            let prefix = source.get("prefix").and_then(Node::text).unwrap_or_default();
            let of = |key: &str| source.get(key).and_then(|source| source.get("name")?.text());
            match (of("configMapRef"), of("configMapRef").and_then(|name| file.config_map(name))) {
                (_, Some(data)) => {
                    for (name, value) in data.entries() {
                        let value = value.text().unwrap_or_default();
                        plan.export(&format!("{prefix}{name}"), value, &origin, EnvPlace::DropIn);
                    }
                }
                (Some(map), None) => plan.left_out(&origin, &format!("envFrom: ConfigMap {map} is not in this file; add it, or write its variables to a file and EnvironmentFile= in a drop-in of rgun.service")),
                (None, None) => {
                    let secret = of("secretRef").unwrap_or_default();
                    plan.left_out(&origin, &format!("envFrom: only the cluster has Secret {secret}; write its variables to a file that only root can read, and EnvironmentFile= in a drop-in of rgun.service"));
                }
            }
        }
        for variable in self.node.get("env").map(Node::items).unwrap_or_default() {
            let Some(name) = variable.get("name").and_then(Node::text) else { continue };
            self.add_variable(name, variable, plan);
        }
    }

    /// Adds a variable of `env`.
    fn add_variable(&mut self, name: &str, variable: &Node, plan: &mut Plan) {
        let origin = self.file.origin(variable);
        let source = variable.get("valueFrom");
        let key = source.and_then(|source| source.get("configMapKeyRef"));
        let of_map = key.and_then(|key| {
            let map = self.file.config_map(key.get("name")?.text()?)?;
            map.get(key.get("key")?.text()?)?.text()
        });
        if source.is_some() && of_map.is_none() {
            let kind = source.and_then(|source| source.entries().first()).map_or("", |(kind, _)| kind);
            plan.left_out(&origin, &format!("env {name}: only the cluster knows the value ({kind}); write Environment={name}=… in a drop-in of rgun.service, for a secret EnvironmentFile="));
            self.unknown.define(name, Known::Not(format!("{origin}: {kind}")));
            return;
        }
        let value = of_map.or_else(|| variable.get("value")?.text()).unwrap_or_default();
        match self.word(value, &plan.scope()).expand(&plan.scope()) {
            Ok(expanded) => plan.export(name, &expanded.text, &origin, EnvPlace::DropIn),
            Err(unknown) => {
                plan.left_out(&origin, &format!("env {name}: the value of {} is not known here; write Environment={name}=… in a drop-in of rgun.service", unknown.source));
                self.unknown.define(name, Known::Not(origin));
            }
        }
    }

    /// Returns a text with references to variables as a word: `$(NAME)` is the value of a variable
    /// of the container, `$$` a dollar sign. Another reference stays as written; a shell may compute
    /// it.
    fn word(&self, text: &str, scope: &Scope) -> Word {
        let mut word = Word { source: text.to_owned(), pieces: Vec::new() };
        let (mut plain, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(next) = rest.strip_prefix('$') {
                plain.push('$');
                rest = next;
                continue;
            }
            let reference = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
            let Some((name, next)) = reference.filter(|(name, _)| is_name(name)) else {
                plain.push('$');
                continue;
            };
            word.pieces.push(Piece::Text(std::mem::take(&mut plain)));
            word.pieces.push(if scope.get(name).or(self.unknown.get(name)).is_some() {
                let source = format!("${{{name}}}");
                Piece::Variable(Variable { name: name.to_owned(), source, is_quoted: true, default: None })
            } else {
                Piece::Computed(format!("$({name})"))
            });
            rest = next;
        }
        plain.push_str(rest);
        word.pieces.push(Piece::Text(plain));
        word
    }

    /// Notes the settings of the container that the cluster acts on.
    fn note_container(&self, plan: &mut Plan) {
        let (file, node) = (self.file, self.node);
        file.note_user(node, plan);
        for (probe, remedy) in [
            (
                "readinessProbe",
                "the daemon answers health.path; reload.probe checks the application before a reload takes effect",
            ),
            (
                "livenessProbe",
                "systemd restarts the daemon itself (WatchdogSec=); health.live_path answers probes",
            ),
            (
                "startupProbe",
                "systemctl start waits until a worker can serve; timeouts.boot limits how long a worker may boot",
            ),
        ] {
            if let Some(place) = node.get(probe) {
                let path = place.get("httpGet").and_then(|get| get.get("path")?.text());
                let what = path.map_or_else(|| probe.to_owned(), |path| format!("{probe} {path}"));
                plan.left_out(&file.origin(place), &format!("{what}: {remedy}"));
            }
        }
        let limits = node.get("resources").and_then(|resources| resources.get("limits"));
        for (limit, value) in limits.map(Node::entries).unwrap_or_default() {
            let text = value.text().unwrap_or_default();
            let directive = match limit.as_str() {
                "memory" => format!("MemoryMax={}", text.trim_end_matches('i')),
                "cpu" => format!("CPUQuota={}", cpu_quota(text).unwrap_or_default()),
                _ => continue,
            };
            plan.left_out(
                &file.origin(value),
                &format!("resources.limits.{limit}: {text}: write {directive} in a drop-in of rgun.service"),
            );
        }
        if let Some(stop) = node.get("lifecycle").and_then(|lifecycle| lifecycle.get("preStop")) {
            plan.left_out(
                &file.origin(stop),
                "preStop: with timeouts.drain_delay, rgun keeps serving for a while before it stops",
            );
        }
    }
}

/// Returns a number of processors in the form of `CPUQuota=`: `2` is `200%`, `500m` is `50%`.
fn cpu_quota(text: &str) -> Option<String> {
    let percent = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 10.0,
        None => text.parse::<f64>().ok()? * 100.0,
    };
    Some(format!("{percent:.0}%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_become_percent() {
        for (text, quota) in [("1", Some("100%")), ("500m", Some("50%")), ("1.5", Some("150%")), ("x", None)]
        {
            assert_eq!(cpu_quota(text).as_deref(), quota, "{text}");
        }
    }

    #[test]
    fn reason_names_a_template_of_helm() {
        let text = "kind: Pod\nspec: {{ .Values.spec }}\n";
        let reason = migrate(text, "pod.yaml", None, &mut Plan::default()).unwrap_err();
        assert_eq!(reason, TEMPLATE);
    }
}
