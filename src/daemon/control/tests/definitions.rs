//! Compares the fields of the types with the definitions that clients read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::control::message::CallMessage;
use crate::control::method::{CallTarget, resolve};
use crate::control::{
    CallFault, DrainReply, Metric, MetricFamily, MetricType, ReloadReply, Request, RequestState,
    RequestsReply, ScaleReply, StacksReply, StatusReply, WorkerEntry, WorkerStacks, WorkersReply, interfaces,
};

/// The fields of each member of an interface: "type Worker", "error Stopping", "method Status" for the
/// fields of a method's reply, and "call Status" for its parameters.
struct Definition(BTreeMap<String, BTreeMap<String, String>>);

impl Definition {
    fn of(interface: &str) -> Self {
        let text = interfaces::definition(interface).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let text = lines.collect::<Vec<_>>().join(" ");
        let mut members = BTreeMap::new();
        // Each member ends with the last parenthesis before the next keyword.
        for member in split_members(&text) {
            let (keyword, rest) = member.split_once(' ').unwrap();
            let (name, lists) = rest.split_once('(').unwrap();
            let name = name.trim();
            match lists.split_once("->") {
                Some((call, reply)) => {
                    members.insert(format!("call {name}"), fields(call));
                    members
                        .insert(format!("method {name}"), fields(reply.trim_start().trim_start_matches('(')));
                }
                None => drop(members.insert(format!("{keyword} {name}"), fields(lists))),
            }
        }
        Self(members)
    }

    fn fields(&self, member: &str) -> &BTreeMap<String, String> {
        self.0.get(member).unwrap_or_else(|| panic!("no {member}"))
    }

    fn names(&self, keyword: &str) -> Vec<&str> {
        self.0.keys().filter_map(|member| member.strip_prefix(keyword)?.strip_prefix(' ')).collect()
    }

    /// Asserts that a value has all fields of a member, and no others, and that their types fit.
    fn check(&self, member: &str, value: &impl Serialize) {
        let value = serde_json::to_value(value).unwrap();
        let object = value.as_object().unwrap();
        let fields = self.fields(member);
        for name in object.keys() {
            assert!(fields.contains_key(name), "{member}: {name} is not in the definition");
        }
        for (name, kind) in fields {
            match object.get(name) {
                Some(value) => self.check_type(&format!("{member}.{name}"), kind, value),
                None => assert!(kind.starts_with('?'), "{member}: {name} is missing"),
            }
        }
    }

    fn check_type(&self, place: &str, kind: &str, value: &Value) {
        if let Some(kind) = kind.strip_prefix('?') {
            if !value.is_null() {
                self.check_type(place, kind, value);
            }
            return;
        }
        if let Some(kind) = kind.strip_prefix("[]") {
            let items = value.as_array().unwrap_or_else(|| panic!("{place} is no array: {value}"));
            assert!(!items.is_empty(), "{place}: the sample has no item to check");
            return items.iter().for_each(|item| self.check_type(place, kind, item));
        }
        let fits = match kind {
            "int" => value.is_u64(),
            "bool" => value.is_boolean(),
            "string" => value.is_string(),
            "object" => true,
            custom if value.is_string() => {
                self.fields(&format!("type {custom}")).contains_key(value.as_str().unwrap())
            }
            custom => return self.check(&format!("type {custom}"), value),
        };
        assert!(fits, "{place} is {kind}, not {value}");
    }
}

fn split_members(text: &str) -> Vec<String> {
    let mut members: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        if ["method", "type", "error"].contains(&word) {
            members.push(word.to_owned());
        } else if let Some(member) = members.last_mut() {
            *member = format!("{member} {word}");
        }
    }
    members
}

/// Parses `name: type, …)`. A value of an enum has no type.
fn fields(list: &str) -> BTreeMap<String, String> {
    let list = list.trim().trim_end_matches(')');
    let fields = list.split(',').map(str::trim).filter(|field| !field.is_empty());
    fields
        .map(|field| match field.split_once(':') {
            Some((name, kind)) => (name.trim().to_owned(), kind.trim().to_owned()),
            None => (field.to_owned(), String::new()),
        })
        .collect()
}

fn worker() -> WorkerEntry {
    WorkerEntry {
        number: Some(0),
        pid: Some(1),
        generation: 1,
        state: "ready".to_owned(),
        state_usec: 1,
        running: 1,
        slots: 1,
        websockets: 1,
        responses: 1,
        failed_responses: 1,
        memory: Some(1),
    }
}

fn status() -> StatusReply {
    StatusReply {
        version: String::new(),
        pid: 1,
        status: String::new(),
        generation: 1,
        pending_generation: Some(2),
        draining: false,
        unavailable: Some(String::new()),
        workers_ready: 1,
        workers_desired: 1,
        running: 1,
        queued: 1,
        slots: 1,
        wait_p95_usec: 1,
        responses: 1,
        failed_responses: 1,
        workers_spawned: 1,
        boot_failures: 1,
        worker_crashes: 1,
    }
}

fn request(state: RequestState) -> Request {
    let text = String::new;
    Request {
        id: text(),
        method: text(),
        path: text(),
        client: Some(text()),
        state,
        worker: Some(1),
        elapsed_usec: 1,
    }
}

#[test]
fn replies_of_the_server_have_the_defined_fields() {
    let definition = Definition::of("io.rgun.Server");
    definition.check("method Status", &status());
    definition.check("method Workers", &WorkersReply { workers: vec![worker()] });
    let requests = vec![request(RequestState::Queued), request(RequestState::Running)];
    definition.check("method Requests", &RequestsReply { requests, total: 2 });
    let stacks = WorkerStacks { worker: 0, pid: Some(1), stacks: Some(String::new()) };
    definition.check("method Stacks", &StacksReply { workers: vec![stacks] });
    definition.check("method Reload", &ReloadReply { message: String::new(), generation: 1 });
    definition.check("method Scale", &ScaleReply { workers: 1 });
    definition.check("method Drain", &DrainReply { draining: true });
    let checked = ["Drain", "Reload", "Requests", "Scale", "Stacks", "Status", "Workers"];
    assert_eq!(definition.names("method"), checked, "a method without a check");
}

#[test]
fn replies_of_metrics_and_service_have_the_defined_fields() {
    let metrics = Definition::of("io.systemd.Metrics");
    let object = Some("0".to_owned());
    metrics.check("method List", &Metric { name: String::new(), value: Value::from(1), object });
    for kind in [MetricType::Counter, MetricType::Gauge] {
        metrics.check(
            "method Describe",
            &MetricFamily { name: String::new(), description: String::new(), kind },
        );
    }
    Definition::of("org.varlink.service").check("method GetInfo", &interfaces::info());
}

#[test]
fn errors_have_the_defined_names_and_fields() {
    let text = String::new;
    for fault in [
        CallFault::InterfaceNotFound { interface: text() },
        CallFault::MethodNotFound { method: text() },
        CallFault::InvalidParameter { parameter: text() },
        CallFault::ExpectedMore {},
        CallFault::PermissionDenied { reason: text() },
        CallFault::ReloadFailed { reason: text() },
        CallFault::NoSuchWorker { worker: 1 },
        CallFault::NoHealthCheck {},
        CallFault::Stopping {},
    ] {
        let message = serde_json::to_value(&fault).unwrap();
        let (interface, name) = message["error"].as_str().unwrap().rsplit_once('.').unwrap();
        Definition::of(interface).check(&format!("error {name}"), &message["parameters"]);
    }
}

#[test]
fn every_defined_method_and_parameter_is_accepted() {
    for interface in ["org.varlink.service", "io.rgun.Server", "io.systemd.Metrics"] {
        let definition = Definition::of(interface);
        for name in definition.names("method") {
            let parameters = definition.fields(&format!("call {name}"));
            let sample = |kind: &str| match kind.trim_start_matches('?') {
                "int" => json!(1),
                "bool" => json!(true),
                _ => json!("io.rgun.Server"),
            };
            let parameters = parameters.iter().map(|(name, kind)| (name.clone(), sample(kind))).collect();
            let method = format!("{interface}.{name}");
            let call = CallMessage { method, parameters: Some(parameters), ..CallMessage::default() };
            let target: Result<CallTarget, CallFault> = resolve(&call);
            assert!(target.is_ok(), "{call:?}: {target:?}");
        }
    }
}
