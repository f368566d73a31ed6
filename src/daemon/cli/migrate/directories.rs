//! The directories that systemd creates for the service, beside those of `rgun.service`.

use super::plan::{DropIn, Plan};

/// Moves the runtime directories that have a socket of `rgun.socket` from the service to the socket
/// unit, which creates the parents of its sockets. In the service they would get
/// `RuntimeDirectoryMode=0700` and the group of `rgun.service`: a proxy could not reach the socket.
/// systemd would also change the socket's owner, and remove the directory when the service stops.
pub(super) fn move_socket_directories(plan: &mut Plan) {
    let sockets = plan.values(DropIn::Socket, "ListenStream");
    let is_moved = |entry: &&str| {
        let prefix = format!("/run/{}/", entry_path(entry));
        sockets.iter().any(|socket| socket.starts_with(&prefix))
    };
    let mut moved: Vec<String> = Vec::new();
    for (_, _, value) in plan.directives.iter_mut().filter(|line| is_runtime_directory(line)) {
        let (inside, others): (Vec<&str>, Vec<&str>) = value.split_whitespace().partition(is_moved);
        moved.extend(inside.into_iter().map(|entry| entry_path(entry).to_owned()));
        *value = others.join(" ");
    }
    if moved.is_empty() {
        return;
    }
    let is_empty = |line: &(DropIn, String, String)| is_runtime_directory(line) && line.2.is_empty();
    plan.directives.retain(|line| !is_empty(line));
    // The socket of an old socket unit has root's group, which the proxy is not in.
    if !plan.has_socket_unit {
        restrict_socket(plan);
    }
    if !plan.directives.iter().any(is_runtime_directory) {
        plan.directives.retain(|(_, name, _)| name != "RuntimeDirectoryMode");
    }
    for path in moved {
        let text = format!(
            "RuntimeDirectory={path}: rgun.socket creates /run/{path} (of root, mode 0755) for its socket; the application cannot write other files there"
        );
        plan.left_out("rgun.socket", &text);
    }
}

/// Keeps the modes of the service's directories, and the variables that name them: `rgun.service`
/// sets modes, and systemd would add its directories to the variables.
pub(super) fn keep_modes_and_variables(plan: &mut Plan) {
    for (setting, parent, variable) in [
        ("StateDirectory", "/var/lib", Some("STATE_DIRECTORY")),
        ("CacheDirectory", "/var/cache", Some("CACHE_DIRECTORY")),
        ("RuntimeDirectory", "/run", None),
    ] {
        let values = plan.values(DropIn::Service, setting).join(" ");
        let paths: Vec<_> =
            values.split_whitespace().map(|entry| format!("{parent}/{}", entry_path(entry))).collect();
        if paths.is_empty() {
            continue;
        }
        let mode = format!("{setting}Mode");
        if plan.values(DropIn::Service, &mode).is_empty() {
            plan.directive(DropIn::Service, &mode, "0755");
        }
        if let Some(variable) = variable {
            set_variable(plan, variable, &paths.join(":"));
        } else {
            // The daemon needs its own directory in the variable.
            plan.changed.push(format!("RuntimeDirectory={values}: $RUNTIME_DIRECTORY also has the directory of rgun.service, for example /run/rgun; the application must not use the whole value as a path"));
        }
    }
}

/// Sets a variable of systemd, unless the old service sets it. `Environment=` overrides systemd's
/// value.
fn set_variable(plan: &mut Plan, variable: &str, value: &str) {
    let assignment = format!("{variable}={value}");
    let is_set = |line: &String| line.trim_start_matches('"').starts_with(&format!("{variable}="));
    if !plan.values(DropIn::Service, "Environment").iter().any(is_set) {
        plan.directive(DropIn::Service, "Environment", &assignment);
    }
}

/// Removes the permissions of the sockets that the mode of their old directory denied.
fn restrict_socket(plan: &mut Plan) {
    let octal = |values: Vec<String>| u32::from_str_radix(values.last()?, 8).ok();
    let Some(directory) = octal(plan.values(DropIn::Service, "RuntimeDirectoryMode")) else { return };
    let Some(mode) = octal(plan.values(DropIn::Socket, "SocketMode")) else { return };
    // Without the permission to enter the directory, no class of users could connect.
    let denied: u32 = [0o001, 0o010].into_iter().filter(|bit| directory & bit == 0).map(|bit| bit * 7).sum();
    for (_, _, value) in plan.directives.iter_mut().filter(|(_, name, _)| name == "SocketMode") {
        if mode & denied != 0 {
            *value = format!("{:04o}", mode & !denied);
        }
    }
}

fn is_runtime_directory((part, name, _): &(DropIn, String, String)) -> bool {
    *part == DropIn::Service && name == "RuntimeDirectory"
}

/// Returns the path of an element of `RuntimeDirectory=`, without its symbolic link.
fn entry_path(entry: &str) -> &str {
    entry.split(':').next().unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of a service with these directives and a socket.
    fn adapted(service: &[(&str, &str)], socket: &str, mode: &str) -> (Vec<String>, Plan) {
        let mut plan = Plan::default();
        for (name, value) in service {
            plan.directive(DropIn::Service, name, value);
        }
        plan.directive(DropIn::Socket, "ListenStream", socket);
        plan.directive(DropIn::Socket, "SocketMode", mode);
        move_socket_directories(&mut plan);
        let of_service = plan.directives.iter().filter(|(part, ..)| *part == DropIn::Service);
        let lines = of_service.map(|(_, name, value)| format!("{name}={value}")).collect();
        (lines, plan)
    }

    #[test]
    fn directory_of_a_socket_is_left_to_the_socket_unit() {
        let directories = [("RuntimeDirectory", "other shop:link"), ("RuntimeDirectoryMode", "0750")];
        let (lines, plan) = adapted(&directories, "/run/shop/a.sock", "0666");
        assert_eq!(lines, ["RuntimeDirectory=other", "RuntimeDirectoryMode=0750"]);
        assert!(plan.left_out[0].contains("rgun.socket creates /run/shop "), "{:?}", plan.left_out);

        let (lines, _) = adapted(&[("RuntimeDirectory", "shop")], "/run/shop/sub/a.sock", "0666");
        assert_eq!(lines, [""; 0]);
        let (lines, plan) = adapted(&directories, "/run/shop.sock", "0666");
        assert_eq!(lines, ["RuntimeDirectory=other shop:link", "RuntimeDirectoryMode=0750"]);
        assert!(plan.left_out.is_empty());
    }

    #[test]
    fn directories_keep_their_modes_and_variables() {
        let mut plan = Plan::default();
        for (name, value) in [
            ("StateDirectory", "shop shop/media:link"),
            ("CacheDirectory", "shop"),
            ("CacheDirectoryMode", "0750"),
            ("RuntimeDirectory", "shop"),
        ] {
            plan.directive(DropIn::Service, name, value);
        }
        keep_modes_and_variables(&mut plan);
        let value = |name: &str| plan.values(DropIn::Service, name);
        assert_eq!(value("StateDirectoryMode"), ["0755"]);
        assert_eq!(value("CacheDirectoryMode"), ["0750"]);
        assert_eq!(value("RuntimeDirectoryMode"), ["0755"]);
        assert_eq!(
            value("Environment"),
            ["STATE_DIRECTORY=/var/lib/shop:/var/lib/shop/media", "CACHE_DIRECTORY=/var/cache/shop"]
        );
        assert!(plan.changed[0].contains("$RUNTIME_DIRECTORY also has"), "{:?}", plan.changed);

        let mut plan = Plan::default();
        plan.directive(DropIn::Service, "StateDirectory", "shop");
        plan.directive(DropIn::Service, "Environment", "STATE_DIRECTORY=/srv/state");
        keep_modes_and_variables(&mut plan);
        assert_eq!(plan.values(DropIn::Service, "Environment"), ["STATE_DIRECTORY=/srv/state"]);
    }

    #[test]
    fn socket_denies_what_its_old_directory_denied() {
        for (directory, socket, expected) in [
            ("0750", "0666", "0660"),
            ("0700", "0666", "0600"),
            ("0755", "0666", "0666"),
            ("0750", "0660", "0660"),
            ("0711", "600", "600"),
        ] {
            let directories = [("RuntimeDirectory", "shop"), ("RuntimeDirectoryMode", directory)];
            let (lines, plan) = adapted(&directories, "/run/shop/a.sock", socket);
            assert_eq!(lines, [""; 0], "{directory}");
            assert_eq!(plan.values(DropIn::Socket, "SocketMode"), [expected], "{directory} {socket}");
        }
    }
}
