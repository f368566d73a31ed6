//! A word in the place of the application that may be a mistyped command: `rgun frob`.
//!
//! A module without a dot is a usual application (`rgun app`), and only the application's
//! interpreter knows which modules exist. If no file in the application's directories has this name,
//! the interpreter looks up the module, without importing it. Under systemd the word is not looked up:
//! the daemon starts, and tries again until a deployment is complete.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::flag_error;
use super::flags::APP;
use super::matches::similar_command;
use crate::config::{App, ConfigError, Environment, Layer, Value, name};

/// Prints a line: [`MISSING`] if no module has the name in its first argument. The others are
/// directories.
const SCRIPT: &str = "
import sys
word, *directories = sys.argv[1:]
sys.path[:1] = directories
import importlib.util
try:
    found = importlib.util.find_spec(word) is not None
except Exception:
    found = True
print('found' if found else 'missing', flush=True)
";

/// Maximum wait for the interpreter. A start then goes on, and reports what is wrong.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The beginning of the output of the script about a word that is no module.
const MISSING: &[u8] = b"missing";

/// Returns the error about a bare word among `flags` that is neither a command nor a module. `app`: the
/// settings that the word is a part of.
pub(super) fn check(flags: &Layer, environment: &Environment, app: &App) -> Option<ConfigError> {
    let typed = flags.get(name::TARGET).filter(|setting| setting.origin == APP)?;
    let Value::Text(word) = &typed.value else { return None };
    let is_bare = !word.contains([':', '.']);
    if !is_bare || is_supervised(environment) || has_file(app, word) || !is_missing(app, word) {
        return None;
    }
    let python = &app.python;
    let reason = format!(
        "\"{word}\" is neither a command of rgun nor an application: there is no module {word} in {} or on the rest of \
         sys.path of {} ({})",
        app.directory.display(),
        python.path.display(),
        python.source
    );
    let guess = similar_command(word).map(str::to_owned).or_else(|| similar_module(&app.directory, word));
    let hint = match guess {
        Some(guess) => format!("did you mean {guess}? rgun --help lists the commands"),
        None => "rgun --help lists the commands; correct the application (module:attribute), its directory (--chdir, \
                 app.directory) or the interpreter (--python, app.python)"
            .to_owned(),
    };
    Some(flag_error(APP, &reason, &hint))
}

fn is_supervised(environment: &Environment) -> bool {
    environment.value("NOTIFY_SOCKET").is_some()
}

/// Returns whether a directory of the application has a module of this name.
fn has_file(app: &App, word: &str) -> bool {
    app.pythonpath
        .iter()
        .chain([&app.directory])
        .any(|directory| directory.join(word).is_dir() || directory.join(format!("{word}.py")).is_file())
}

/// Returns whether the interpreter finds no module of this name. False if it cannot be run or does not
/// answer, which the start reports.
fn is_missing(app: &App, word: &str) -> bool {
    let mut command = Command::new(&app.python.path);
    command.arg("-c").arg(SCRIPT).arg(word).args(&app.pythonpath).arg(&app.directory);
    command.envs(app.env.iter().map(|(name, value)| (name, value))).current_dir(&app.directory);
    let Ok(mut process) = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    else {
        return false;
    };
    let answer = process.stdout.as_mut().and_then(|stdout| read_answer(stdout).ok());
    // Fails only if the process has ended.
    let _ = process.kill();
    let _ = process.wait();
    answer.is_some_and(|answer| answer.starts_with(MISSING))
}

/// Reads what the interpreter prints, without waiting for its end.
fn read_answer(stdout: &mut ChildStdout) -> io::Result<Vec<u8>> {
    let timeout = PollTimeout::try_from(LOOKUP_TIMEOUT).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut answer = vec![0; 64];
    let len = stdout.read(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// Returns `rgun MODULE` for a module in the directory whose name is similar to the word.
fn similar_module(directory: &Path, word: &str) -> Option<String> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let names = entries.filter_map(|entry| {
        let path = entry.path();
        let is_module = path.join("__init__.py").is_file() || path.extension().is_some_and(|ext| ext == "py");
        let stem = path.file_stem()?.to_str()?.to_owned();
        is_module.then_some(stem)
    });
    let (_, nearest) = names
        .map(|name| (strsim::damerau_levenshtein(word, &name), name))
        .filter(|(distance, _)| *distance <= 2)
        .min()?;
    Some(format!("rgun {nearest}"))
}
