//! `workers.preload`: its values.

use super::read::{boolean, strings};
use super::target::is_dotted_name;
use super::value::{Setting, Source, Value};
use super::{Preload, ValueError};

const EXAMPLE: &str = "write true, false, or a list of modules such as [\"django.db.models\", \"asyncio\"]";

/// Reads a boolean or a list of modules; outside the file, modules are separated by commas.
pub(super) fn read(setting: &Setting) -> Result<Preload, ValueError> {
    let is_list = match &setting.value {
        Value::List(_) => true,
        Value::Text(text) => setting.source != Source::File && text.contains([',', '.']),
        _ => false,
    };
    if !is_list {
        let Ok(is_on) = boolean(setting) else {
            let kind = setting.value.kind();
            return Err(ValueError::new(format!("must be true, false or a list of modules, not {kind}"))
                .with_hint(EXAMPLE));
        };
        return Ok(if is_on { Preload::Application } else { Preload::Off });
    }
    let modules = strings(setting).map_err(|error| error.with_hint(EXAMPLE))?;
    if let Some(wrong) = modules.iter().find(|module| !is_dotted_name(module)) {
        let error = ValueError::new(format!("\"{wrong}\" cannot be a module's name"));
        return Err(error.with_hint(EXAMPLE));
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
        from_variable("asyncio").unwrap_err();
        from_variable("asyncio,").unwrap_err();
    }

    #[test]
    fn empty_list_preloads_nothing() {
        let setting = Setting::flag("--set", Value::List(Vec::new()));
        assert_eq!(read(&setting).unwrap(), Preload::Off);
    }
}
