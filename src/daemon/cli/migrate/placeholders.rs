//! The placeholders in a `uwsgi.ini`: `%(name)` for the value of an option above, `$(NAME)` for a
//! variable of the environment, and the magic variables, one letter after a percent sign
//! (uWSGI's documentation, "Configuring uWSGI").

use std::collections::BTreeSet;

use super::words::{Known, Scope};

/// The values of placeholders.
pub(super) struct Placeholders {
    /// The full path of the file.
    path: String,
    environment: Scope,
    /// The options read so far.
    options: Vec<(String, String)>,
    used: BTreeSet<String>,
}

impl Placeholders {
    pub(super) fn new(path: &str, environment: Scope) -> Self {
        Self { path: path.to_owned(), environment, options: Vec::new(), used: BTreeSet::new() }
    }

    /// Defines `%(name)`.
    pub(super) fn define(&mut self, name: &str, value: &str) {
        self.options.push((name.to_owned(), value.to_owned()));
    }

    /// Returns whether `%(name)` was used.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    /// Replaces the placeholders in a value. Returns the result, and notes about it.
    ///
    /// # Errors
    /// A placeholder whose value is not known.
    pub(super) fn replace(&mut self, value: &str) -> Result<(String, Vec<String>), String> {
        let (mut result, mut notes, mut rest) = (String::new(), Vec::new(), value);
        while let Some(at) = rest.find(['%', '$', '@']) {
            result.push_str(&rest[..at]);
            let (mark, after) = rest[at..].split_at(1);
            if let Some((name, next)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
                let unknown = || format!("{mark}({name})");
                let found = match mark {
                    "%" => {
                        self.used.insert(name.to_owned());
                        self.options.iter().rev().find(|(its, _)| its == name).map(|(_, value)| value.clone())
                    }
                    "$" => match self.environment.get(name) {
                        Some(Known::Value(value)) => Some(value.clone()),
                        _ => None,
                    },
                    // `@(FILE)` is the content of a file.
                    _ => None,
                };
                result.push_str(&found.ok_or_else(unknown)?);
                rest = next;
                continue;
            }
            let letter = after.chars().next().filter(|letter| mark == "%" && letter.is_ascii_alphabetic());
            let Some(letter) = letter else {
                result.push_str(mark);
                rest = after;
                continue;
            };
            let text = self.magic(letter).ok_or_else(|| format!("%{letter}"))?;
            if letter == 'k' {
                notes.push(format!("%k became {text}, the number of cores of this machine; workers.count = \"auto\" is two per core plus one"));
            }
            result.push_str(&text);
            rest = &after[1..];
        }
        result.push_str(rest);
        Ok((result, notes))
    }

    /// Returns the value of a magic variable.
    fn magic(&self, letter: char) -> Option<String> {
        let (directory, file) = self.path.rsplit_once('/')?;
        let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
        Some(match letter {
            // Capital letters stand for the file that was loaded first, which is this one.
            'p' | 'P' => self.path.clone(),
            's' | 'S' | 'o' | 'O' => file.to_owned(),
            'd' | 'D' => format!("{directory}/"),
            'n' | 'N' => stem.to_owned(),
            'e' | 'E' => extension.to_owned(),
            'c' | 'C' => directory.rsplit('/').next()?.to_owned(),
            'x' | 'X' => "uwsgi".to_owned(),
            'k' => std::thread::available_parallelism().ok()?.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_have_the_values_of_uwsgi() {
        let scope: Scope = [("HOME", "/root")].into_iter().collect();
        let mut placeholders = Placeholders::new("/etc/uwsgi/apps/shop.ini", scope);
        placeholders.define("base", "/srv");
        placeholders.define("base", "/srv/%n");
        placeholders.define("project", "shop");
        for (value, expected) in [
            ("%(project)/x", Ok("shop/x")),
            ("/run/%n.sock", Ok("/run/shop.sock")),
            ("%dvenv", Ok("/etc/uwsgi/apps/venv")),
            ("%p %s %e %c %x", Ok("/etc/uwsgi/apps/shop.ini shop.ini ini apps uwsgi")),
            ("$(HOME)/a", Ok("/root/a")),
            ("100% a@b $x", Ok("100% a@b $x")),
            ("%(none)", Err("%(none)")),
            ("$(NONE)", Err("$(NONE)")),
            ("@(/etc/hostname)", Err("@(/etc/hostname)")),
            ("%u", Err("%u")),
        ] {
            let found = placeholders.replace(value).map(|(text, _)| text);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{value}");
        }
    }

    #[test]
    fn number_of_cores_is_noted() {
        let mut placeholders = Placeholders::new("/a.ini", Scope::default());
        let (text, notes) = placeholders.replace("%k").unwrap();
        assert!(text.parse::<u32>().unwrap() > 0);
        assert_eq!(notes.len(), 1);
    }
}
