//! Files with variables: `EnvironmentFile=` of systemd, `env_file:` of Compose, `.env` beside a
//! Procfile.

use super::words::is_name;

/// A file with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EnvFile {
    /// The full path.
    pub(super) path: String,
    /// The variables, in the order of the file.
    pub(super) variables: Vec<(String, String)>,
    /// Lines that systemd does not read as the old program did, each with the reason.
    pub(super) notes: Vec<String>,
}

/// Returns whether a file has only lines `NAME=value`, blank lines and comments.
pub(super) fn is_env_file(text: &str) -> bool {
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            line.split_once('=').is_some_and(|(name, value)| {
                // Otherwise the line is a command of a script: `PORT=80 gunicorn app`.
                let is_one_word =
                    value.starts_with(['"', '\'']) || !value.trim().contains(' ') || value.contains(" #");
                is_name(name.trim()) && is_one_word
            })
        })
}

/// Reads the text of the file at `path`.
pub(super) fn parse(path: &str, text: &str) -> EnvFile {
    let mut file = EnvFile { path: path.to_owned(), variables: Vec::new(), notes: Vec::new() };
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let content = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = content.split_once('=').filter(|(name, _)| is_name(name.trim())) else {
            continue;
        };
        let (name, mut note) =
            (name.trim(), |text: &str| file.notes.push(format!("{path}:{}: {name}: {text}", idx + 1)));
        if content.len() < line.len() {
            note("systemd ignores a line with export; remove that word");
        }
        let value = value.trim();
        let is_quoted = value.starts_with(['"', '\'']);
        let value = if is_quoted {
            let quote = if value.starts_with('"') { '"' } else { '\'' };
            value[1..].split_once(quote).map_or(&value[1..], |(inner, _)| inner)
        } else if let Some((before, _)) = value.split_once(" #") {
            note("systemd takes the comment after the value as a part of the value; remove it");
            before.trim_end()
        } else {
            value
        };
        if value.contains("${") && !line.contains('\'') {
            note("systemd replaces no variables in this file; write the value");
        }
        file.variables.push((name.to_owned(), value.to_owned()));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_told_from_scripts() {
        for (text, is_file) in [
            ("# x\nA=1\nexport B='x y'\nC=\n", true),
            ("A=1 # c", true),
            ("PORT=80 gunicorn a", false),
            ("A=1\ngunicorn a", false),
            ("", false),
        ] {
            assert_eq!(is_env_file(text), is_file, "{text}");
        }
    }

    #[test]
    fn values_are_read_and_differences_to_systemd_are_noted() {
        let file = parse("/a.env", "A=1\nexport B=\"x y\"\nC=2 # two\nD=${A}/d\nE='${A}'\n; F=1\n");
        let values: Vec<_> = file.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(values, ["A=1", "B=x y", "C=2", "D=${A}/d", "E=${A}"]);
        let expected = [
            "/a.env:2: B: systemd ignores a line with export; remove that word",
            "/a.env:3: C: systemd takes the comment after the value as a part of the value; remove it",
            "/a.env:4: D: systemd replaces no variables in this file; write the value",
        ];
        assert_eq!(file.notes, expected);
    }
}
