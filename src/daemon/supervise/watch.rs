//! Whether a new generation is clearly worse than the one before it. Figures in, a verdict out.
//!
//! The test is the one for two proportions with a pooled variance: a difference of three standard errors is chance
//! once in 740 times, and it is made many times in a watch, so the difference has to matter to people as well.

use super::ResponseStats;

/// The figures, for people, if `new` is clearly worse than `old`.
///
/// Without enough answers of both nothing is clear. A crash loop is seen as well: what its workers were asked has
/// failed.
pub(super) fn clearly_worse(old: ResponseStats, new: ResponseStats) -> Option<String> {
    if old.answered < MIN_RESPONSES || new.answered < MIN_RESPONSES {
        return None;
    }
    let (old_rate, new_rate) = (rate(old), rate(new));
    let n_failed = number(old.failed) + number(new.failed);
    let pooled = (n_failed / (number(old.answered) + number(new.answered))).min(1.0);
    let variance = pooled * (1.0 - pooled) * (1.0 / number(old.answered) + 1.0 / number(new.answered));
    let is_clear = new_rate - old_rate >= MIN_STANDARD_ERRORS * variance.sqrt();
    let matters = new_rate - old_rate >= MIN_RATE_INCREASE;
    (is_clear && matters).then(|| {
        format!(
            "{:.1} % of {} answers failed, where it was {:.1} % of {} before",
            100.0 * new_rate,
            new.answered,
            100.0 * old_rate,
            old.answered
        )
    })
}

fn rate(tally: ResponseStats) -> f64 {
    (number(tally.failed) / number(tally.answered)).min(1.0)
}

/// Four thousand million answers are as good as any larger number.
fn number(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Answers of each generation below which nothing is decided.
const MIN_RESPONSES: u64 = 20;
/// Standard errors that are not chance.
const MIN_STANDARD_ERRORS: f64 = 3.0;
/// What people would call worse: two requests in a hundred.
const MIN_RATE_INCREASE: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(failed: u64, answered: u64) -> ResponseStats {
        ResponseStats { answered, failed }
    }

    #[test]
    fn a_generation_that_fails_where_the_old_one_did_not_is_worse() {
        for (old, new) in [
            (tally(0, 1000), tally(20, 20)),
            (tally(0, 1000), tally(5, 20)),
            (tally(10, 1000), tally(60, 1000)),
            (tally(500, 1000), tally(900, 1000)),
            (tally(0, 20), tally(20, 20)),
        ] {
            assert!(clearly_worse(old, new).is_some(), "{old:?} {new:?}");
        }
    }

    #[test]
    fn what_may_be_chance_or_does_not_matter_is_not_worse() {
        for (old, new) in [
            (tally(0, 1000), tally(19, 19)),
            (tally(0, 19), tally(1000, 1000)),
            (tally(0, 0), tally(0, 0)),
            (tally(10, 1000), tally(1, 20)),
            (tally(0, 100_000), tally(1900, 100_000)),
            (tally(50, 1000), tally(50, 1000)),
            (tally(100, 1000), tally(0, 1000)),
            (tally(1000, 1000), tally(1000, 1000)),
            (tally(0, 1000), tally(0, 1000)),
        ] {
            assert_eq!(clearly_worse(old, new), None, "{old:?} {new:?}");
        }
    }

    #[test]
    fn the_figures_are_told() {
        let why = clearly_worse(tally(3, 1000), tally(50, 400));
        assert_eq!(why.as_deref(), Some("12.5 % of 400 answers failed, where it was 0.3 % of 1000 before"));
    }

    #[test]
    fn figures_that_cannot_be_do_not_matter() {
        assert_eq!(clearly_worse(tally(0, u64::MAX), tally(0, u64::MAX)), None);
        assert!(clearly_worse(tally(0, 100), tally(u64::MAX, 100)).is_some());
    }
}
