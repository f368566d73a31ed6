//! The completions of shells in `packaging/completions`. UPDATE_DOCS=1 writes them.

use clap_complete::Shell;

use super::*;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/completions");

#[test]
fn completions_have_the_flags_and_commands_of_the_help() {
    for (shell, file) in [(Shell::Bash, "rgun.bash"), (Shell::Zsh, "_rgun"), (Shell::Fish, "rgun.fish")] {
        let mut expected = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "rgun", &mut expected);
        let path = format!("{DIRECTORY}/{file}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(DIRECTORY).unwrap();
            std::fs::write(&path, &expected).unwrap();
        }
        let text = std::fs::read(&path).unwrap_or_default();
        assert!(text == expected, "packaging/completions/{file} differs; UPDATE_DOCS=1 make unit writes it");
    }
}
