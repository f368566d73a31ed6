//! Reads `[compression]`.

use super::checker::Checker;
use super::keys::{name, nearest};
use super::value::Setting;
use super::{Algorithm, Compression, Value, ValueError, read};

/// Maximum of `compression.min_size`.
const MAX_MIN_SIZE: u64 = 1 << 30;

/// Maximum of `compression.level`.
const MAX_LEVEL: u32 = 9;

const ALGORITHMS: [(&str, Algorithm); 3] =
    [("zstd", Algorithm::Zstd), ("br", Algorithm::Brotli), ("gzip", Algorithm::Gzip)];

/// Reads the section.
pub(super) fn read(checker: &mut Checker<'_>) -> Compression {
    let defaults = Compression::default();
    Compression {
        algorithms: checker.read(name::COMPRESSION_ALGORITHMS, defaults.algorithms, algorithms),
        types: checker.read(name::COMPRESSION_TYPES, defaults.types, types),
        min_size: checker.read(name::COMPRESSION_MIN_SIZE, defaults.min_size, |setting| {
            read::bytes(setting, MAX_MIN_SIZE).map(|size| size as u64)
        }),
        level: checker.read(name::COMPRESSION_LEVEL, defaults.level, |setting| {
            let level = read::whole(setting, 1, MAX_LEVEL);
            level.map(|level| u8::try_from(level).unwrap_or(u8::MAX))
        }),
    }
}

fn algorithms(setting: &Setting) -> Result<Vec<Algorithm>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(Vec::new());
    }
    let mut algorithms = Vec::new();
    for word in read::strings(setting)? {
        let Some((_, algorithm)) = ALGORITHMS.iter().find(|(name, _)| *name == word) else {
            let error = ValueError::new(format!("{word:?} is not one of the choices"));
            return Err(match word {
                "brotli" => error.with_hint("write \"br\", its name in Content-Encoding"),
                "deflate" => error.with_hint("write \"gzip\": clients disagree about what deflate is"),
                word => match nearest(word, ALGORITHMS.map(|(name, _)| name)) {
                    Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                    None => error.with_hint("write some of \"zstd\", \"br\" and \"gzip\", or \"off\""),
                },
            });
        };
        if algorithms.contains(algorithm) {
            return Err(ValueError::new(format!("has {word:?} twice")).with_hint("remove one of them"));
        }
        algorithms.push(*algorithm);
    }
    Ok(algorithms)
}

fn types(setting: &Setting) -> Result<Vec<String>, ValueError> {
    let mut types = Vec::new();
    for word in read::strings(setting)? {
        let error = |reason: &str| {
            let hint = "write e.g. \"text/*\", \"application/json\" or \"application/*+json\"";
            Err(ValueError::new(format!("{word:?} {reason}")).with_hint(hint))
        };
        if word.contains(';') {
            return error("has a parameter; types are compared without them");
        }
        if word.matches('/').count() != 1 || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            return error("is not a media type");
        }
        if word.matches('*').count() > 1 {
            return error("has more than one \"*\"");
        }
        types.push(word.to_ascii_lowercase());
    }
    if types.is_empty() {
        return Err(ValueError::new("is empty").with_hint("leave it out, or write algorithms = \"off\""));
    }
    Ok(types)
}
