//! The servers' own defaults where rgun's differ.

use super::plan::Plan;
use super::server::ReplacedServer;
use crate::config::{Value, name};

/// Sets the defaults of a server that no file sets. Called after all files were read.
pub(super) fn add(server: ReplacedServer, plan: &mut Plan) {
    if server.logs_requests() {
        let text = "logs each request; without this key, rgun logs only those that fail";
        plan.set_default(name::ACCESS, Value::Boolean(true), &format!("{} {text}", server.name()));
    }
    plan.set_default(
        name::COUNT,
        Value::Integer(1),
        &format!("{}'s default, which an application that keeps state in memory needs; without this key, rgun.service uses \"auto\"", server.name()),
    );
    let timeout = plan.settings.get(name::REQUEST).map(|setting| setting.origin.clone());
    if let Some(origin) = timeout.filter(|origin| !origin.is_empty() && server == ReplacedServer::Gunicorn) {
        plan.changed.push(format!(
            "{origin}: gunicorn limits the time in which a worker is silent, rgun (timeouts.request) the time of each request"
        ));
    }
    let interface = plan.settings.get(name::INTERFACE);
    let is_asgi = interface.is_some_and(|setting| setting.value == Value::text("asgi"));
    if server != ReplacedServer::Gunicorn || is_asgi {
        let worker = if server == ReplacedServer::Gunicorn { "'s ASGI worker" } else { "" };
        let reason = "has no deadline; a value such as \"60s\" ends requests that hang";
        plan.set_default(name::REQUEST, Value::text("off"), &format!("{}{worker} {reason}", server.name()));
    }
}
