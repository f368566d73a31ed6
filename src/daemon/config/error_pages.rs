//! `[errors]`: HTML pages in place of the daemon's own, by status or class. The files are read with
//! the configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::checker::Checker;
use super::keys::name;
use super::value::Setting;
use super::{ConfigError, ErrorPage, ErrorStatus, Value, ValueError, paths};

/// Maximum size of a page, which is sent from memory.
const MAX_PAGE_BYTES: u64 = 256 << 10;

/// Reads the section.
pub(super) fn read(checker: &mut Checker<'_>) -> Vec<ErrorPage> {
    let Some(setting) = checker.setting(name::ERROR_PAGES) else { return Vec::new() };
    let Value::Tables(tables) = &setting.value else {
        checker.push_error(
            name::ERROR_PAGES,
            setting,
            ValueError::new("can only be set in the file")
                .with_hint("write \"503\" = \"/srv/mysite/503.html\" in [errors]"),
        );
        return Vec::new();
    };
    let mut pages = Vec::new();
    for (key, setting) in tables.iter().flat_map(|table| &table.keys) {
        match page(key, setting) {
            Ok(page) => pages.push(page),
            Err(error) => checker.errors.push(ConfigError {
                origin: setting.origin.clone(),
                key: format!("errors.{key}"),
                value: Some(setting.value.to_string()),
                reason: error.reason,
                hint: error.hint,
            }),
        }
    }
    pages
}

fn page(key: &str, setting: &Setting) -> Result<ErrorPage, ValueError> {
    let status = status(key)?;
    let path = Path::new(paths::path(setting)?);
    if path.is_relative() {
        return Err(
            ValueError::new("is not a full path").with_hint(format!("write e.g. \"/srv/mysite/{key}.html\""))
        );
    }
    Ok(ErrorPage { status, path: path.to_owned(), html: read_page(path)? })
}

fn status(key: &str) -> Result<ErrorStatus, ValueError> {
    match key {
        "4xx" => return Ok(ErrorStatus::ClientErrors),
        "5xx" => return Ok(ErrorStatus::ServerErrors),
        _ => {}
    }
    let digits = Some(key).filter(|key| key.len() == 3 && key.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(status @ 400..=599) => Ok(ErrorStatus::Status(status)),
        _ => Err(ValueError::new("is not the status of an error")
            .with_hint("the keys of [errors] are statuses from 400 to 599, \"4xx\" and \"5xx\"")),
    }
}

fn read_page(path: &Path) -> Result<String, ValueError> {
    let unreadable = |error: std::io::Error| {
        ValueError::new(format!("cannot be read: {error}")).with_hint(
            "name a file that the user rgun runs as can read; it is read at start and at each reload",
        )
    };
    // Checked before the file is opened, because opening a named pipe would block the start.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(ValueError::new("is not a file").with_hint("name an HTML file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_PAGE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_PAGE_BYTES {
        return Err(ValueError::new("is larger than 256KiB")
            .with_hint("pages are sent from memory: write a smaller one, with its images elsewhere"));
    }
    String::from_utf8(bytes).map_err(|_| ValueError::new("is not UTF-8").with_hint("save the page as UTF-8"))
}
