//! `rgun reload`: asks the daemon to load new code and configuration, and waits for the result.
//!
//! `ExecReload=` of the unit runs this command. The command talks to the daemon over the control
//! socket, whose protocol `run::control_socket` defines. It reads neither the configuration nor the
//! application.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

/// Name of the control socket in the runtime directory.
pub const SOCKET: &str = "control";

/// The packaged unit's `RuntimeDirectory=`.
const DEFAULT_DIRECTORY: &str = "/run/rgun";

/// EX_UNAVAILABLE of sysexits(3head): no daemon or no systemd answers.
pub(super) const EXIT_UNAVAILABLE: u8 = 69;

/// Returns the first directory of `$RUNTIME_DIRECTORY` (systemd.exec(5)); `None` if the variable is
/// unset or empty.
pub fn runtime_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&directories).next().filter(|path| !path.as_os_str().is_empty())
}

/// Requests a reload, prints its progress, and returns the exit status: 0 if the new code serves, 1
/// if it failed and the old code keeps serving, 69 if no daemon answers.
pub fn run(socket: Option<PathBuf>) -> ExitCode {
    let path = socket.unwrap_or_else(|| {
        runtime_directory().unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY)).join(SOCKET)
    });
    let mut stdout = io::stdout();
    match request_reload(&path, &mut stdout) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed(text)) => {
            print_error(&format!("rgun reload: {}\n", text.trim_end()));
            ExitCode::FAILURE
        }
        Err(error) => {
            print_error(&format!("rgun reload: {}\n", explain_unreachable(&path, &error)));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

enum Outcome {
    Done,
    Failed(String),
}

/// Explains why no daemon answers on the control socket.
fn explain_unreachable(path: &std::path::Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no rgun is running here (no socket {path}): systemctl start rgun; name an instance with rgun reload NAME, \
             another socket with --socket, and send SIGHUP to a daemon outside systemd"
        ),
        _ => format!("{path}: {error}"),
    }
}

fn request_reload(path: &std::path::Path, out: &mut impl Write) -> io::Result<Outcome> {
    let mut daemon = UnixStream::connect(path)?;
    daemon.write_all(b"reload\n")?;
    let mut replies = BufReader::new(daemon);
    let mut line = String::new();
    loop {
        line.clear();
        if replies.read_line(&mut line)? == 0 {
            return Ok(Outcome::Failed("the daemon ended before the reload did".to_owned()));
        }
        let (word, text) = line.split_once(' ').unwrap_or((line.trim_end(), ""));
        match word {
            "failed" => {
                let mut reason = text.to_owned();
                replies.read_to_string(&mut reason)?;
                return Ok(Outcome::Failed(reason));
            }
            "progress" | "done" => {
                // A closed stdout does not change the result of the reload.
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                if word == "done" {
                    return Ok(Outcome::Done);
                }
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown word {word:?}"))),
        }
    }
}

fn print_error(text: &str) {
    // If stderr is closed, only the exit status can report the error.
    let _ = io::stderr().write_all(text.as_bytes());
}
