//! Reads `proxy.headers` and `proxy.fields`, which choose the forwarding fields that are used.

use super::proxy::{ProxyField, ProxyHeaders};
use super::value::Setting;
use super::{ValueError, read};

/// The names of [`ProxyField`].
const FIELDS: [(&str, ProxyField); 5] = [
    ("for", ProxyField::For),
    ("proto", ProxyField::Proto),
    ("host", ProxyField::Host),
    ("port", ProxyField::Port),
    ("prefix", ProxyField::Prefix),
];

/// Reads `proxy.headers`.
pub(super) fn headers(setting: &Setting) -> Result<ProxyHeaders, ValueError> {
    match read::text(setting)? {
        "x-forwarded" => Ok(ProxyHeaders::XForwarded),
        "forwarded" => Ok(ProxyHeaders::Forwarded),
        "off" => Ok(ProxyHeaders::Off),
        other => Err(read::unknown_choice(other, &["x-forwarded", "forwarded", "off"])),
    }
}

/// Reads `proxy.fields`; `headers` is the value of `proxy.headers`.
pub(super) fn fields(setting: &Setting, headers: ProxyHeaders) -> Result<Vec<ProxyField>, ValueError> {
    let mut fields = Vec::new();
    if setting.is_empty_text() {
        return Ok(fields);
    }
    for word in read::strings(setting)? {
        let Some((_, field)) = FIELDS.into_iter().find(|(name, _)| *name == word) else {
            return Err(unknown_field(word));
        };
        let is_missing = matches!(field, ProxyField::Port | ProxyField::Prefix);
        if is_missing && headers == ProxyHeaders::Forwarded {
            return Err(ValueError::new(format!("{word:?} is not in a Forwarded field (RFC 7239)"))
                .with_hint("remove it, or write proxy.headers = \"x-forwarded\""));
        }
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    Ok(fields)
}

fn unknown_field(word: &str) -> ValueError {
    let names = FIELDS.map(|(name, _)| name);
    let lower = word.to_ascii_lowercase();
    match lower.strip_prefix("x-forwarded-") {
        Some(name) if names.contains(&name) => ValueError::new(format!("{word:?} is not one of the choices"))
            .with_hint(format!("write \"{name}\"")),
        _ => read::unknown_choice(word, &names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Value;
    use crate::config::value::Source;

    fn setting(value: Value) -> Setting {
        Setting { value, origin: "x".to_owned(), source: Source::File }
    }

    #[test]
    fn fields_are_read_once_each() {
        use ProxyField::{For, Host, Port, Prefix, Proto};
        let read = |value| fields(&setting(value), ProxyHeaders::XForwarded);
        let all = Value::list(["for", "proto", "host", "port", "prefix", "for"]);
        assert_eq!(read(all).unwrap(), [For, Proto, Host, Port, Prefix]);
        assert_eq!(read(Value::text("host")).unwrap(), [Host]);
        assert_eq!(read(Value::list::<String>([])).unwrap(), []);
        assert_eq!(read(Value::text("")).unwrap(), []);
    }

    #[test]
    fn unknown_field_is_refused_with_a_hint() {
        for (word, hint) in [("X-Forwarded-Host", "\"host\""), ("hosts", "\"host\""), ("scheme", "\"proto\"")]
        {
            let error = fields(&setting(Value::list([word])), ProxyHeaders::XForwarded).unwrap_err();
            assert!(error.hint.as_deref().unwrap().contains(hint), "{word}: {error}");
        }
    }

    #[test]
    fn forwarded_has_no_port_and_no_prefix() {
        for word in ["port", "prefix"] {
            let error = fields(&setting(Value::list(["for", word])), ProxyHeaders::Forwarded).unwrap_err();
            assert!(error.reason.contains("RFC 7239"), "{error}");
        }
        assert!(fields(&setting(Value::list(["for", "proto", "host"])), ProxyHeaders::Forwarded).is_ok());
    }
}
