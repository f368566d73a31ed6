//! Decides whether a new generation fails clearly more requests than the previous one.
//!
//! The decision is a test of two proportions with a pooled variance. A difference of three standard
//! errors occurs by chance once in 740 tests; since a watch makes many tests, the difference must
//! also exceed an absolute threshold.

use super::ResponseStats;

/// Returns the failure rates as text if `new` is clearly worse than `old`, else `None`.
///
/// Needs [`MIN_RESPONSES`] of both; with fewer of `old`, `new` is worse if all of its responses have
/// failed, and not all of `old`. A crash loop counts too: the requests of its workers have failed.
pub(super) fn clearly_worse(old: ResponseStats, new: ResponseStats) -> Option<String> {
    if new.answered < MIN_RESPONSES {
        return None;
    }
    if old.answered < MIN_RESPONSES {
        let is_worse = new.failed >= new.answered && (old.answered == 0 || old.failed < old.answered);
        return is_worse.then(|| {
            format!("all {} responses failed, {} of {} before", new.answered, old.failed, old.answered)
        });
    }
    let (old_rate, new_rate) = (failure_rate(old), failure_rate(new));
    let n_failed = to_f64(old.failed) + to_f64(new.failed);
    let pooled = (n_failed / (to_f64(old.answered) + to_f64(new.answered))).min(1.0);
    let variance = pooled * (1.0 - pooled) * (1.0 / to_f64(old.answered) + 1.0 / to_f64(new.answered));
    let is_clear = new_rate - old_rate >= MIN_STANDARD_ERRORS * variance.sqrt();
    let matters = new_rate - old_rate >= MIN_RATE_INCREASE;
    (is_clear && matters).then(|| {
        format!(
            "{:.1} % of {} responses failed, {:.1} % of {} before",
            100.0 * new_rate,
            new.answered,
            100.0 * old_rate,
            old.answered
        )
    })
}

fn failure_rate(stats: ResponseStats) -> f64 {
    (to_f64(stats.failed) / to_f64(stats.answered)).min(1.0)
}

/// Converts a count, capped at `u32::MAX`.
fn to_f64(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The number of responses of each generation that a decision needs.
const MIN_RESPONSES: u64 = 20;
/// The smallest difference of the rates, in standard errors, that does not count as chance.
const MIN_STANDARD_ERRORS: f64 = 3.0;
/// The smallest difference of the rates that matters: two requests in a hundred.
const MIN_RATE_INCREASE: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(failed: u64, answered: u64) -> ResponseStats {
        ResponseStats { answered, failed }
    }

    #[test]
    fn a_significantly_higher_failure_rate_is_worse() {
        for (old, new) in [
            (stats(0, 1000), stats(20, 20)),
            (stats(0, 1000), stats(5, 20)),
            (stats(10, 1000), stats(60, 1000)),
            (stats(500, 1000), stats(900, 1000)),
            (stats(0, 20), stats(20, 20)),
            (stats(0, 19), stats(1000, 1000)),
            (stats(0, 0), stats(20, 20)),
        ] {
            assert!(clearly_worse(old, new).is_some(), "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_small_or_random_difference_is_not_worse() {
        for (old, new) in [
            (stats(0, 1000), stats(19, 19)),
            (stats(0, 19), stats(999, 1000)),
            (stats(3, 3), stats(1000, 1000)),
            (stats(0, 0), stats(0, 0)),
            (stats(10, 1000), stats(1, 20)),
            (stats(0, 100_000), stats(1900, 100_000)),
            (stats(50, 1000), stats(50, 1000)),
            (stats(100, 1000), stats(0, 1000)),
            (stats(1000, 1000), stats(1000, 1000)),
            (stats(0, 1000), stats(0, 1000)),
        ] {
            assert_eq!(clearly_worse(old, new), None, "{old:?} {new:?}");
        }
    }

    #[test]
    fn the_message_has_both_rates() {
        let why = clearly_worse(stats(3, 1000), stats(50, 400));
        assert_eq!(why.as_deref(), Some("12.5 % of 400 responses failed, 0.3 % of 1000 before"));
    }

    #[test]
    fn impossible_counts_do_not_panic() {
        assert_eq!(clearly_worse(stats(0, u64::MAX), stats(0, u64::MAX)), None);
        assert!(clearly_worse(stats(0, 100), stats(u64::MAX, 100)).is_some());
    }
}
