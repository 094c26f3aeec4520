//! Moment: a point on the coordinator's clock. Between two of them lies a `Duration`; nothing else adds up.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// Moment: whole milliseconds since the coordinator started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Moment at which the coordinator started.
    pub const START: Self = Self(0);

    /// Moment so long after the start.
    pub fn after_start(time: Duration) -> Self {
        Self(whole_millis(time))
    }

    /// Time since an earlier moment; none, if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(time)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_all_bounds_are_the_end_of_time_and_not_a_panic() {
        let late = Moment(5) + Duration::MAX;
        assert_eq!((late, late + Duration::from_millis(1)), (Moment(u64::MAX), Moment(u64::MAX)));
        assert_eq!(Moment(5).since(late), Duration::ZERO);
        assert_eq!(Moment(7).since(Moment(5)), Duration::from_millis(2));
    }
}
