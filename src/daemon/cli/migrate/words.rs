//! Words of command lines, and the variables in them. `tokens` splits a line into words.

/// A word, with the variables in it.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// The word as written, with its quotes.
    pub(super) source: String,
    pub(super) pieces: Vec<Piece>,
}

/// A part of a word.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Variable(Variable),
    /// A part whose value only the shell or systemd can compute, as written: `$(nproc)`, `%i`.
    Computed(String),
}

/// A variable in a word.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub(super) name: String,
    /// The variable as written.
    pub(super) source: String,
    pub(super) is_quoted: bool,
    /// The value of `${NAME:-default}`.
    pub(super) default: Option<Word>,
}

/// The value of a variable, or the reason why it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Value(String),
    /// Not known; the text says why.
    Not(String),
}

/// The variables that are known at a command. Later definitions replace earlier ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope(Vec<(String, Known)>);

/// A word whose variables are replaced.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// A note about each default that was used.
    pub(super) notes: Vec<String>,
    /// Whether the word is one variable without quotes, whose value is split into words.
    is_split: bool,
}

/// The part of a word whose value is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownValue {
    /// The part as written.
    pub(super) source: String,
    /// The reason; empty if nothing defines the variable.
    pub(super) reason: String,
}

impl UnknownValue {
    /// Returns whether the part is this variable, without a default.
    pub(super) fn is_variable(&self, name: &str) -> bool {
        let plain = self.source.trim_start_matches('$');
        plain == name || plain.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) == Some(name)
    }
}

impl Scope {
    /// Defines a variable.
    pub(super) fn define(&mut self, name: &str, value: Known) {
        self.0.push((name.to_owned(), value));
    }

    /// Returns the directory that an expression such as `$(dirname "$0")` or `${0%/*}` means, or the
    /// one above it. The variable `0` has the script's path.
    fn script_directory(&self, expression: &str) -> Option<String> {
        let Known::Value(path) = self.get("0")? else { return None };
        let is_script = expression.contains("$0") || expression.contains("BASH_SOURCE");
        let is_directory = is_script && expression.contains("dirname") || expression == "${0%/*}";
        let directory = path.rsplit_once('/')?.0;
        match expression.matches("/..").count() {
            _ if !is_directory => None,
            0 => Some(directory.to_owned()),
            1 => Some(directory.rsplit_once('/')?.0.to_owned()),
            _ => None,
        }
    }

    /// Defines the variables of another scope, too.
    pub(super) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    /// Returns the variables whose values are known.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, known)| match known {
            Known::Value(value) => Some((name.as_str(), value.as_str())),
            Known::Not(_) => None,
        })
    }

    /// Returns what is known about a variable; `None` if nothing defines it.
    pub(super) fn get(&self, name: &str) -> Option<&Known> {
        self.0.iter().rev().find(|(its, _)| its == name).map(|(_, known)| known)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Scope {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), Known::Value(value.into()))).collect())
    }
}

impl Word {
    /// Returns a word without variables.
    pub(super) fn literal(text: &str) -> Self {
        Self { source: text.to_owned(), pieces: vec![Piece::Text(text.to_owned())] }
    }

    /// Returns the text without its quotes, and with its variables as written.
    pub(super) fn unquoted(&self) -> String {
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) | Piece::Computed(text) => text.as_str(),
            Piece::Variable(variable) => &variable.source,
        });
        texts.collect()
    }

    /// Replaces the variables.
    ///
    /// # Errors
    /// A part whose value is not known.
    pub(super) fn expand(&self, scope: &Scope) -> Result<Expanded, UnknownValue> {
        let mut expanded = Expanded::default();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => expanded.text.push_str(text),
                Piece::Computed(source) => match scope.script_directory(source) {
                    Some(directory) => {
                        expanded.notes.push(format!(
                            "{source} became {directory}, the directory of the script that was passed"
                        ));
                        expanded.text.push_str(&directory);
                    }
                    None => return Err(UnknownValue { source: source.clone(), reason: String::new() }),
                },
                Piece::Variable(variable) => variable.expand(scope, &mut expanded)?,
            }
        }
        expanded.is_split =
            matches!(self.pieces.as_slice(), [Piece::Variable(Variable { is_quoted: false, .. })]);
        Ok(expanded)
    }

    /// Returns the variables with a default: the name, the variable as written, the default.
    pub(super) fn defaults(&self) -> Vec<(String, String, Self)> {
        let variables = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(Variable { name, source, default: Some(default), .. }) => {
                Some((name.clone(), source.clone(), default.clone()))
            }
            _ => None,
        });
        variables.collect()
    }

    /// Returns the name and the value of an assignment, such as `PORT=80`.
    pub(super) fn assignment(&self) -> Option<(String, Self)> {
        let (Piece::Text(first), rest) = self.pieces.split_first()? else { return None };
        let (name, start) = first.split_once('=').filter(|(name, _)| is_name(name))?;
        let pieces = std::iter::once(Piece::Text(start.to_owned())).chain(rest.iter().cloned()).collect();
        let source = self.source.split_once('=').map_or("", |(_, value)| value).to_owned();
        Some((name.to_owned(), Self { source, pieces }))
    }
}

impl Expanded {
    /// Returns the words that the value becomes: several if the word is an unquoted variable
    /// whose value has spaces.
    pub(super) fn into_words(self) -> Vec<String> {
        if self.is_split {
            shlex::split(&self.text)
                .unwrap_or_else(|| self.text.split_whitespace().map(str::to_owned).collect())
        } else {
            vec![self.text]
        }
    }
}

impl Variable {
    fn expand(&self, scope: &Scope, expanded: &mut Expanded) -> Result<(), UnknownValue> {
        let unknown = |reason: &str| UnknownValue { source: self.source.clone(), reason: reason.to_owned() };
        match (scope.get(&self.name), &self.default) {
            (Some(Known::Value(value)), Some(default)) if value.is_empty() => {
                expanded.text.push_str(&default.expand(scope)?.text);
            }
            (Some(Known::Value(value)), _) => expanded.text.push_str(value),
            (Some(Known::Not(reason)), _) => return Err(unknown(reason)),
            (None, None) => return Err(unknown("")),
            (None, Some(default)) => {
                let Expanded { text, notes, .. } = default.expand(scope)?;
                let Self { name, source, .. } = self;
                expanded.notes.extend(notes);
                expanded.notes.push(match name.as_str() {
                    "WEB_CONCURRENCY" => format!("{source} became {text}; the variable overrides the file"),
                    _ => format!("{source} became {text}, its default, whatever {name} is"),
                });
                expanded.text.push_str(&text);
            }
        }
        Ok(())
    }
}

/// Returns whether a text can be the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
