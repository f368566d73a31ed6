//! Parses the responses that a client has received (RFC 9112), and panics at a malformed response.

/// Parses the responses to requests with these methods. Returns how many are complete.
///
/// # Panics
/// A response is malformed, or bytes follow that a client would take for another response.
pub(super) fn count_complete(received: &[u8], methods: &[&str]) -> usize {
    let mut rest = received;
    let mut complete = 0;
    for method in methods {
        let Some(response) = Response::next(&mut rest, method) else {
            assert!(rest.is_empty(), "no response: {}", rest.escape_ascii());
            return complete;
        };
        if response.status == 101 {
            // WebSocket frames follow.
            return complete + 1;
        }
        if !response.is_complete {
            return complete;
        }
        complete += 1;
    }
    assert!(rest.is_empty(), "bytes after the last response: {}", rest.escape_ascii());
    complete
}

struct Response {
    status: u16,
    is_complete: bool,
}

impl Response {
    /// Returns the next final response (RFC 9112 §6.3); `None` if its head is incomplete.
    fn next(rest: &mut &[u8], method: &str) -> Option<Self> {
        loop {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                // An incomplete head, or nothing.
                assert!(rest.is_empty() || rest.starts_with(b"HTTP/1."), "{}", rest.escape_ascii());
                *rest = &[];
                return None;
            };
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            *rest = &rest[end + 4..];
            let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
            let status: u16 =
                line.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
            assert!(line.starts_with("HTTP/1.") && line.get(12..13) == Some(" "), "{head}");
            assert!(!line.contains("<none>"), "{head}");
            let fields: Vec<(String, &str)> = fields
                .split("\r\n")
                .filter(|line| !line.is_empty())
                .map(|line| {
                    line.split_once(':').unwrap_or_else(|| panic!("not a field line: {line:?} in {head}"))
                })
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
                .collect();
            assert!(fields.iter().all(|(name, _)| name != "x-evil"), "{head}");
            let values_of = |wanted: &str| -> Vec<&str> {
                fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| *value).collect()
            };
            let (lengths, codings) = (values_of("content-length"), values_of("transfer-encoding").len());
            if (100..200).contains(&status) && status != 101 {
                assert_eq!(lengths.len() + codings, 0, "{head}");
                continue;
            }
            assert!(lengths.len() + codings <= 1, "framed twice: {head}");
            let is_complete = if method == "HEAD" || matches!(status, 101 | 204 | 304) {
                assert!(status != 204 || lengths.is_empty() || lengths == ["0"], "{head}");
                true
            } else if codings == 1 {
                take_chunks(rest)
            } else if let [length] = lengths[..] {
                let digits = length.bytes().all(|byte| byte.is_ascii_digit());
                let length: u64 = length.parse().ok().filter(|_| digits).unwrap_or_else(|| panic!("{head}"));
                let taken = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                *rest = &rest[taken..];
                taken as u64 == length
            } else {
                *rest = &[];
                true
            };
            if !is_complete {
                assert!(rest.is_empty(), "bytes after an incomplete response: {}", rest.escape_ascii());
            }
            return Some(Self { status, is_complete });
        }
    }
}

/// Skips a chunked body (RFC 9112 §7.1). Returns false if it is incomplete.
fn take_chunks(rest: &mut &[u8]) -> bool {
    let line = |rest: &mut &[u8]| {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        *rest = &rest[end + 2..];
        Some(line)
    };
    loop {
        let Some(size) = line(rest) else {
            *rest = &[];
            return false;
        };
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("not a chunk size: {size:?}"));
        if size == 0 {
            // Trailers, and an empty line.
            loop {
                match line(rest) {
                    Some(trailer) if trailer.is_empty() => return true,
                    Some(trailer) => {
                        let name = trailer.split(':').next().unwrap_or_default().to_ascii_lowercase();
                        assert!(name != "content-length" && name != "transfer-encoding", "{trailer}");
                    }
                    None => {
                        *rest = &[];
                        return false;
                    }
                }
            }
        }
        if rest.len() < size + 2 {
            *rest = &[];
            return false;
        }
        assert_eq!(&rest[size..size + 2], b"\r\n", "the end of a chunk");
        *rest = &rest[size + 2..];
    }
}
