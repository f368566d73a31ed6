//! Media types by a file's extension.

use http::HeaderValue;

use super::path::file_name;

/// The type of a file without a known extension. Browsers save such a file (RFC 2046 §4.5.1).
const UNKNOWN: &str = "application/octet-stream";

/// A media type for `Content-Type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaType {
    /// The type, with a charset if it is text.
    pub(super) value: HeaderValue,
    /// A compressed copy of the file can be smaller.
    pub(super) is_compressible: bool,
}

impl MediaType {
    /// Returns the type of a file by its name.
    pub(super) fn of(path: &[u8]) -> Self {
        let essence = essence(path).unwrap_or(UNKNOWN);
        Self { value: header_value(essence), is_compressible: is_compressible(essence) }
    }
}

/// Returns true if the name has an extension with a known type.
pub(super) fn has_known_extension(path: &[u8]) -> bool {
    essence(path).is_some()
}

fn essence(path: &[u8]) -> Option<&'static str> {
    let name = file_name(path);
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
    let extension = str::from_utf8(name.get(dot + 1..)?).ok()?;
    match extension {
        // The crate's data does not follow RFC 9239 §6.1.3 and RFC 8259 yet.
        "mjs" => Some("text/javascript"),
        "map" => Some("application/json"),
        // A precompressed file that is requested by its own name is sent as a compressed file, not
        // as its content.
        "br" | "zst" => Some(UNKNOWN),
        _ => mime_guess::from_ext(extension).first_raw(),
    }
}

/// Returns the value of `Content-Type`. Text gets the charset UTF-8, except XML, which names its
/// own.
fn header_value(essence: &'static str) -> HeaderValue {
    match essence {
        "text/html" => HeaderValue::from_static("text/html; charset=utf-8"),
        "text/css" => HeaderValue::from_static("text/css; charset=utf-8"),
        "text/javascript" => HeaderValue::from_static("text/javascript; charset=utf-8"),
        "text/plain" => HeaderValue::from_static("text/plain; charset=utf-8"),
        "text/xml" => HeaderValue::from_static("text/xml"),
        text if text.starts_with("text/") => HeaderValue::from_str(&format!("{text}; charset=utf-8"))
            .unwrap_or(HeaderValue::from_static(UNKNOWN)),
        other => HeaderValue::from_static(other),
    }
}

fn is_compressible(essence: &str) -> bool {
    match essence.split_once('/') {
        Some(("image", kind)) => matches!(kind, "svg+xml" | "x-icon" | "bmp" | "vnd.microsoft.icon"),
        Some(("font", kind)) => matches!(kind, "ttf" | "otf" | "sfnt"),
        Some(("audio" | "video", _)) => false,
        Some(("application", kind)) => !matches!(
            kind,
            "zip" | "gzip" | "x-gzip" | "x-7z-compressed" | "x-xz" | "x-bzip2" | "x-rar-compressed" | "pdf"
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_chosen_by_extension_with_a_charset_for_text() {
        for (name, value, is_compressible) in [
            ("a.html", "text/html; charset=utf-8", true),
            ("a/b.css", "text/css; charset=utf-8", true),
            ("a.js", "text/javascript; charset=utf-8", true),
            ("a.mjs", "text/javascript; charset=utf-8", true),
            ("A.CSS", "text/css; charset=utf-8", true),
            ("a.csv", "text/csv; charset=utf-8", true),
            ("a.js.map", "application/json", true),
            ("a.json", "application/json", true),
            ("a.svg", "image/svg+xml", true),
            ("a.png", "image/png", false),
            ("a.avif", "image/avif", false),
            ("a.woff2", "font/woff2", false),
            ("a.wasm", "application/wasm", true),
            ("a.webmanifest", "application/manifest+json", true),
            ("a.mp4", "video/mp4", false),
            ("a.pdf", "application/pdf", false),
            ("a.css.br", UNKNOWN, true),
            ("a", UNKNOWN, true),
            ("a.unknown-extension", UNKNOWN, true),
            ("html", UNKNOWN, true),
            ("a.b/html", UNKNOWN, true),
        ] {
            let found = MediaType::of(name.as_bytes());
            assert_eq!(
                (found.value.to_str().unwrap(), found.is_compressible),
                (value, is_compressible),
                "{name}"
            );
        }
    }

    #[test]
    fn every_known_type_is_a_field_value() {
        for extension in ["xml", "ics", "vcf", "md", "jsx", "php"] {
            assert!(!MediaType::of(format!("a.{extension}").as_bytes()).value.is_empty());
        }
    }
}
