//! Sliding window rate: what was counted lately, over that time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ledger::Moment;

/// Window over which a throughput is averaged.
const WINDOW: Duration = Duration::from_secs(10);

/// Shortest time over which a throughput is averaged: a first report makes no infinite one.
const SHORTEST: Duration = Duration::from_secs(1);

/// Sliding window rate of amounts, with the times at which they were reported.
#[derive(Debug, Default)]
pub(super) struct SlidingRate {
    reports: VecDeque<(Moment, u64)>,
    /// The sum of them.
    total: u64,
}

impl SlidingRate {
    /// Counts something.
    pub(super) fn note(&mut self, now: Moment, amount: u64) {
        self.reports.push_back((now, amount));
        self.total = self.total.saturating_add(amount);
    }

    /// The amount per second.
    pub(super) fn per_second(&mut self, now: Moment) -> f64 {
        while let Some((_, amount)) = self.reports.pop_front_if(|(at, _)| *at + WINDOW < now) {
            self.total = self.total.saturating_sub(amount);
        }
        // Over the time since the oldest report in the window, which is not yet full at the start.
        let oldest = self.reports.front().map_or(now, |(at, _)| *at);
        self.total as f64 / now.since(oldest).max(SHORTEST).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut speed = SlidingRate::default();
        speed.note(Moment(0), 1_000_000);
        speed.note(Moment(20_000), 500);
        speed.note(Moment(21_000), 500);
        assert_eq!(speed.per_second(Moment(22_000)), 500.0);
        assert_eq!(speed.per_second(Moment(40_000)), 0.0);
    }

    #[test]
    fn the_first_report_is_not_taken_for_an_infinite_speed() {
        let mut speed = SlidingRate::default();
        speed.note(Moment(5), 100);
        assert_eq!(speed.per_second(Moment(5)), 100.0);
    }
}
