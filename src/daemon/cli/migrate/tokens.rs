//! Splits command lines into commands and words.
//!
//! A line has the syntax of a shell (POSIX.1-2024, Shell Command Language, 2.2 to 2.7) or that of
//! `ExecStart=` in a unit (systemd.service(5), systemd.unit(5)).

use super::words::{Piece, Variable, Word, is_name};

/// The syntax of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Shell,
    /// `ExecStart=`: `$$` is a dollar sign, `%%` a percent sign, and there are no operators.
    Unit,
}

/// A command of a line.
#[derive(Debug, Default)]
pub(super) struct SimpleCommand {
    pub(super) words: Vec<Word>,
    /// The redirections, as written.
    pub(super) redirections: Vec<String>,
}

/// Splits a line into commands at `;`, `&&`, `||`, `|`, `&` and newlines. Returns `None` if a
/// quotation or an expansion is open at the end.
pub(super) fn split(line: &str, syntax: Syntax) -> Option<Vec<SimpleCommand>> {
    let mut parser = Parser { rest: line, syntax };
    let mut commands = vec![SimpleCommand::default()];
    loop {
        parser.skip_blanks();
        let Some(next) = parser.peek() else { break };
        let is_alone = parser.rest[next.len_utf8()..].chars().next().is_none_or(char::is_whitespace);
        let is_separator = match syntax {
            Syntax::Shell => matches!(next, ';' | '&' | '|' | '\n') && !parser.rest.starts_with("&>"),
            Syntax::Unit => next == ';' && is_alone,
        };
        if is_separator {
            parser.skip(1);
            commands.push(SimpleCommand::default());
            continue;
        }
        if syntax == Syntax::Shell && next == '#' {
            parser.take_while(|letter| letter != '\n');
            continue;
        }
        let start = parser.rest;
        let is_redirection = syntax == Syntax::Shell && parser.skip_redirection();
        parser.skip_blanks_if(is_redirection);
        let pieces = parser.word(&|letter| letter.is_whitespace())?;
        let source = start[..start.len() - parser.rest.len()].trim().to_owned();
        let Some(command) = commands.last_mut() else { break };
        if is_redirection {
            command.redirections.push(source);
        } else {
            command.words.push(Word { source, pieces });
        }
    }
    commands.retain(|command| !command.words.is_empty());
    Some(commands)
}

/// Reads the variables in a text that is one word, as in double quotes. Returns `None` if an
/// expansion is open at the end.
pub(super) fn word(text: &str) -> Option<Word> {
    let mut parser = Parser { rest: text, syntax: Syntax::Shell };
    let mut pieces = Vec::new();
    while parser.peek().is_some() {
        parser.piece(true, &|letter| letter == '$' || letter == '`', &mut pieces)?;
    }
    Some(Word { source: text.to_owned(), pieces })
}

struct Parser<'a> {
    rest: &'a str,
    syntax: Syntax,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Skips a number of bytes, and returns them.
    fn skip(&mut self, count: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        skipped
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|letter| !is_part(letter)).unwrap_or(self.rest.len());
        self.skip(end)
    }

    /// Takes the text up to `end`, and skips `end`.
    fn take_until(&mut self, end: char) -> Option<&'a str> {
        let at = self.rest.find(end)?;
        let taken = self.skip(at);
        self.skip(end.len_utf8());
        Some(taken)
    }

    fn skip_blanks(&mut self) {
        let ends_command = self.syntax == Syntax::Shell;
        loop {
            self.take_while(|letter| letter.is_whitespace() && !(ends_command && letter == '\n'));
            if !self.rest.starts_with("\\\n") {
                return;
            }
            self.skip(2);
        }
    }

    fn skip_blanks_if(&mut self, condition: bool) {
        if condition {
            self.skip_blanks();
        }
    }

    /// Skips the operator of a redirection, such as `2>&1` or `>>`. Returns whether there is one.
    fn skip_redirection(&mut self) -> bool {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let operator = &self.rest[digits..];
        let operators = ["<<<", "<<-", "&>>", "<<", ">>", "<&", ">&", "<>", ">|", "&>", "<", ">"];
        match operators.into_iter().find(|each| operator.starts_with(each)) {
            Some(found) => {
                self.skip(digits + found.len());
                true
            }
            None => false,
        }
    }

    /// Reads a word up to an unquoted character for which `is_end` is true, or an operator.
    fn word(&mut self, is_end: &dyn Fn(char) -> bool) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let is_shell = self.syntax == Syntax::Shell;
        let ends = |letter: char| is_end(letter) || is_shell && matches!(letter, ';' | '&' | '|' | '<' | '>');
        while let Some(letter) = self.peek().filter(|letter| !ends(*letter)) {
            match letter {
                '\'' if is_shell => {
                    self.skip(1);
                    push_text(&mut pieces, self.take_until('\'')?);
                }
                // systemd replaces variables in both kinds of quotation.
                quote @ ('"' | '\'') => {
                    self.skip(1);
                    while self.peek()? != quote {
                        self.piece(
                            true,
                            &|letter| letter == quote || matches!(letter, '\\' | '$' | '`' | '%'),
                            &mut pieces,
                        )?;
                    }
                    self.skip(1);
                    // Keeps an empty word.
                    push_text(&mut pieces, "");
                }
                _ => {
                    let is_special =
                        |letter| ends(letter) || matches!(letter, '"' | '\'' | '\\' | '$' | '`' | '%');
                    self.piece(false, &is_special, &mut pieces)?;
                }
            }
        }
        Some(pieces)
    }

    /// Reads an escape, an expansion, or the text up to a character for which `is_special` is true.
    fn piece(
        &mut self,
        is_quoted: bool,
        is_special: &dyn Fn(char) -> bool,
        pieces: &mut Vec<Piece>,
    ) -> Option<()> {
        match self.peek()? {
            '\\' => {
                self.skip(1);
                let letter = self.peek()?;
                let escaped = self.skip(letter.len_utf8());
                // In quotes, a backslash before another character is an ordinary character.
                if is_quoted && !matches!(letter, '"' | '\\' | '$' | '`' | '\n') {
                    push_text(pieces, "\\");
                }
                push_text(pieces, if letter == '\n' { "" } else { escaped });
            }
            '$' => self.dollar(is_quoted, pieces)?,
            '`' if self.syntax == Syntax::Shell => {
                self.skip(1);
                let command = self.take_until('`')?;
                pieces.push(Piece::Computed(format!("`{command}`")));
            }
            '%' if self.syntax == Syntax::Unit => self.percent(pieces),
            letter => {
                let length = self.rest[letter.len_utf8()..].find(is_special);
                let text = self.skip(length.map_or(self.rest.len(), |length| length + letter.len_utf8()));
                push_text(pieces, text);
            }
        }
        Some(())
    }

    /// Reads a specifier of systemd.unit(5).
    fn percent(&mut self, pieces: &mut Vec<Piece>) {
        let next = self.rest[1..].chars().next();
        match next {
            Some('%') => {
                self.skip(2);
                push_text(pieces, "%");
            }
            Some(letter) if letter.is_ascii_alphabetic() => {
                let specifier = self.skip(2);
                pieces.push(Piece::Computed(specifier.to_owned()));
            }
            _ => push_text(pieces, self.skip(1)),
        }
    }

    /// Reads an expansion, or an ordinary dollar sign.
    fn dollar(&mut self, is_quoted: bool, pieces: &mut Vec<Piece>) -> Option<()> {
        let start = self.rest;
        let is_shell = self.syntax == Syntax::Shell;
        self.skip(1);
        match self.peek() {
            Some('$') if !is_shell => {
                self.skip(1);
                push_text(pieces, "$");
            }
            Some('(') if is_shell => {
                self.skip_balanced('(', ')')?;
                pieces.push(Piece::Computed(start[..start.len() - self.rest.len()].to_owned()));
            }
            Some('{') => {
                self.skip_balanced('{', '}')?;
                let source = &start[..start.len() - self.rest.len()];
                // systemd does not split the value of ${NAME}.
                pieces.push(braced(source, is_quoted || !is_shell)?);
            }
            Some(letter) if letter.is_ascii_alphabetic() || letter == '_' => {
                let name = self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_');
                pieces.push(variable(name, &format!("${name}"), is_quoted, None));
            }
            Some(letter) if is_shell && "@*#?!-0123456789".contains(letter) => {
                let name = self.skip(1);
                pieces.push(variable(name, &format!("${name}"), is_quoted, None));
            }
            _ => push_text(pieces, "$"),
        }
        Some(())
    }

    /// Skips a group in brackets, which may contain other groups and quotations.
    fn skip_balanced(&mut self, open: char, close: char) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let letter = self.peek()?;
            self.skip(letter.len_utf8());
            match letter {
                '\\' => {
                    let next = self.peek()?.len_utf8();
                    self.skip(next);
                }
                '\'' if open == '(' => {
                    self.take_until('\'')?;
                }
                letter if letter == open => depth += 1,
                letter if letter == close => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(());
                    }
                }
                _ => {}
            }
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn variable(name: &str, source: &str, is_quoted: bool, default: Option<Word>) -> Piece {
    Piece::Variable(Variable { name: name.to_owned(), source: source.to_owned(), is_quoted, default })
}

/// Reads `${…}`. Returns `None` if an expansion in the default is open.
fn braced(source: &str, is_quoted: bool) -> Option<Piece> {
    let inner = &source[2..source.len() - 1];
    let end = inner.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let (name, operator) = inner.split_at(end.unwrap_or(inner.len()));
    if !is_name(name) {
        return Some(Piece::Computed(source.to_owned()));
    }
    let default = [":-", ":=", "-", "="].into_iter().find_map(|prefix| operator.strip_prefix(prefix));
    Some(match (operator.is_empty() || operator.starts_with(['?']) || operator.starts_with(":?"), default) {
        (true, _) => variable(name, source, is_quoted, None),
        (false, Some(default)) => {
            let mut parser = Parser { rest: default, syntax: Syntax::Shell };
            let mut pieces = Vec::new();
            while let Some(letter) = parser.peek() {
                if letter == '"' {
                    parser.skip(1);
                    push_text(&mut pieces, "");
                } else {
                    parser.piece(true, &|letter| matches!(letter, '"' | '$' | '`' | '\\'), &mut pieces)?;
                }
            }
            variable(name, source, is_quoted, Some(Word { source: default.to_owned(), pieces }))
        }
        (false, None) => Piece::Computed(source.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::words::{Known, Scope, UnknownValue};
    use super::*;

    /// The words of each command, separated by `|`; `<…>` is a part without a known value.
    fn words(line: &str, syntax: Syntax) -> Vec<String> {
        let scope: Scope = [("A", "1"), ("S", "x y"), ("EMPTY", "")].into_iter().collect();
        let Some(commands) = split(line, syntax) else { return vec!["open".to_owned()] };
        let expand = |word: &Word| match word.expand(&scope) {
            Ok(expanded) => expanded.into_words().join("|"),
            Err(unknown) => format!("<{}>", unknown.source),
        };
        commands
            .iter()
            .map(|command| command.words.iter().map(expand).collect::<Vec<_>>().join("|"))
            .collect()
    }

    #[test]
    fn shell_lines_are_split_as_a_shell_splits_them() {
        for (line, expected) in [
            ("a b; c && d || e | f & g", &["a|b", "c", "d", "e", "f", "g"][..]),
            ("a $A \"$A$A\" '$A' \\$A x$A", &["a|1|11|$A|$A|x1"]),
            ("a $S \"$S\" $EMPTY", &["a|x|y|x y|"]),
            ("a ${A} ${B:-2} ${B:-\"$A:3\"} ${A:-4} ${EMPTY:-5}", &["a|1|2|1:3|1|5"]),
            (
                "a $(nproc --all) `nproc` $((2 * $(nproc) + 1))",
                &["a|<$(nproc --all)>|<`nproc`>|<$((2 * $(nproc) + 1))>"],
            ),
            ("a ${B%.*} ${B:?no} $@ $1 $", &["a|<${B%.*}>|<${B:?no}>|<$@>|<$1>|$"]),
            ("a >> /var/log/a 2>&1 b # c", &["a|b"]),
            ("a --n=c#d '' \"\" &> x", &["a|--n=c#d||"]),
            ("a \"b\\\"c\\d\" \\\n e", &["a|b\"c\\d|e"]),
            ("a %h %%", &["a|%h|%%"]),
            ("a\u{a0}b\u{c}c\r\nd", &["a|b|c", "d"]),
            ("a 'b", &["open"]),
            ("a \"b", &["open"]),
            ("a $(b", &["open"]),
        ] {
            assert_eq!(words(line, Syntax::Shell), expected, "{line}");
        }
    }

    #[test]
    fn unit_lines_are_split_as_systemd_splits_them() {
        for (line, expected) in [
            ("/bin/a ${S} $S 'x;y' a&&b", &["/bin/a|x y|x|y|x;y|a&&b"][..]),
            ("/bin/a $$A %%h %i", &["/bin/a|$A|%h|<%i>"]),
            ("/bin/a ; /bin/b", &["/bin/a", "/bin/b"]),
            ("/bin/sh -c 'a \"$$B\" %%h $A'", &["/bin/sh|-c|a \"$B\" %h 1"]),
            ("/bin/a \"%i $A\" $(x)", &["/bin/a|<%i>|$(x)"]),
        ] {
            assert_eq!(words(line, Syntax::Unit), expected, "{line}");
        }
    }

    #[test]
    fn unknown_value_has_the_reason() {
        let mut scope = Scope::default();
        scope.define("N", Known::Not("start.sh:3: $(nproc)".to_owned()));
        let commands = split("a -w ${N:-4}", Syntax::Shell).unwrap();
        let unknown = commands[0].words[2].expand(&scope).unwrap_err();
        let reason = "start.sh:3: $(nproc)".to_owned();
        assert_eq!(unknown, UnknownValue { source: "${N:-4}".to_owned(), reason });
    }

    #[test]
    fn directory_of_the_script_is_known() {
        let scope: Scope = [("0", "/srv/a/bin/run.sh")].into_iter().collect();
        for (text, directory) in [
            ("$(dirname \"$0\")", Some("/srv/a/bin")),
            ("$(cd \"$(dirname \"${BASH_SOURCE[0]}\")/..\" && pwd)", Some("/srv/a")),
            ("${0%/*}", Some("/srv/a/bin")),
            ("$(dirname \"$1\")", None),
            ("$(basename \"$0\")", None),
        ] {
            let found = word(text).unwrap().expand(&scope).map(|expanded| expanded.text);
            assert_eq!(found.ok().as_deref(), directory, "{text}");
        }
    }

    #[test]
    fn assignment_has_a_name_and_a_value() {
        let commands = split("A='b c'$D B = -c=d", Syntax::Shell).unwrap();
        let found: Vec<_> =
            commands[0].words.iter().map(|word| word.assignment().map(|(name, _)| name)).collect();
        assert_eq!(found, [Some("A".to_owned()), None, None, None]);
        assert_eq!(commands[0].words[0].assignment().unwrap().1.source, "'b c'$D");
    }
}
