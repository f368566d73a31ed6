//! Readers of `[[static]]` and `app.sendfile_roots`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{self, EntryReader};
use super::keys::name;
use super::value::{Setting, Source};
use super::{
    ConfigError, FollowLinks, Health, ImmutableFiles, SendfileDirectory, StaticFallback, StaticMount, Value,
    ValueError, fs, paths, read,
};

const URL: &str = "url";
const DIRECTORY: &str = "directory";
const INDEX: &str = "index";
const FALLBACK: &str = "fallback";
const FOLLOW_LINKS: &str = "follow_links";
const MAX_AGE: &str = "max_age";
const IMMUTABLE: &str = "immutable";
const PRECOMPRESSED: &str = "precompressed";
pub(super) const KEYS: [&str; 8] =
    [URL, DIRECTORY, INDEX, FALLBACK, FOLLOW_LINKS, MAX_AGE, IMMUTABLE, PRECOMPRESSED];

/// Default of `max_age`.
const DEFAULT_MAX_AGE: Duration = Duration::from_mins(1);

/// Returns the mounts in the order of the file. Errors in entries go to `errors`.
pub(super) fn read(setting: &Setting, errors: &mut Vec<ConfigError>) -> Result<Vec<StaticMount>, ValueError> {
    const HINT: &str = "write [[static]], in two pairs of brackets, once for each directory";
    let mut mounts: Vec<StaticMount> = Vec::new();
    for (idx, entry) in entry::entries(setting, HINT)?.iter().enumerate() {
        let mut reader = EntryReader { entry, label: format!("{}[{idx}]", name::STATIC), errors };
        let Some(mount) = mount(&mut reader) else { continue };
        if mounts.iter().any(|earlier| earlier.url == mount.url) {
            let hint = "give each [[static]] a prefix of its own; of nested prefixes the longest applies";
            let url = reader.setting(URL);
            reader.fault(URL, url, ValueError::new("is the url of an earlier [[static]]").with_hint(hint));
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// Warns about a `fallback` that does not exist, and about paths of `[health]` below a prefix: the
/// daemon answers these itself, so a file of the same name is never sent.
pub(super) fn warnings(mounts: &[StaticMount], health: &Health) -> Vec<String> {
    let mut warnings = Vec::new();
    for mount in mounts {
        let StaticMount { url, directory, fallback, .. } = mount;
        if let StaticFallback::File(file) = fallback
            && !directory.join(file).is_file()
        {
            warnings.push(format!(
                "[[static]] url = \"{url}\": fallback = \"{file}\" is not a file in {}: paths without a file are \
                 answered 404 until it is there",
                directory.display()
            ));
        }
        let below = [("health.path", &health.path), ("health.live_path", &health.live_path)];
        for (key, path) in below {
            if let Some(path) = path
                && let Some(file) = path.strip_prefix(url.as_str())
                // Every path is below the prefix "/", so a warning needs a file that is hidden.
                && (url != "/" || directory.join(file).exists())
            {
                warnings.push(format!(
                    "{key} = \"{path}\" is below [[static]] url = \"{url}\": rgun answers the health check, and no file; \
                     choose another path, e.g. \"/-/healthz\""
                ));
            }
        }
    }
    warnings
}

fn mount(reader: &mut EntryReader<'_, '_>) -> Option<StaticMount> {
    reader.refuse_unknown("[[static]]", &KEYS);
    let prefix = reader.key(URL, |setting| prefix(read::text(setting)?));
    let directory = reader.key(DIRECTORY, directory);
    for (key, hint) in [
        (URL, "name the prefix: url = \"/static/\""),
        (DIRECTORY, "name it: directory = \"/srv/mysite/static\""),
    ] {
        if reader.setting(key).is_none() {
            reader.fault(key, None, ValueError::new("is not set").with_hint(hint));
        }
    }
    let index = reader.key(INDEX, index);
    let fallback = reader.key(FALLBACK, fallback);
    let follow_links = reader.key(FOLLOW_LINKS, follow_links);
    let max_age = reader.key(MAX_AGE, max_age);
    let immutable = reader.key(IMMUTABLE, immutable);
    let precompressed = reader.key(PRECOMPRESSED, read::boolean);
    Some(StaticMount {
        url: prefix?,
        directory: directory?,
        index: index.unwrap_or_else(|| vec!["index.html".to_owned()]),
        fallback: fallback.unwrap_or(StaticFallback::NotFound),
        follow_links: follow_links.unwrap_or(FollowLinks::No),
        max_age: max_age.unwrap_or(Some(DEFAULT_MAX_AGE)),
        immutable: immutable.unwrap_or(ImmutableFiles::Hashed),
        precompressed: precompressed.unwrap_or(true),
    })
}

/// Parses the prefix of a mount's paths.
fn prefix(text: &str) -> Result<String, ValueError> {
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        return Err(ValueError::new("is a URL; the prefix of a path is expected")
            .with_hint(format!("write \"{path}\"")));
    }
    if !text.starts_with('/') {
        let rest = text.trim_matches('/');
        let hint = match rest {
            "" => "write \"/\" for all paths".to_owned(),
            rest => format!("write \"/{rest}/\""),
        };
        return Err(ValueError::new("does not begin with \"/\"").with_hint(hint));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*')) {
        return Err(ValueError::new(format!("contains {c:?}, which is not valid in the prefix of a path"))
            .with_hint("write the path as in a URL, percent-encoded, e.g. \"/static/\""));
    }
    if !text.ends_with('/') {
        return Err(ValueError::new("does not end with \"/\"").with_hint(format!("write \"{text}/\"")));
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) || text.contains("//") {
        return Err(ValueError::new("matches no path that a browser sends")
            .with_hint("write it without \".\", \"..\" and empty parts, e.g. \"/static/\""));
    }
    Ok(text.to_owned())
}

fn directory(setting: &Setting) -> Result<PathBuf, ValueError> {
    let path = Path::new(paths::path(setting)?);
    if path.is_relative() {
        return Err(ValueError::new("is not a full path").with_hint("write e.g. \"/srv/mysite/static\""));
    }
    let path = fs::absolute(Path::new("/"), path);
    match paths::readable_directory(path.clone()) {
        Err(error) if error.reason == "does not exist" => {
            // Only the directory of a certificate authority's challenges is surely not Django's.
            let django = if path.ends_with(".well-known/acme-challenge") {
                ""
            } else {
                " (Django fills its STATIC_ROOT with `manage.py collectstatic`)"
            };
            Err(error.with_hint(format!("create it: mkdir -p {}{django}", path.display())))
        }
        Err(error) if error.reason == "is not a directory" => {
            Err(error.with_hint("name the directory that the files are in"))
        }
        result => result,
    }
}

fn index(setting: &Setting) -> Result<Vec<String>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(Vec::new());
    }
    let names = read::strings(setting)?;
    match names.iter().find(|name| !is_file_name(name)) {
        Some(name) => Err(ValueError::new(format!("{name:?} is not the name of a file"))
            .with_hint("write a name without \"/\", e.g. \"index.html\", a list of them, or \"off\"")),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn fallback(setting: &Setting) -> Result<StaticFallback, ValueError> {
    const HINT: &str = "write \"app\", \"404\", or a file below the directory, e.g. \"index.html\"";
    match setting.value {
        Value::Integer(404) => return Ok(StaticFallback::NotFound),
        Value::Integer(_) => return Err(ValueError::new("is not one of the choices").with_hint(HINT)),
        _ => {}
    }
    match read::text(setting)? {
        "app" => Ok(StaticFallback::App),
        "404" => Ok(StaticFallback::NotFound),
        // A name without a dot is a misspelled word, not a page.
        file if file.split('/').all(is_file_name) && file.contains('.') => {
            Ok(StaticFallback::File(file.to_owned()))
        }
        _ => Err(ValueError::new("is neither a choice nor a file below the directory").with_hint(HINT)),
    }
}

fn follow_links(setting: &Setting) -> Result<FollowLinks, ValueError> {
    match &setting.value {
        Value::Boolean(false) => Ok(FollowLinks::No),
        Value::Boolean(true) => Ok(FollowLinks::Yes),
        Value::Text(text) if text == "inside" => Ok(FollowLinks::Inside),
        _ => Err(ValueError::new("is not one of the choices")
            .with_hint("write false, true, or \"inside\" for links whose target is below the directory")),
    }
}

fn immutable(setting: &Setting) -> Result<ImmutableFiles, ValueError> {
    match &setting.value {
        Value::Boolean(false) => Ok(ImmutableFiles::Nothing),
        Value::Boolean(true) => Ok(ImmutableFiles::All),
        Value::Text(text) if text == "hashed" => Ok(ImmutableFiles::Hashed),
        _ => Err(ValueError::new("is not one of the choices")
            .with_hint("write \"hashed\" for names with a hash, true for all files, or false")),
    }
}

/// Reads a time; "off" is `None`. With zero, clients revalidate the file at every use.
fn max_age(setting: &Setting) -> Result<Option<Duration>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(None);
    }
    read::timeout_or_zero(setting, "write \"0s\" to let clients ask every time").map(Some)
}

/// The directories of `app.sendfile_roots`: a list, or a table with the prefixes of
/// `X-Accel-Redirect`.
pub(super) fn sendfile_roots(setting: &Setting) -> Result<Vec<SendfileDirectory>, ValueError> {
    let named =
        |name: &str, error: ValueError| ValueError { reason: format!("{name:?} {}", error.reason), ..error };
    let root = |url: Option<String>, text: &str| {
        let setting = Setting { value: Value::text(text), origin: String::new(), source: Source::File };
        let directory = directory(&setting).map_err(|error| named(text, error))?;
        Ok(SendfileDirectory { url, directory })
    };
    let Value::Table(entries) = &setting.value else {
        return read::strings(setting)?.into_iter().map(|text| root(None, text)).collect();
    };
    let entries = entries.iter().map(|(url, value)| match value {
        Value::Text(text) => root(Some(prefix(url).map_err(|error| named(url, error))?), text),
        other => Err(ValueError::new(format!("{url:?} must be a directory, not {}", other.kind()))
            .with_hint("write { \"/protected/\" = \"/srv/mysite/media\" }")),
    });
    entries.collect()
}
