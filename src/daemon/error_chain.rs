//! Formats an error and its causes on one line: `error: its cause: the cause of the cause`.
//!
//! The `Display` of an error describes its own level; the code that logs it joins the levels with
//! [`Chain`].

use std::error::Error;
use std::fmt;

/// The error and its causes, outermost first, separated by `: `.
///
/// Some libraries print their source themselves: if a level already ends with the rest of the
/// chain, the rest is not repeated.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&joined(self.0))
    }
}

fn joined(error: &(dyn Error + 'static)) -> String {
    let mut levels = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        levels.push(cause.to_string());
        next = cause.source();
    }
    levels.into_iter().rev().fold(String::new(), |rest, level| {
        if rest.is_empty() || level.ends_with(&rest) {
            level
        } else if level.is_empty() {
            rest
        } else {
            format!("{level}: {rest}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct ChainError(&'static str, Option<Box<ChainError>>);

    impl fmt::Display for ChainError {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for ChainError {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    fn chain(levels: &[&'static str]) -> String {
        let error = levels
            .iter()
            .rev()
            .fold(None, |cause, level| Some(Box::new(ChainError(level, cause))))
            .expect("at least one level");
        Chain(error.as_ref()).to_string()
    }

    #[test]
    fn causes_follow_the_error_outermost_first() {
        assert_eq!(
            chain(&["cannot listen", "bind", "address in use"]),
            "cannot listen: bind: address in use"
        );
        assert_eq!(chain(&["alone"]), "alone");
    }

    #[test]
    fn cause_printed_by_the_outer_level_is_not_repeated() {
        assert_eq!(chain(&["read x: no such file", "no such file"]), "read x: no such file");
        assert_eq!(chain(&["a", "b: c", "c"]), "a: b: c");
    }
}
