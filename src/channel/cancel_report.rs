//! The text of a [`Report::Warning`](crate::control::Report::Warning) about a cancelled task.
//!
//! An ASGI worker sends this warning when it cancels the task of a request that has failed. The daemon
//! recognises the text. If the request has passed its deadline, the daemon logs the task's stack in the
//! entry of that request.

use crate::frame::ExchangeId;

const BEFORE_ID: &str = "exchange ";
const AFTER_ID: &str = " is cancelled; its task was at:\n";

/// Returns the text.
pub fn encode(exchange: ExchangeId, stack: &str) -> String {
    format!("{BEFORE_ID}{}{AFTER_ID}{stack}", exchange.0)
}

/// Returns the exchange and the stack. `None` for any other warning.
pub fn decode(text: &str) -> Option<(ExchangeId, &str)> {
    let (id, stack) = text.strip_prefix(BEFORE_ID)?.split_once(AFTER_ID)?;
    Some((ExchangeId(id.parse().ok()?), stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_report_survives_a_round_trip() {
        let text = encode(ExchangeId(7), "  File \"a.py\", line 1, in f\n");
        assert_eq!(decode(&text), Some((ExchangeId(7), "  File \"a.py\", line 1, in f\n")));
    }

    #[test]
    fn other_warnings_are_not_cancel_reports() {
        for text in ["a socket is open", "exchange seven is cancelled", "exchange 7 is over"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
