//! Starts the real `rgun` and watches it: its log, its processes, its end.
//!
//! The binary is run from a directory of its own, as a hard link beside an empty file that has the extension's
//! name: the daemon only hands the extension's path to the interpreter, and the fake worker does not look at it.
//! Tests of the real worker run the binary where it was built, beside the real extension.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Address, Answer, Client};
use super::{DEADLINE, Scratch, systemd, until};

/// A variable that the daemon's whole process tree has in its environment, and nobody else.
const MARK: &str = "IT_MARK";

/// `rgun` as it is to be started.
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
    /// The directory of a journald's socket.
    journald: Option<PathBuf>,
}

impl Rgun {
    /// With nothing set at all.
    fn bare(binary: PathBuf) -> Self {
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
        }
    }

    /// One fake worker with one thread.
    pub(crate) fn fake() -> Self {
        let fake = fake_worker();
        Self::bare(binary_beside_nothing())
            .flags(["fake:app", "--workers", "1", "--python"])
            .flags([fake.to_str().expect("a path of ASCII")])
            .at_home()
    }

    /// One worker of the real interpreter, with `source` as the module `app`.
    pub(crate) fn python(source: &str) -> Self {
        let rgun = Self::bare(binary_beside_the_extension())
            .flags(["app", "--workers", "1", "--python"])
            .flags([python()])
            .at_home();
        rgun.scratch.write("app.py", source);
        rgun
    }

    fn at_home(self) -> Self {
        let home = self.scratch.path().display().to_string();
        self.flags(["--chdir", home.as_str()])
    }

    pub(crate) fn flags<'a>(mut self, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(flags.into_iter().map(OsString::from));
        self
    }

    /// Of the command line so far: nothing.
    pub(crate) fn without_flags(mut self) -> Self {
        self.arguments.clear();
        self
    }

    /// Without `--workers`, so that the file or the environment says how many.
    pub(crate) fn without_count(mut self) -> Self {
        let at = self.arguments.iter().position(|argument| argument == "--workers").expect("set by default");
        self.arguments.drain(at..at + 2);
        self
    }

    /// Another application than the one that [`Rgun::fake`] or [`Rgun::python`] named.
    pub(crate) fn target(mut self, target: &str) -> Self {
        self.arguments[0] = target.into();
        self
    }

    /// `rgun check` instead of serving, as whoever runs the tests: root has to say so.
    pub(crate) fn checking(self) -> Self {
        let rgun = self.checking_as_the_unit();
        if nix::unistd::geteuid().is_root() { rgun.flags(["--user", "root"]) } else { rgun }
    }

    /// `rgun check` instead of serving.
    pub(crate) fn checking_as_the_unit(mut self) -> Self {
        self.arguments.insert(0, "check".into());
        self
    }

    /// A key of the configuration, by its environment variable.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        let variable = format!("RGUN_{}", key.replace('.', "_").to_uppercase());
        self.variable(&variable, value)
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// How the fake boots.
    pub(crate) fn fake_does(self, what: &str) -> Self {
        self.flags(["--env", &format!("RGUN_FAKE={what}")])
    }

    /// The fake does not go on booting until [`Gate::open`] says what it is to do.
    pub(crate) fn gated(self) -> (Self, Gate) {
        let gate = Gate(self.scratch.join("gate"));
        nix::unistd::mkfifo(&gate.0, nix::sys::stat::Mode::S_IRWXU).expect("a new path");
        let what = format!("@{}", gate.0.display());
        (self.fake_does(&what), gate)
    }

    /// A socket from systemd, with its name.
    pub(crate) fn socket(mut self, name: &str, socket: OwnedFd) -> Self {
        self.sockets.push(socket);
        self.names.push(name.to_owned());
        self
    }

    /// `LISTEN_PID` is not the daemon's.
    pub(crate) fn listen_pid(mut self, pid: &str) -> Self {
        pid.clone_into(&mut self.listen_pid);
        self
    }

    /// Its stderr is the journal's stream, and the journald one of the test's, whose socket is in this directory.
    pub(crate) fn journald(mut self, directory: &Path) -> Self {
        self.journald = Some(directory.to_owned());
        self
    }

    /// Listens on this instead of on a unix socket of its own.
    pub(crate) fn at(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Over TCP, on a port that the kernel chooses.
    pub(crate) fn over_tcp(self) -> Self {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        self.flags(["--bind", "127.0.0.1:0"]).at(Address::Tcp(any))
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts it and waits for nothing.
    pub(crate) fn start(mut self) -> Daemon {
        let address = match self.address.take() {
            Some(address) => address,
            None if self.sockets.is_empty() => {
                let path = self.scratch.join("socket");
                self.arguments.push("--bind".into());
                self.arguments.push(format!("unix:{}", path.display()).into());
                Address::Unix(path)
            }
            None => panic!("with sockets from systemd a test says which one it means"),
        };
        let mark = self.scratch.path().display().to_string();
        let child = self.spawn(&mark);
        Daemon::new(child, self.scratch, mark, address)
    }

    /// Starts it and waits until a worker is ready.
    pub(crate) fn serving(self) -> Daemon {
        let mut daemon = self.start();
        daemon.log.wait("is ready after");
        if let Address::Tcp(address) = &mut daemon.address
            && address.port() == 0
        {
            let line = daemon.log.wait("listening on 127.0.0.1:");
            let text = line.split("listening on ").nth(1).and_then(|text| text.split(' ').next());
            *address = text.and_then(|text| text.parse().ok()).expect("an address and a space");
        }
        daemon
    }

    /// Runs it to its end, which must come by itself: exit status, what it said on stderr, and on stdout.
    pub(crate) fn run(mut self) -> (i32, String, String) {
        if self.sockets.is_empty() {
            // Not the default address, for which parallel tests would fight; a test's own flag comes before it.
            let bind = format!("unix:{}", self.scratch.join("socket").display());
            self.variables.push(("RGUN_LISTEN_BIND".into(), bind.into()));
        }
        let mark = self.scratch.path().display().to_string();
        let mut child = self.spawn(&mark);
        let mut printed = child.stdout.take().expect("a pipe");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            printed.read_to_string(&mut text).map(|_| text)
        });
        let mut daemon = Daemon::new(child, self.scratch, mark, Address::Unix(PathBuf::new()));
        let status = daemon.exit();
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
        } else if self.sockets.is_empty() && self.names.is_empty() {
            Command::new(&self.binary)
        } else {
            // Only the process itself knows LISTEN_PID, so a shell sets it and becomes the daemon.
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(format!("export LISTEN_PID={}; exec \"$0\" \"$@\"", self.listen_pid));
            shell.arg(&self.binary);
            shell
                .env("LISTEN_FDS", self.sockets.len().to_string())
                .env("LISTEN_FDNAMES", self.names.join(":"));
            shell
        };
        // The tests' own environment must not be settings of the daemon's.
        let path = env::var_os("PATH").unwrap_or_default();
        command.args(&self.arguments).current_dir(self.scratch.path()).env(MARK, mark).env("PATH", path);
        for (name, _) in env::vars_os() {
            if !matches!(name.to_str(), Some("PATH" | "LD_LIBRARY_PATH" | "LLVM_PROFILE_FILE")) {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        systemd::pass(&mut command, &self.sockets);
        command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", self.binary.display()))
    }
}

/// Holds a booting fake worker. A named pipe: reading it ends when its writer closes it (fifo(7)).
#[derive(Debug)]
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// Waits for a worker that boots, and lets it go on.
    pub(crate) fn open(&self, what: &str) {
        fs::write(&self.0, what).expect("a pipe with a reader");
    }
}

/// A running `rgun`. Killed when dropped; its log is shown when the test fails.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    scratch: Scratch,
    mark: String,
    address: Address,
    pub(crate) log: Arc<Log>,
    ended: Option<ExitStatus>,
}

impl Daemon {
    fn new(mut child: Child, scratch: Scratch, mark: String, address: Address) -> Self {
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::new(Log::default());
        let reader = Arc::clone(&log);
        thread::spawn(move || {
            let mut lines = BufReader::new(stderr).split(b'\n');
            loop {
                reader.wait_while_held();
                let Some(Ok(line)) = lines.next() else { break };
                reader.push(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            reader.push(None);
        });
        Self { child, scratch, mark, address, log, ended: None }
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection, as soon as the daemon listens.
    pub(crate) fn connect(&self) -> Client {
        until("the daemon listens", || Client::connect(&self.address).ok())
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// The process that answers now.
    pub(crate) fn worker(&self) -> u32 {
        self.get("/pid").said("pid").parse().expect("a pid")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the daemon is there: it was not waited for yet");
    }

    /// Sends the signal again and again until its end: one soon after the first counts for nothing.
    pub(crate) fn signal_until_exit(&mut self, signal: Signal) -> ExitStatus {
        until("the daemon exits", || {
            let ended = self.child.try_wait().expect("a child of ours");
            if ended.is_none() {
                self.signal(signal);
            }
            ended
        });
        self.exit()
    }

    /// Waits for its end, and for that of everything it started.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = until("the daemon exits", || self.child.try_wait().expect("a child of ours"));
        self.ended = Some(status);
        until(&format!("no process of it is left, {:?} after the signal", begun.elapsed()), || {
            self.descendants().is_empty().then_some(())
        });
        status
    }

    /// SIGTERM, and a good end.
    pub(crate) fn stops(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.exit();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// All processes that come from it, but not itself.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let processes = fs::read_dir("/proc").expect("proc(5)").flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.pid())
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }

    /// Bytes of memory that are in RAM (proc(5), statm).
    pub(crate) fn rss(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("it runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * 4096
    }

    /// Where its descriptors lead.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").flatten();
        links
            .filter_map(|link| Some(fs::read_link(link.path()).ok()?.to_string_lossy().into_owned()))
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Its workers die with it: they asked the kernel for that.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if thread::panicking() {
            show(&self.log.text());
        }
    }
}

#[expect(clippy::print_stderr, reason = "libtest shows a failed test's output")]
fn show(log: &str) {
    eprintln!("---- the daemon's log\n{log}----");
}

/// The lines on stderr.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Lines, and whether the end has come.
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
    /// Nobody reads.
    held: Mutex<bool>,
    released: Condvar,
}

impl Log {
    /// From now on nobody reads stderr, but for what has been read already.
    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// It is read again.
    pub(crate) fn release(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.released.notify_all();
    }

    fn wait_while_held(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.released.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
    }

    fn push(&self, line: Option<String>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Some(line) => lines.0.push(line),
            None => lines.1 = true,
        }
        self.more.notify_all();
    }

    fn wait_until<T>(&self, what: &str, found: impl Fn(&[String], bool) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = found(&lines.0, lines.1) {
                return found;
            }
            let left = DEADLINE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero() && !lines.1, "the log never said {what}:\n{}", lines.0.join("\n"));
            (lines, _) = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a line that has this in it.
    pub(crate) fn wait(&self, what: &str) -> String {
        self.wait_until(what, |lines, _| lines.iter().find(|line| line.contains(what)).cloned())
    }

    /// Waits for so many of them.
    pub(crate) fn wait_for(&self, count: usize, what: &str) {
        self.wait_until(&format!("{what} {count} times"), |lines, _| {
            (lines.iter().filter(|line| line.contains(what)).count() >= count).then_some(())
        });
    }

    /// Everything has been said: nobody holds stderr any more.
    pub(crate) fn wait_for_end(&self) {
        self.wait_until("its last line", |_, ended| ended.then_some(()));
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.0.iter().flat_map(|line| [line, "\n"]).collect()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }
}

fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rgun"))
}

fn build_directory() -> &'static Path {
    built().parent().expect("a file is in a directory")
}

/// The profile as cargo's `--profile` has it.
fn profile() -> &'static str {
    match build_directory().file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    }
}

fn fake_worker() -> PathBuf {
    let path = build_directory().join("examples/fake_worker");
    let built = fs::metadata(&path).and_then(|file| file.modified());
    let sources = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/it/fake_worker"));
    let written = sources.expect("the fake worker's sources").flatten();
    let written = written.filter_map(|file| file.metadata().and_then(|file| file.modified()).ok()).max();
    assert!(
        built.is_ok_and(|built| written.is_some_and(|written| written <= built)),
        "{} is missing or older than its source: `cargo build --profile {} -p rgun-channel --examples` builds it",
        path.display(),
        profile()
    );
    path
}

pub(crate) fn binary_beside_the_extension() -> PathBuf {
    let extension = build_directory().join("rgun_worker.abi3.so");
    assert!(
        extension.is_file(),
        "there is no {}: `make build PROFILE={}` builds it",
        extension.display(),
        profile()
    );
    built().to_owned()
}

/// A hard link, because the daemon looks for the extension beside the file that it really is.
pub(crate) fn binary_beside_nothing() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let link = || -> std::io::Result<PathBuf> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("it-{}", profile()));
        fs::create_dir_all(&directory)?;
        let binary = directory.join("rgun");
        let is_it = |path: &Path| -> std::io::Result<bool> {
            let (link, file) = (fs::metadata(path)?, fs::metadata(built())?);
            Ok((link.dev(), link.ino()) == (file.dev(), file.ino()))
        };
        if !is_it(&binary).unwrap_or(false) {
            let new = directory.join(format!(".rgun.{}", std::process::id()));
            fs::hard_link(built(), &new).or_else(|_| fs::copy(built(), &new).map(drop))?;
            fs::rename(&new, &binary)?;
        }
        fs::write(directory.join("rgun_worker.abi3.so"), "")?;
        fs::write(directory.join("rgun_main.py"), "")?;
        Ok(binary)
    };
    let made =
        || link().unwrap_or_else(|error| panic!("cannot put the binary beside an empty extension: {error}"));
    BINARY.get_or_init(made).clone()
}

/// The interpreter of the tests that need a real one: `RGUN_TEST_PYTHON`, or the system's.
pub(crate) fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| env::var("RGUN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

/// A Python that rgun must refuse: by its name on PATH, or pyenv's.
pub(crate) fn old_python() -> Option<PathBuf> {
    let home = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")))?;
    let versions = fs::read_dir(home.join("versions")).into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = versions
        .filter(|version| {
            let name = version.file_name().to_string_lossy().into_owned();
            ["2.7", "3.6", "3.7", "3.8"].iter().any(|old| name.starts_with(old))
        })
        .map(|version| version.path().join("bin/python"))
        .collect();
    let path = env::var_os("PATH").unwrap_or_default();
    for directory in env::split_paths(&path) {
        candidates
            .extend(["python2.7", "python3.6", "python3.7", "python3.8"].map(|name| directory.join(name)));
    }
    candidates.sort();
    candidates.into_iter().find(|python| {
        let answer = Command::new(python).args(["-c", "pass"]).output();
        answer.is_ok_and(|answer| answer.status.success())
    })
}
