//! `workers.user` and `workers.group`: the user that workers run as, by name or number. `pool` looks
//! them up.

use super::checker::Checker;
use super::keys::name;
use super::value::{Setting, Value};
use super::{AccountName, ValueError, WorkerUser};

/// Numbers end below this one, which stands for "no change" in setresuid(2).
const NO_ID: i128 = u32::MAX as i128;

/// Reads both keys.
pub(super) fn read(checker: &mut Checker<'_>) -> WorkerUser {
    WorkerUser {
        user: checker.read(name::WORKER_USER, None, |setting| account(setting, "\"shop\"")),
        group: checker.read(name::WORKER_GROUP, None, |setting| account(setting, "\"www-data\"")),
    }
}

/// Reads a name or a number; `None` is `"off"`.
fn account(setting: &Setting, example: &str) -> Result<Option<AccountName>, ValueError> {
    let text = match &setting.value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) if text == "off" => return Ok(None),
        Value::Text(text) => text.clone(),
        other => {
            return Err(ValueError::new(format!("must be a name or a number, not {}", other.kind())));
        }
    };
    let is_valid = match text.parse::<i128>() {
        Ok(number) => (0..NO_ID).contains(&number) && text.bytes().all(|byte| byte.is_ascii_digit()),
        // Directory services allow other characters than useradd(8), such as "\\" and "@".
        Err(_) => {
            !text.is_empty()
                && !text.starts_with('-')
                && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/'))
        }
    };
    if !is_valid {
        return Err(ValueError::new("cannot be a name or a number")
            .with_hint(format!("write e.g. {example}, a number without quotes, or \"off\"")));
    }
    Ok(Some(AccountName { text, origin: setting.origin.clone() }))
}
