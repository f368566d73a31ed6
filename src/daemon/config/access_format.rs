//! Parses `log.access_format`: text with atoms, which are facts about a request. Atoms are written
//! in the notation of Python's `%` operator, as in gunicorn and hypercorn (`%(h)s`,
//! `%({referer}i)s`) and in granian (`%(addr)s`).

use super::ValueError;
use super::value::Setting;

/// Gunicorn's default format, which is the `combined` format of other servers.
const GUNICORN_FORMAT: &str = "'%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"'";

/// The atoms without an argument, by name.
const ATOMS: &[(&str, Atom)] = &[
    ("h", Atom::Client),
    ("l", Atom::Hyphen),
    ("u", Atom::User),
    ("t", Atom::Time),
    ("r", Atom::RequestLine),
    ("R", Atom::RequestLineWithoutQuery),
    ("m", Atom::Method),
    ("U", Atom::Path),
    ("Uq", Atom::PathAndQuery),
    ("q", Atom::Query),
    ("H", Atom::Protocol),
    ("S", Atom::Scheme),
    ("s", Atom::Status),
    ("st", Atom::StatusPhrase),
    ("B", Atom::Bytes),
    ("b", Atom::Bytes),
    ("f", Atom::Referrer),
    ("a", Atom::UserAgent),
    ("T", Atom::Seconds),
    ("M", Atom::Milliseconds),
    ("D", Atom::Microseconds),
    ("L", Atom::SecondsAndMicroseconds),
    ("p", Atom::Pid),
    ("addr", Atom::Client),
    ("time", Atom::LocalTime),
    ("dt_ms", Atom::FractionalMilliseconds(6)),
    ("status", Atom::Status),
    ("path", Atom::Path),
    ("query_string", Atom::Query),
    ("method", Atom::Method),
    ("scheme", Atom::Scheme),
    ("protocol", Atom::Protocol),
];

/// WSGI's variables for which there is an atom. Other variables stand for a field of the request
/// (`HTTP_…`), or are unknown.
const VARIABLES: &[(&str, Atom)] = &[
    ("REMOTE_ADDR", Atom::Client),
    ("REQUEST_METHOD", Atom::Method),
    ("PATH_INFO", Atom::Path),
    ("RAW_URI", Atom::PathAndQuery),
    ("REQUEST_URI", Atom::PathAndQuery),
    ("QUERY_STRING", Atom::Query),
    ("SERVER_PROTOCOL", Atom::Protocol),
    ("WSGI.URL_SCHEME", Atom::Scheme),
];

/// The parsed format of a line in the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFormat {
    /// The line's pieces in their order.
    pub pieces: Vec<FormatPiece>,
    /// Names of the request's fields in the line, in lower case. [`Atom::RequestField`] contains an
    /// index into this list.
    pub request_fields: Vec<String>,
    /// Names of the response's fields in the line, in lower case. [`Atom::ResponseField`] contains
    /// an index into this list.
    pub response_fields: Vec<String>,
    /// Variables (`%({x}e)s`) that the daemon does not know; a hyphen stands for each.
    unknown_variables: Vec<String>,
}

/// A piece of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatPiece {
    /// Literal text.
    Text(String),
    /// A fact about the request.
    Atom(Atom),
}

/// A fact about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atom {
    /// `-`.
    Hyphen,
    /// The client's address.
    Client,
    /// The user of HTTP Basic authentication.
    User,
    /// The time as in `[17/Nov/2026:10:00:00 +0100]`.
    Time,
    /// The time as in `2026-11-17 10:00:00 +0100`.
    LocalTime,
    /// Method, path with query, and protocol.
    RequestLine,
    /// Method, path and protocol.
    RequestLineWithoutQuery,
    /// The method.
    Method,
    /// The path, as sent.
    Path,
    /// The path and the query, as sent.
    PathAndQuery,
    /// The query, as sent, without the question mark.
    Query,
    /// `HTTP/1.1`.
    Protocol,
    /// `http` or `https`.
    Scheme,
    /// The status code.
    Status,
    /// The status code's reason phrase.
    StatusPhrase,
    /// The bytes of the response's body.
    Bytes,
    /// The field `Referer`.
    Referrer,
    /// The field `User-Agent`.
    UserAgent,
    /// Whole seconds that the request took.
    Seconds,
    /// Whole milliseconds that the request took.
    Milliseconds,
    /// Microseconds that the request took.
    Microseconds,
    /// Seconds that the request took, with six digits after the point.
    SecondsAndMicroseconds,
    /// Milliseconds that the request took, with this number of digits after the point.
    FractionalMilliseconds(u8),
    /// The daemon's process id, as in `<4711>`.
    Pid,
    /// A field of the request; index into [`AccessFormat::request_fields`].
    RequestField(usize),
    /// A field of the response; index into [`AccessFormat::response_fields`].
    ResponseField(usize),
}

impl AccessFormat {
    /// Returns the warnings about variables that the daemon does not know, and about a format that
    /// is the same text for every request, such as `combined`, which is a name in other servers.
    pub(super) fn warnings(&self, setting: &Setting) -> Vec<String> {
        let Setting { origin, value, .. } = setting;
        let unknown = |variable: &String| {
            format!(
                "{origin}: %({{{variable}}}e)s is logged as \"-\": the daemon does not know this variable of the \
                 application"
            )
        };
        let mut warnings: Vec<String> = self.unknown_variables.iter().map(unknown).collect();
        if self.pieces.iter().all(|piece| matches!(piece, FormatPiece::Text(_))) {
            warnings.push(format!(
                "{origin}: {value} has no atom such as %(r)s, so each line of the access log is this text; gunicorn's \
                 line is {GUNICORN_FORMAT}"
            ));
        }
        warnings
    }

    /// Parses a format.
    ///
    /// # Errors
    /// The format is empty, or has an unknown atom, or a `%` that begins no atom.
    pub(super) fn parse(text: &str) -> Result<Self, ValueError> {
        let mut format = Self {
            pieces: Vec::new(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
            unknown_variables: Vec::new(),
        };
        if text.trim().is_empty() {
            return Err(ValueError::new("is empty").with_hint("write \"off\" for rgun's own line"));
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            format.push_text(before);
            if let Some(after) = after.strip_prefix('%') {
                format.push_text("%");
                rest = after;
                continue;
            }
            let (name, conversion, after) = split_atom(after).ok_or_else(|| {
                ValueError::new(format!("has a % that begins no atom: \"%{}\"", beginning(after)))
                    .with_hint("write %(name)s for an atom, %% for a percent sign")
            })?;
            let atom = format.atom(name)?;
            format.pieces.push(FormatPiece::Atom(convert(name, atom, conversion)?));
            rest = after;
        }
        format.push_text(rest);
        Ok(format)
    }

    fn push_text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(FormatPiece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(FormatPiece::Text(text.to_owned())),
        }
    }

    /// Returns the atom of this name.
    fn atom(&mut self, name: &str) -> Result<Atom, ValueError> {
        if let Some((_, atom)) = ATOMS.iter().find(|(known, _)| *known == name) {
            return Ok(*atom);
        }
        let argument = name.strip_prefix('{').and_then(|name| name.rsplit_once('}'));
        let is_field = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        match argument {
            Some((field, "i")) if is_field(field) => Ok(self.request_field(field)),
            Some((field, "o")) if is_field(field) => {
                Ok(Atom::ResponseField(index_of(&mut self.response_fields, field)))
            }
            Some((variable, "e")) if !variable.is_empty() => Ok(self.variable(variable)),
            _ => Err(unknown_atom(name)),
        }
    }

    fn request_field(&mut self, name: &str) -> Atom {
        Atom::RequestField(index_of(&mut self.request_fields, name))
    }

    /// Returns the atom for a variable of WSGI's environ; a hyphen for an unknown one.
    fn variable(&mut self, name: &str) -> Atom {
        let upper = name.to_ascii_uppercase();
        if let Some((_, atom)) = VARIABLES.iter().find(|(known, _)| *known == upper) {
            return *atom;
        }
        let field = match upper.as_str() {
            "CONTENT_TYPE" | "CONTENT_LENGTH" => Some(upper.as_str()),
            _ => upper.strip_prefix("HTTP_").filter(|rest| !rest.is_empty()),
        };
        if let Some(field) = field {
            return self.request_field(&field.replace('_', "-"));
        }
        self.unknown_variables.push(name.to_owned());
        Atom::Hyphen
    }
}

/// Returns the index of a name, which is added if it is new.
fn index_of(names: &mut Vec<String>, name: &str) -> usize {
    let name = name.to_ascii_lowercase();
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// Splits `(name)s rest` into name, conversion and rest; the conversion is a letter after an
/// optional precision.
fn split_atom(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.strip_prefix('(')?.split_once(')')?;
    let end = rest.find(|character: char| character.is_ascii_alphabetic())?;
    let (conversion, rest) = rest.split_at(end + 1);
    Some((name, conversion, rest))
}

/// Applies a conversion to an atom.
fn convert(name: &str, atom: Atom, conversion: &str) -> Result<Atom, ValueError> {
    match (atom, conversion) {
        (_, "s") | (Atom::FractionalMilliseconds(_), "f") => Ok(atom),
        (Atom::FractionalMilliseconds(_), "d" | "i") => Ok(Atom::Milliseconds),
        (Atom::FractionalMilliseconds(_), _) => {
            let digits = conversion.strip_prefix('.').and_then(|rest| rest.strip_suffix('f'));
            let digits = digits.and_then(|digits| digits.parse().ok()).filter(|digits| *digits <= 6);
            digits
                .map(Atom::FractionalMilliseconds)
                .ok_or_else(|| wrong_conversion(name, conversion, "write %(dt_ms).3f, with at most 6 digits"))
        }
        (Atom::Status | Atom::Bytes | Atom::Seconds | Atom::Milliseconds | Atom::Microseconds, "d" | "i") => {
            Ok(atom)
        }
        _ => Err(wrong_conversion(name, conversion, &format!("write %({name})s"))),
    }
}

fn wrong_conversion(name: &str, conversion: &str, hint: &str) -> ValueError {
    ValueError::new(format!("has %({name}){conversion}, and the atom has no such conversion")).with_hint(hint)
}

fn unknown_atom(name: &str) -> ValueError {
    let known: Vec<_> = ATOMS.iter().map(|(name, _)| *name).collect();
    ValueError::new(format!("has the unknown atom %({name})s")).with_hint(format!(
        "the atoms are {}, and {{NAME}}i, {{NAME}}o and {{NAME}}e for a field of the request, a field of the response \
         and a variable of WSGI",
        known.join(" ")
    ))
}

/// Returns the first characters of a text, for a message.
fn beginning(text: &str) -> String {
    text.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::FormatPiece::{Atom as A, Text};
    use super::*;

    fn parse(text: &str) -> AccessFormat {
        AccessFormat::parse(text).unwrap()
    }

    #[test]
    fn gunicorns_default_format_has_all_its_atoms() {
        let format = parse("%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"");
        let atoms: Vec<_> = format.pieces.iter().filter(|piece| matches!(piece, A(_))).cloned().collect();
        let expected = [
            Atom::Client,
            Atom::Hyphen,
            Atom::User,
            Atom::Time,
            Atom::RequestLine,
            Atom::Status,
            Atom::Bytes,
            Atom::Referrer,
            Atom::UserAgent,
        ];
        assert_eq!(atoms, expected.map(A));
        assert_eq!(format.pieces[7], Text(" \"".to_owned()));
        assert_eq!(format.pieces.last(), Some(&Text("\"".to_owned())));
    }

    #[test]
    fn fields_are_listed_once_in_lower_case() {
        let format = parse("%({X-Real-IP}i)s %({x-real-ip}i)s %({ETag}o)s %({HTTP_X_REAL_IP}e)s%%");
        assert_eq!(
            (&*format.request_fields, &*format.response_fields),
            (&["x-real-ip".to_owned()][..], &["etag".to_owned()][..])
        );
        let field = A(Atom::RequestField(0));
        let space = || Text(" ".to_owned());
        assert_eq!(
            format.pieces,
            [
                field.clone(),
                space(),
                field.clone(),
                space(),
                A(Atom::ResponseField(0)),
                space(),
                field,
                Text("%".to_owned())
            ]
        );
    }

    #[test]
    fn variables_are_mapped_or_a_hyphen() {
        let format = parse("%({REMOTE_ADDR}e)s%({wsgi.url_scheme}e)s%({CONTENT_TYPE}e)s%({django.user}e)s");
        assert_eq!(
            format.pieces,
            [A(Atom::Client), A(Atom::Scheme), A(Atom::RequestField(0)), A(Atom::Hyphen)]
        );
        assert_eq!(format.request_fields, ["content-type"]);
        assert_eq!(format.unknown_variables, ["django.user"]);
    }

    #[test]
    fn granians_default_format_is_parsed() {
        let format =
            parse("[%(time)s] %(addr)s - \"%(method)s %(path)s %(protocol)s\" %(status)d %(dt_ms).3f");
        assert_eq!(format.pieces.last(), Some(&A(Atom::FractionalMilliseconds(3))));
        assert!(format.pieces.contains(&A(Atom::LocalTime)));
    }

    #[test]
    fn wrong_format_names_the_atom_and_a_remedy() {
        for (text, reason, hint) in [
            ("", "is empty", "\"off\""),
            ("%(h)s %(x)s", "has the unknown atom %(x)s", "the atoms are h l u t r"),
            ("%({a b}i)s", "has the unknown atom %({a b}i)s", "{NAME}i"),
            ("100% %(h)s", "has a % that begins no atom: \"% %(h)s\"", "%%"),
            ("%(h)", "has a % that begins no atom: \"%(h)\"", "%(name)s"),
            ("%(h)d", "has %(h)d, and the atom has no such conversion", "write %(h)s"),
            ("%(s)05d", "has %(s)05d, and the atom has no such conversion", "write %(s)s"),
            ("%(dt_ms).9f", "has %(dt_ms).9f, and the atom has no such conversion", "write %(dt_ms).3f"),
        ] {
            let error = AccessFormat::parse(text).unwrap_err();
            assert_eq!(error.reason, reason);
            assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{error:?}");
        }
    }
}
