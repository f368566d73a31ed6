//! Parses the application's name: `module`, `module:attr`, `module:factory()`.
//!
//! The syntax is gunicorn's, without arguments in the call: the daemon evaluates no Python
//! expressions, and a factory can read its settings from the environment. A worker finds out
//! whether the module exists; this module refuses names that cannot exist, with a hint.

use std::fmt;
use std::str::FromStr;

use super::ValueError;

/// The Python object to serve or call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The module to import, as `mysite.wsgi`. For a hook, it may be the full path of a file.
    pub module: String,
    /// The attribute of the module; may have dots. Defaults to `application`, as in PEP 3333's
    /// examples and Django.
    pub attribute: String,
    /// Whether to call the object without arguments to get the application.
    pub factory: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}{}", self.module, self.attribute, if self.factory { "()" } else { "" })
    }
}

impl FromStr for Target {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (module, object) = match text.split_once(':') {
            None => (text, None),
            Some((module, object)) => (module, Some(object)),
        };
        check_module(module, object)?;
        let Some(object) = object else {
            return Ok(Self {
                module: module.to_owned(),
                attribute: DEFAULT_ATTRIBUTE.to_owned(),
                factory: false,
            });
        };
        let (attribute, factory) = split_call(module, object)?;
        check_attribute(module, attribute, factory)?;
        Ok(Self { module: module.to_owned(), attribute: attribute.to_owned(), factory })
    }
}

const DEFAULT_ATTRIBUTE: &str = "application";
const EXAMPLE: &str = "write module:attribute, e.g. \"mysite.wsgi:application\"";

fn check_module(module: &str, object: Option<&str>) -> Result<(), ValueError> {
    let suffix = object.map(|object| format!(":{object}")).unwrap_or_default();
    if module.is_empty() {
        return Err(ValueError::new("names no module").with_hint(EXAMPLE));
    }
    let has_py = std::path::Path::new(module).extension().is_some_and(|ext| ext.eq_ignore_ascii_case("py"));
    if module.contains('/') || has_py {
        let stem = if has_py { &module[..module.len() - ".py".len()] } else { module };
        let dotted = stem.trim_start_matches(['.', '/']).trim_end_matches('/').replace('/', ".");
        let error = ValueError::new("is a file's path; a module's name is expected");
        return Err(if is_dotted_name(&dotted) && !module.starts_with('/') {
            error.with_hint(format!("write \"{dotted}{suffix}\""))
        } else {
            error.with_hint("write the module's name, and its directory as app.directory (--chdir)")
        });
    }
    if is_dotted_name(module) {
        return Ok(());
    }
    if module.starts_with('.') {
        return Err(
            ValueError::new("is a relative import; the module's full name is expected").with_hint(EXAMPLE)
        );
    }
    let error = ValueError::new(format!("\"{module}\" cannot be a module's name"));
    let guess = module.replace('-', "_");
    Err(if guess != module && is_dotted_name(&guess) {
        error.with_hint(format!("a name in Python has no \"-\"; is it \"{guess}{suffix}\"?"))
    } else {
        error.with_hint(EXAMPLE)
    })
}

/// Splits `make()` into the name and whether it is called.
fn split_call<'a>(module: &str, object: &'a str) -> Result<(&'a str, bool), ValueError> {
    let Some((name, call)) = object.split_once('(') else {
        return Ok((object, false));
    };
    match call.trim_end().strip_suffix(')') {
        Some(arguments) if arguments.trim().is_empty() => Ok((name, true)),
        Some(arguments) if arguments.contains(')') || !is_dotted_name(name) => {
            Err(ValueError::new(format!("\"{object}\" is not an attribute or a call of one")).with_hint(EXAMPLE))
        }
        Some(_) => Err(ValueError::new("calls the factory with arguments, which rgun does not do").with_hint(format!(
            "write \"{module}:{name}()\" and give the factory its settings by app.env (--env), or add a function \
             without arguments to {module}"
        ))),
        None => Err(ValueError::new("has a \"(\" without \")\"").with_hint(format!("write \"{module}:{name}()\""))),
    }
}

fn check_attribute(module: &str, attribute: &str, factory: bool) -> Result<(), ValueError> {
    if attribute.is_empty() {
        return Err(ValueError::new("names no attribute after \":\"")
            .with_hint(format!("write \"{module}:{DEFAULT_ATTRIBUTE}\", or \"{module}\" for the same")));
    }
    if attribute.contains(':') {
        return Err(ValueError::new("has more than one \":\"").with_hint(EXAMPLE));
    }
    if is_dotted_name(attribute) {
        return Ok(());
    }
    let error = ValueError::new(format!("\"{attribute}\" cannot be an attribute's name"));
    let guess = attribute.replace('-', "_");
    Err(if is_dotted_name(&guess) {
        let call = if factory { "()" } else { "" };
        error.with_hint(format!("a name in Python has no \"-\"; is it \"{module}:{guess}{call}\"?"))
    } else {
        error.with_hint(EXAMPLE)
    })
}

/// Identifiers joined by dots. `is_alphabetic` is a little wider than Python's XID_Start (Language
/// Reference 2.3); a name that is accepted in error fails at import with Python's message.
pub(super) fn is_dotted_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut chars = part.chars();
        chars.next().is_some_and(|first| first == '_' || first.is_alphabetic())
            && chars.all(|c| c == '_' || c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed_and_printed_canonically() {
        for (text, canonical) in [
            ("mysite", "mysite:application"),
            ("mysite.wsgi", "mysite.wsgi:application"),
            ("mysite.wsgi:app", "mysite.wsgi:app"),
            ("mysite:web.app", "mysite:web.app"),
            ("mysite:make()", "mysite:make()"),
            ("mysite:web.make( )", "mysite:web.make()"),
            ("_private._app:_x1", "_private._app:_x1"),
            ("größe:straße", "größe:straße"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Target>().unwrap(), target, "{text}");
        }
        let factory: Target = "a.b:make()".parse().unwrap();
        assert_eq!(factory, Target { module: "a.b".into(), attribute: "make".into(), factory: true });
    }

    #[test]
    fn invalid_target_is_refused_with_a_hint() {
        for (text, reason, hint) in [
            ("", "names no module", "mysite.wsgi:application"),
            (":app", "names no module", "mysite.wsgi:application"),
            ("my-site.wsgi", "\"my-site.wsgi\" cannot be", "\"my_site.wsgi\""),
            ("my-site.wsgi:app", "\"my-site.wsgi\" cannot be", "\"my_site.wsgi:app\""),
            ("a:b:c", "more than one \":\"", "module:attribute"),
            ("mysite/wsgi.py", "file's path", "\"mysite.wsgi\""),
            ("./mysite/wsgi.py:app", "file's path", "\"mysite.wsgi:app\""),
            ("main.py", "file's path", "\"main\""),
            ("mysite/wsgi", "file's path", "\"mysite.wsgi\""),
            ("/srv/mysite/wsgi.py", "file's path", "app.directory"),
            ("../wsgi-x.py", "file's path", "app.directory"),
            (".wsgi:app", "relative import", "module:attribute"),
            ("mysite..wsgi", "cannot be", "module:attribute"),
            ("1site", "cannot be", "module:attribute"),
            ("my site", "cannot be", "module:attribute"),
            ("mysite:", "names no attribute", "\"mysite:application\""),
            ("mysite:my-app", "\"my-app\" cannot be", "\"mysite:my_app\""),
            ("mysite:my-app()", "\"my-app\" cannot be", "\"mysite:my_app()\""),
            ("mysite:make('prod')", "with arguments", "\"mysite:make()\""),
            ("mysite:make(a=1)", "with arguments", "--env"),
            ("mysite:make(", "\"(\" without \")\"", "\"mysite:make()\""),
            ("mysite:make()()", "is not an attribute or a call", "module:attribute"),
            ("mysite:()", "names no attribute", "mysite:application"),
            ("mysite:app.", "cannot be", "module:attribute"),
            ("mysite:a b", "cannot be", "module:attribute"),
            ("мой-сайт", "cannot be", "\"мой_сайт\""),
            ("ü.PY", "file's path", "\"ü\""),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{text}: {error}");
        }
    }
}
