//! `rgun`: parses the command line and runs the command in [`rgun::run`], [`rgun::check`] or
//! [`rgun::cli`].

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use rgun::cli::{self, Command, Failure};
use rgun::config::Environment;

fn main() -> ExitCode {
    let environment: Environment = std::env::vars_os().collect();
    let environment =
        if std::io::stderr().is_terminal() { environment.logging_access() } else { environment };
    let directory = match std::env::current_dir() {
        Ok(directory) => directory,
        Err(error) => {
            let text = explain_missing_directory(&environment, &error);
            return fail(&cli::missing_directory(text, std::env::args_os()));
        }
    };
    match cli::parse(std::env::args_os(), &environment, &directory) {
        Ok(Command::Serve(invocation)) => rgun::run::serve(&invocation),
        Ok(Command::Check(invocation, wanted)) => rgun::check::check(&invocation, &wanted),
        Ok(Command::CheckPython(unread, wanted)) => rgun::check::check_python(&unread, &wanted),
        Ok(Command::Control(request)) => cli::control::run(&request),
        Ok(Command::Doctor(request)) => cli::doctor::run(&request),
        Ok(Command::Init(request)) => cli::init::run(&request, &environment, &directory),
        Ok(Command::Migrate(request)) => cli::migrate::run(&request, &environment, &directory),
        Err(failure) if failure.stdout => {
            // The reader may have closed the pipe (`rgun --help | head -1`).
            let printed = std::io::stdout().write_all(failure.text.as_bytes());
            ExitCode::from(if printed.is_ok() { failure.status } else { 1 })
        }
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    if failure.is_start {
        return rgun::run::refuse_start(failure);
    }
    // If stderr is closed, the exit status still reports the failure.
    let _ = std::io::stderr().write_all(failure.text.as_bytes());
    ExitCode::from(failure.status)
}

/// Explains a missing current directory, which a deployment may have deleted.
fn explain_missing_directory(environment: &Environment, error: &std::io::Error) -> String {
    let path = environment.value("PWD").map(|path| format!(", {},", path.display())).unwrap_or_default();
    let problem = if error.kind() == std::io::ErrorKind::NotFound {
        "is gone".to_owned()
    } else {
        format!("is unknown: {error}")
    };
    format!(
        "rgun: the current directory{path} {problem}\n    hint: change to the application's directory again\n"
    )
}
