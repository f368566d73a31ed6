//! Builds the command line, environment and sockets of an `rgun` process, and starts it.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, thread};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::binaries::{binary_with_extension, binary_without_extension, fake_worker, python};
use super::client::Address;
use super::daemon::{Daemon, MARK};
use super::terminal::Terminal;
use super::{Scratch, systemd};

/// Builder of an `rgun` process: command line, environment, sockets and files.
#[derive(Debug)]
pub(crate) struct Rgun {
    scratch: Scratch,
    binary: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    sockets: Vec<OwnedFd>,
    names: Vec<String>,
    listen_pid: String,
    address: Option<Address>,
    /// Directory with the socket of the test's journald. None: the log goes to stderr.
    journald: Option<PathBuf>,
    /// True if the permissions of files apply to the daemon although the tests run as root.
    obeys_modes: bool,
}

impl Rgun {
    /// Creates a builder without flags, variables and sockets.
    fn new(binary: PathBuf) -> Self {
        Self {
            scratch: Scratch::new(),
            binary,
            arguments: Vec::new(),
            variables: Vec::new(),
            sockets: Vec::new(),
            names: Vec::new(),
            listen_pid: "$$".to_owned(),
            address: None,
            journald: None,
            obeys_modes: false,
        }
    }

    /// One fake WSGI worker with one thread.
    pub(crate) fn fake() -> Self {
        let fake = fake_worker();
        Self::new(binary_without_extension())
            .flags(["fake:app", "--workers", "1", "--python"])
            .flags([fake.to_str().expect("a path of ASCII")])
            .in_scratch()
    }

    /// One fake ASGI worker that serves ten requests at a time.
    pub(crate) fn fake_asgi() -> Self {
        Self::fake().fake_behaviour("asgi").set("workers.concurrency", "10")
    }

    /// One worker of the real interpreter, with `source` as the module `app`.
    pub(crate) fn python(source: &str) -> Self {
        let rgun = Self::new(binary_with_extension())
            .flags(["app", "--workers", "1", "--python"])
            .flags([python()])
            .in_scratch();
        rgun.scratch.write("app.py", source);
        rgun
    }

    fn in_scratch(self) -> Self {
        let home = self.scratch.path().display().to_string();
        self.flags(["--chdir", home.as_str()])
    }

    pub(crate) fn flags<'a>(mut self, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(flags.into_iter().map(OsString::from));
        self
    }

    /// Removes all flags set so far.
    pub(crate) fn without_flags(mut self) -> Self {
        self.arguments.clear();
        self
    }

    /// Removes `--workers`, so that the file or the environment decides.
    pub(crate) fn without_worker_count(mut self) -> Self {
        let at = self.arguments.iter().position(|argument| argument == "--workers").expect("set by default");
        self.arguments.drain(at..at + 2);
        self
    }

    /// Replaces the application that [`Rgun::fake`] or [`Rgun::python`] has set.
    pub(crate) fn target(mut self, target: &str) -> Self {
        self.arguments[0] = target.into();
        self
    }

    /// Runs `rgun check` as the user that runs the tests; a check as root requires `--user`.
    pub(crate) fn check_as_self(self) -> Self {
        let rgun = self.check();
        if nix::unistd::geteuid().is_root() { rgun.flags(["--user", "root"]) } else { rgun }
    }

    /// Runs `rgun check` instead of serving.
    pub(crate) fn check(mut self) -> Self {
        self.arguments.insert(0, "check".into());
        self
    }

    /// Sets a key of the configuration by its environment variable.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        let variable = format!("RGUN_{}", key.replace('.', "_").to_uppercase());
        self.variable(&variable, value)
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Sets `RGUN_FAKE`: how the fake worker boots.
    pub(crate) fn fake_behaviour(self, behaviour: &str) -> Self {
        self.flags(["--env", &format!("RGUN_FAKE={behaviour}")])
    }

    /// Makes the fake worker wait before it boots, until [`Gate::open`] sets its behaviour.
    pub(crate) fn gated(self) -> (Self, Gate) {
        let gate = Gate(self.scratch.join("gate"));
        nix::unistd::mkfifo(&gate.0, nix::sys::stat::Mode::S_IRWXU).expect("a new path");
        let behaviour = format!("@{}", gate.0.display());
        (self.fake_behaviour(&behaviour), gate)
    }

    /// Passes a socket as systemd does, under this name.
    pub(crate) fn socket(mut self, name: &str, socket: OwnedFd) -> Self {
        self.sockets.push(socket);
        self.names.push(name.to_owned());
        self
    }

    /// Passes descriptors from the store, as systemd does after a restart.
    pub(crate) fn stored(mut self, stored: Vec<(String, OwnedFd)>) -> Self {
        for (name, fd) in stored {
            self = self.socket(&name, fd);
        }
        self
    }

    /// Sets `LISTEN_PID`, which is otherwise the daemon's pid.
    pub(crate) fn listen_pid(mut self, pid: &str) -> Self {
        pid.clone_into(&mut self.listen_pid);
        self
    }

    /// Logs to the test's journald, whose socket is in this directory.
    pub(crate) fn journald(mut self, directory: &Path) -> Self {
        self.journald = Some(directory.to_owned());
        self
    }

    /// Makes the permissions of files apply to the daemon even if the tests run as root: without
    /// the capabilities to override them (capabilities(7)), root is an ordinary owner.
    pub(crate) fn obeying_modes(mut self) -> Self {
        self.obeys_modes = nix::unistd::geteuid().is_root();
        self
    }

    /// Sets the address that the test connects to; otherwise a unix socket is bound.
    pub(crate) fn at(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Listens on TCP, on a free port.
    pub(crate) fn over_tcp(self) -> Self {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        self.flags(["--bind", "127.0.0.1:0"]).at(Address::Tcp(any))
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts the daemon and does not wait.
    pub(crate) fn start(mut self) -> Daemon {
        let address = match self.address.take() {
            Some(address) => address,
            None if self.sockets.is_empty() => {
                let path = self.scratch.join("socket");
                self.arguments.push("--bind".into());
                self.arguments.push(format!("unix:{}", path.display()).into());
                Address::Unix(path)
            }
            None => panic!("a test that passes sockets calls `at`"),
        };
        let mark = self.scratch.path().display().to_string();
        let child = self.spawn(&mark);
        Daemon::new(child, self.scratch, mark, address)
    }

    /// Sets a limit of the daemon's user namespace, a file of `/proc/sys/user` (namespaces(7)).
    pub(crate) fn user_limit(mut self, name: &str, limit: u32) -> Self {
        let script = self.scratch.join("rgun-with-limit");
        let set_limit = format!("echo {limit} >/proc/sys/user/{name} && exec \"$0\" \"$@\"");
        let rgun = self.binary.display();
        let text =
            format!("#!/bin/sh\nexec unshare --user --map-root-user sh -c '{set_limit}' '{rgun}' \"$@\"\n");
        fs::write(&script, text).expect("a new file");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("a file of this user");
        self.binary = script;
        self
    }

    /// Starts the daemon on a terminal of this width.
    pub(crate) fn start_on_terminal(self, columns: u16) -> Terminal {
        let words: Vec<_> = std::iter::once(self.binary.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(|word| format!("'{}'", word.to_str().expect("UTF-8").replace('\'', "'\\''")))
            .collect();
        self.run_on_terminal(&format!("stty columns {columns} rows 24; exec {}", words.join(" ")))
    }

    /// Runs a shell command on a terminal, with the environment of the daemon.
    pub(crate) fn run_on_terminal(self, line: &str) -> Terminal {
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", line, "/dev/null"]);
        self.set_environment(&mut script, &self.scratch.path().display().to_string());
        script.env("TERM", "xterm").env("SHELL", "/bin/sh");
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let script = script.spawn().expect("script(1), which is essential on Debian");
        Terminal::new(script, self.scratch)
    }

    /// Starts the daemon and waits until a worker is ready.
    pub(crate) fn start_ready(self) -> Daemon {
        self.start_after("is ready after")
    }

    /// Like [`Rgun::start_ready`], for a daemon that may use one core only.
    pub(crate) fn start_on_one_core(self) -> Daemon {
        let this_thread = Pid::from_raw(0);
        let allowed = sched_getaffinity(this_thread).expect("the thread exists");
        let first = (0..CpuSet::count()).find(|core| allowed.is_set(*core).is_ok_and(|is_set| is_set));
        let mut one = CpuSet::new();
        one.set(first.expect("a core")).expect("a valid number");
        // The daemon inherits the affinity of the thread that starts it.
        sched_setaffinity(this_thread, &one).expect("the core is allowed");
        let daemon = self.start_ready();
        sched_setaffinity(this_thread, &allowed).expect("these cores are allowed");
        daemon
    }

    /// Starts the daemon and waits until the log has this text.
    pub(crate) fn start_after(self, text: &str) -> Daemon {
        let mut daemon = self.start();
        daemon.log.wait_for(text);
        if let Address::Tcp(address) = &mut daemon.address
            && address.port() == 0
        {
            let line = daemon.log.wait_for("listening on 127.0.0.1:");
            let text = line.split("listening on ").nth(1).and_then(|text| text.split(' ').next());
            *address = text.and_then(|text| text.parse().ok()).expect("an address and a space");
        }
        daemon
    }

    /// Runs the command until it exits by itself. Returns the exit status, stderr and stdout.
    pub(crate) fn run(mut self) -> (i32, String, String) {
        if self.sockets.is_empty() {
            // Parallel tests cannot share the default address. A test's own flag takes precedence.
            let bind = format!("unix:{}", self.scratch.join("socket").display());
            self.variables.push(("RGUN_LISTEN_BIND".into(), bind.into()));
        }
        let mark = self.scratch.path().display().to_string();
        let mut child = self.spawn(&mark);
        let mut stdout = child.stdout.take().expect("a pipe");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let mut daemon = Daemon::new(child, self.scratch, mark, Address::Unix(PathBuf::new()));
        let status = daemon.wait_exit();
        let code = status.code().unwrap_or_else(|| panic!("{status}: {}", daemon.log.text()));
        daemon.log.wait_for_end();
        let printed = reader.join().expect("a reader").expect("UTF-8");
        (code, daemon.log.text(), printed)
    }

    fn spawn(&self, mark: &str) -> Child {
        let mut command = if let Some(directory) = &self.journald {
            let mut command = systemd::with_journald(directory);
            command.arg(&self.binary);
            command
        } else if self.obeys_modes {
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set=-dac_override,-dac_read_search").arg(&self.binary);
            command
        } else if self.sockets.is_empty() && self.names.is_empty() {
            Command::new(&self.binary)
        } else {
            // A shell sets LISTEN_PID to its own pid and becomes the daemon.
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(format!("export LISTEN_PID={}; exec \"$0\" \"$@\"", self.listen_pid));
            shell.arg(&self.binary);
            shell
                .env("LISTEN_FDS", self.sockets.len().to_string())
                .env("LISTEN_FDNAMES", self.names.join(":"));
            shell
        };
        command.args(&self.arguments);
        self.set_environment(&mut command, mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        systemd::pass(&mut command, &self.sockets);
        command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", self.binary.display()))
    }

    /// Sets directory and variables. The tests' own environment must not configure the daemon.
    fn set_environment(&self, command: &mut Command, mark: &str) {
        let path = env::var_os("PATH").unwrap_or_default();
        command.current_dir(self.scratch.path()).env(MARK, mark).env("PATH", path);
        // Tests read the daemon's descriptors in /proc, also as an ordinary user.
        command.env("RGUN_DUMPABLE", "1");
        for (name, _) in env::vars_os() {
            if !matches!(name.to_str(), Some("PATH" | "LD_LIBRARY_PATH" | "LLVM_PROFILE_FILE")) {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// A named pipe at which a booting fake worker waits: it reads its behaviour from the pipe, which
/// blocks until the test has written and closed the pipe (fifo(7)).
#[derive(Debug)]
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// Waits for a booting worker, and lets it continue with this behaviour.
    pub(crate) fn open(&self, behaviour: &str) {
        fs::write(&self.0, behaviour).expect("a pipe with a reader");
    }
}
