//! What it means that systemd could not start the program.

/// Exit statuses by which systemd says that it could not start the program (systemd.exec(5)):
/// status, name, and remedy. `{unit}` and `{user}` are replaced.
pub(super) const EXEC_FAILURES: [(&str, &str, &str); 8] = [
    (
        "200",
        "CHDIR: the working directory cannot be entered",
        "correct WorkingDirectory=: systemctl edit {unit}",
    ),
    (
        "203",
        "EXEC: the program cannot be executed",
        "install rgun again, or correct ExecStart=: systemctl cat {unit}",
    ),
    ("209", "STDOUT: standard output cannot be opened", "correct StandardOutput=: systemctl edit {unit}"),
    (
        "216",
        "GROUP: there is no group of this name",
        "create the group, or correct Group=: systemctl edit {unit}",
    ),
    (
        "217",
        "USER: there is no user {user}",
        "create the user (sudo rgun init does it for an instance, systemd-sysusers otherwise), or correct User=: systemctl edit {unit}",
    ),
    (
        "226",
        "NAMESPACE: the sandbox cannot be set up, most often because a directory of ReadWritePaths= does not exist",
        "create the directory, or write ReadWritePaths=-/path in the drop-in: systemctl cat {unit}",
    ),
    (
        "233",
        "RUNTIME_DIRECTORY: the runtime directory cannot be created",
        "look at the journal: journalctl -u {unit}",
    ),
    (
        "243",
        "CREDENTIALS: a credential cannot be read",
        "check that the files of LoadCredential= exist: systemctl cat {unit}",
    ),
];
