//! `supervisord.conf`: the programs that start a server.

use std::fmt::Write as _;

use super::plan::{DropIn, EnvPlace, Plan};
use super::server::ReplacedServer;
use super::shell;
use super::tokens::Syntax;
use super::words::{Known, Scope, is_name};
use crate::config::{Setting, Value, name};

/// Settings that need no counterpart: `rgun.service` or `rgun.socket` decides them.
const OWN: &[&str] = &[
    "command",
    "directory",
    "environment",
    "autostart",
    "autorestart",
    "startsecs",
    "startretries",
    "stopsignal",
    "stopasgroup",
    "killasgroup",
    "redirect_stderr",
    "process_name",
    "numprocs_start",
    "priority",
    "exitcodes",
];

/// Maximum number of processes of one program whose addresses are listed.
const MAX_PROCESSES: u32 = 64;

/// One `[program:NAME]` or `[fcgi-program:NAME]`, or `[supervisord]`, whose name is empty.
#[derive(Default)]
struct Program {
    name: String,
    /// Name, value, line.
    settings: Vec<(String, String, usize)>,
}

impl Program {
    fn find(&self, name: &str) -> Option<&(String, String, usize)> {
        self.settings.iter().rev().find(|(its, ..)| its == name)
    }

    /// Returns the number of the first process, and the number of processes.
    fn numbers(&self) -> (u32, u32) {
        let number = |name: &str| self.find(name).and_then(|(_, value, _)| value.parse().ok());
        (number("numprocs_start").unwrap_or(0), number("numprocs").unwrap_or(1).clamp(1, MAX_PROCESSES))
    }
}

/// Returns a plan for each program that starts a server. Other programs are left out with a note.
/// `path` is the full path of the file.
pub(super) fn migrate(text: &str, label: &str, path: &str, plan: &mut Plan) -> Vec<Plan> {
    let (common, programs): (Vec<_>, Vec<_>) =
        parse(text).into_iter().partition(|program| program.name.is_empty());
    for program in &common {
        add_environment(program, label, path, plan);
    }
    let mut servers = Vec::new();
    for program in programs {
        let Some((_, line, number)) = program.find("command") else { continue };
        let origin = format!("{label}:{number}");
        let mut service = Plan { name: program.name.clone(), ..plan.clone() };
        if let Some((_, directory, number)) = program.find("directory") {
            let directory = expand(directory, &program, path, &service.scope());
            service.set(name::DIRECTORY, Value::text(directory), &format!("{label}:{number}"));
        }
        add_environment(&program, label, path, &mut service);
        let line = expand(line, &program, path, &service.scope());
        let template = service.clone();
        let migrate_one = |number: u32, service: &mut Plan| {
            let line = with_process_number(&line, number);
            shell::migrate_line(&line, Syntax::Shell, &Scope::default(), &origin, service)
        };
        let (first, count) = program.numbers();
        if migrate_one(first, &mut service) {
            for number in (first + 1..first + count).filter(|_| line.contains("%(process_num)")) {
                let mut other = template.clone();
                migrate_one(number, &mut other);
                if let Some(Setting { value: Value::List(others), .. }) = other.settings.get(name::BIND) {
                    service.add_addresses(others);
                }
            }
            add_settings(&program, label, &mut service);
            service.set_umask();
            servers.push(service);
        } else {
            let text = "is not a server that rgun replaces; leave it to supervisord, or write a systemd unit";
            plan.left_out(&origin, &format!("program {}: {text}", program.name));
        }
    }
    if servers.is_empty() {
        plan.left_out(label, &format!("has no program that starts {}", ReplacedServer::NAMES));
    }
    servers
}

/// Adds the settings of a program that starts a server.
fn add_settings(program: &Program, label: &str, plan: &mut Plan) {
    for (setting, value, number) in &program.settings {
        let origin = format!("{label}:{number}");
        match setting.as_str() {
            "user" => plan.directive(DropIn::Service, "User", value),
            "umask" => plan.directive(DropIn::Service, "UMask", value),
            "socket" => {
                let address = value.trim_start_matches("tcp://").replace("unix://", "unix:");
                plan.listen(&address, None, &origin);
                // The command gets the socket as descriptor 0.
                plan.left_out.retain(|note| !note.contains("--fd 0"));
            }
            "socket_mode" => plan.directive(DropIn::Socket, "SocketMode", value),
            "socket_owner" => {
                let (user, group) = value.split_once(':').unwrap_or((value, ""));
                plan.directive(DropIn::Socket, "SocketUser", user);
                if !group.is_empty() {
                    plan.directive(DropIn::Socket, "SocketGroup", group);
                }
            }
            "numprocs" if value == "1" => {}
            "numprocs" => {
                let workers = plan.settings.get(name::COUNT).map(|setting| setting.value.to_string());
                let workers = workers.map_or(Some(1), |count| count.trim_matches('"').parse::<u32>().ok());
                let Some(count) = workers.and_then(|each| each.checked_mul(value.parse().ok()?)) else {
                    plan.left_out(&origin, &format!("{setting}={value}: write workers.count for all processes together"));
                    continue;
                };
                plan.settings.remove(name::COUNT);
                plan.set(name::COUNT, Value::text(count.to_string()), &origin);
                plan.changed.push(format!("{origin}: numprocs={value}: the processes became workers of one service"));
            }
            "stopwaitsecs" => plan.left_out(&origin, &format!("{setting}={value}: write timeouts.drain, and TimeoutStopSec= of the unit, which must be longer")),
            own if OWN.contains(&own) => {}
            other => plan.left_out(&origin, &format!("{other}={value}: rgun.service decides this")),
        }
    }
}

fn add_environment(program: &Program, label: &str, path: &str, plan: &mut Plan) {
    let Some((_, text, number)) = program.find("environment") else { return };
    let origin = format!("{label}:{number}");
    for (name, value) in assignments(text) {
        let value = expand(&value, program, path, &plan.scope());
        if value.contains("%(") || value.contains("${") {
            plan.left_out(&origin, &format!("environment {name}={value}: the value is not known here; write Environment={name}=… in a drop-in of rgun.service"));
        } else {
            plan.export(&name, &value, &origin, EnvPlace::DropIn);
        }
    }
}

/// Replaces the expressions of supervisord: `%(ENV_NAME)s` becomes `${NAME}` if the variable is not
/// known.
fn expand(text: &str, program: &Program, path: &str, scope: &Scope) -> String {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let text =
        text.replace("%(program_name)s", &program.name).replace("%(here)s", directory).replace("%%", "%");
    let (mut expanded, mut rest) = (String::new(), text.as_str());
    while let Some((before, after)) = rest.split_once("%(ENV_") {
        expanded.push_str(before);
        let (name, next) = after.split_once(")s").unwrap_or((after, ""));
        match scope.get(name) {
            Some(Known::Value(value)) => expanded.push_str(value),
            _ => expanded.extend(["${", name, "}"]),
        }
        rest = next;
    }
    expanded.push_str(rest);
    expanded
}

/// Replaces `%(process_num)d`, also with a width such as `%(process_num)02d`.
fn with_process_number(text: &str, number: u32) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("%(process_num)") {
        expanded.push_str(before);
        let digits = after.len() - after.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let width = after[..digits].parse().unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = write!(expanded, "{number:0width$}");
        rest = after[digits..].strip_prefix(['d', 's']).unwrap_or(&after[digits..]);
    }
    expanded.push_str(rest);
    expanded
}

/// Parses the sections of programs. A line that begins with a space continues the value of the line
/// before.
fn parse(text: &str) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    let mut is_program = false;
    let of_program = |section: &str| {
        let name = section.strip_prefix("program:").or_else(|| section.strip_prefix("fcgi-program:"));
        name.or_else(|| (section == "supervisord").then_some("")).map(str::to_owned)
    };
    for (idx, line) in text.lines().enumerate() {
        let line = line.split(" ;").next().unwrap_or(line);
        let content = line.trim();
        if content.is_empty() || content.starts_with([';', '#']) {
            continue;
        }
        if let Some(section) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = of_program(section);
            is_program = name.is_some();
            programs.extend(name.map(|name| Program { name, ..Program::default() }));
            continue;
        }
        let Some(program) = programs.last_mut().filter(|_| is_program) else { continue };
        let continued = program.settings.last_mut().filter(|_| line.starts_with([' ', '\t']));
        match (continued, content.split_once('=')) {
            (Some((_, value, _)), _) => {
                value.push(' ');
                value.push_str(content.trim_end_matches('\\').trim_end());
            }
            (None, Some((name, value))) => {
                let value = value.trim().trim_end_matches('\\').trim_end().to_owned();
                program.settings.push((name.trim().to_owned(), value, idx + 1));
            }
            (None, None) => {}
        }
    }
    programs
}

/// Returns the variables of `environment=A="1",B='2,3'`. A value without quotes ends at a comma.
fn assignments(text: &str) -> Vec<(String, String)> {
    let (mut variables, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().filter(|first| matches!(first, '"' | '\''));
        let closed = quote.and_then(|quote| after[1..].split_once(quote));
        let (value, next) = match closed {
            Some((value, next)) => (value, next.split_once(',').map_or("", |(_, next)| next)),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let name = name.trim();
        if is_name(name) {
            variables.push((name.to_owned(), value.trim_end().to_owned()));
        }
        rest = next;
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_belong_to_the_value() {
        for (text, expected) in [
            ("A=\"1\",B=\"2\"", &["A=1", "B=2"][..]),
            ("HOSTS=\"a.org,b.org\", X='1,2',Y=3", &["HOSTS=a.org,b.org", "X=1,2", "Y=3"]),
            ("A=x y ,B=\"it's\",", &["A=x y", "B=it's"]),
            ("URL=\"postgres://u:p=1@h/d\"", &["URL=postgres://u:p=1@h/d"]),
            ("", &[]),
        ] {
            let found: Vec<_> =
                assignments(text).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn expressions_of_supervisord_are_replaced() {
        let program = Program { name: "web".to_owned(), ..Program::default() };
        let scope: Scope = [("HOME", "/root")].into_iter().collect();
        for (text, expected) in [
            ("/run/%(program_name)s.sock %(here)s/a", "/run/web.sock /etc/supervisor/a"),
            ("%(ENV_HOME)s/a %(ENV_NONE)s", "/root/a ${NONE}"),
            ("a%%b", "a%b"),
        ] {
            assert_eq!(expand(text, &program, "/etc/supervisor/web.conf", &scope), expected);
        }
    }

    #[test]
    fn process_number_has_the_width_of_the_expression() {
        assert_eq!(with_process_number("a%(process_num)d.sock %(process_num)02d", 3), "a3.sock 03");
        assert_eq!(with_process_number("no number", 3), "no number");
    }
}
