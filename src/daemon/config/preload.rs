//! `workers.preload`: its values.

use super::read::{boolean, strings};
use super::target::is_dotted_name;
use super::value::{Setting, Source, Value};
use super::{Preload, ValueError};

const EXAMPLE: &str = "write true, false, or a list of modules such as [\"django.db.models\", \"asyncio\"]";
const VARIABLE_EXAMPLE: &str = "write true, false, or modules such as django.db.models,asyncio";

/// Maximum number of modules, and of bytes of their names: they are part of a message to the zygote.
pub(super) const MAX_MODULES: usize = 1000;
pub(super) const MAX_BYTES: usize = 32 * 1024;

/// Reads a boolean or a list of modules; outside the file, modules are separated by commas.
pub(super) fn read(setting: &Setting) -> Result<Preload, ValueError> {
    if let Ok(is_on) = boolean(setting) {
        return Ok(if is_on { Preload::Application } else { Preload::Off });
    }
    let example = if setting.source == Source::File { EXAMPLE } else { VARIABLE_EXAMPLE };
    let is_list = match &setting.value {
        Value::List(_) => true,
        Value::Text(text) => setting.source != Source::File && !text.trim().is_empty(),
        _ => false,
    };
    if !is_list {
        let kind = setting.value.kind();
        return Err(ValueError::new(format!("must be true, false or a list of modules, not {kind}"))
            .with_hint(example));
    }
    let mut modules = strings(setting).map_err(|error| error.with_hint(example))?;
    if setting.source != Source::File && modules.len() > 1 && modules.last() == Some(&"") {
        modules.pop();
    }
    let bytes: usize = modules.iter().map(|module| module.len()).sum();
    if bytes > MAX_BYTES || modules.len() > MAX_MODULES {
        return Err(ValueError::new(format!(
            "has more than {MAX_MODULES} modules, or more than {MAX_BYTES} bytes"
        ))
        .with_hint("list the modules that import the others"));
    }
    if let Some(wrong) = modules.iter().find(|module| !is_dotted_name(module)) {
        let error = ValueError::new(format!("\"{wrong}\" cannot be a module's name"));
        return Err(error.with_hint(example));
    }
    if modules.is_empty() {
        return Ok(Preload::Off);
    }
    Ok(Preload::Modules(modules.into_iter().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_variable(text: &str) -> Result<Preload, ValueError> {
        read(&Setting::variable("RGUN_WORKERS_PRELOAD", text.to_owned()))
    }

    #[test]
    fn variables_have_a_boolean_or_modules() {
        let modules = |modules: &[&str]| Preload::Modules(modules.iter().map(|&m| m.to_owned()).collect());
        assert_eq!(from_variable("yes").unwrap(), Preload::Application);
        assert_eq!(from_variable("0").unwrap(), Preload::Off);
        assert_eq!(from_variable("asyncio, email").unwrap(), modules(&["asyncio", "email"]));
        assert_eq!(from_variable("django.db.models").unwrap(), modules(&["django.db.models"]));
        assert_eq!(from_variable("asyncio").unwrap(), modules(&["asyncio"]));
        assert_eq!(from_variable("asyncio,").unwrap(), modules(&["asyncio"]));
        for wrong in ["", ",", "asyncio,,email", "[\"asyncio\"]"] {
            let error = from_variable(wrong).unwrap_err();
            assert_eq!(error.hint.as_deref(), Some(VARIABLE_EXAMPLE), "{wrong}");
        }
    }

    #[test]
    fn list_fits_into_a_message() {
        for (name, count) in [("email", MAX_MODULES + 1), (&*"a".repeat(MAX_BYTES + 1), 1)] {
            let setting = Setting::flag("--set", Value::list(std::iter::repeat_n(name, count)));
            assert!(read(&setting).unwrap_err().reason.contains("has more than 1000 modules"));
        }
    }

    #[test]
    fn empty_list_preloads_nothing() {
        let setting = Setting::flag("--set", Value::List(Vec::new()));
        assert_eq!(read(&setting).unwrap(), Preload::Off);
    }
}
