//! Configurations for the unit tests of this module.

use crate::cli::{self, Command};
use crate::config::testing::TestDir;
use crate::config::{Config, Environment};

/// Returns the configuration of a start with these arguments, in a directory that has an
/// interpreter.
pub(super) fn configuration(args: &[&str]) -> Config {
    let directory = TestDir::new();
    directory.python(".venv/bin/python");
    let args = std::iter::once("rgun").chain(args.iter().copied());
    match cli::parse(args, &Environment::default(), directory.path()) {
        Ok(Command::Serve(invocation)) => invocation.config,
        other => panic!("{other:?}"),
    }
}
