//! Pace of a search, and the time that is left at it.

use std::time::Duration;

use crate::{Sample, worked_ms};

/// Time at work per candidate, by a timeline; `None` before two samples with candidates between them.
pub fn per_candidate(timeline: &[Sample]) -> Option<Duration> {
    let (first, last) = (timeline.first()?, timeline.last()?);
    let candidates = last.measured.checked_sub(first.measured).filter(|candidates| *candidates > 0)?;
    let worked = worked_ms(timeline).last().copied()?;
    Some(Duration::from_secs_f64(worked as f64 / 1000.0 / candidates as f64))
}

/// Time left for the candidates that are still to come, about, where that is known, and at most: `about 25 s left (at most
/// 85 s)`.
pub fn left(pace: Duration, about: Option<u64>, most: u64) -> String {
    let time = |candidates: u64| Duration::from_secs_f64((pace.as_secs_f64() * candidates as f64).min(1e9));
    let most = time(most);
    match about.map(time).filter(|about| about.as_secs() < most.as_secs()) {
        Some(about) => format!("about {} left (at most {})", words(about), words(most)),
        None => format!("at most {} left", words(most)),
    }
}

/// Seconds below two minutes, minutes below two hours, hours below two days, then days.
fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_about_and_at_most() {
        let second = Duration::from_secs(1);
        assert_eq!(left(second, Some(25), 85), "about 25 s left (at most 85 s)");
        assert_eq!(left(second, Some(85), 85), "at most 85 s left");
        assert_eq!(left(second, None, 3_600), "at most 60 min left");
        assert_eq!(left(second, Some(90_000), 400_000), "about 25 h left (at most 4 days)");
        assert_eq!(left(second, None, u64::MAX), "at most 11574 days left");
    }

    #[test]
    fn the_pace_leaves_interruptions_out_and_needs_two_samples() {
        let sample = |unix_ms, measured| Sample {
            unix_ms,
            measured,
            front: 1,
            hypervolume: None,
            tokens_per_second: 0.0,
            best: None,
        };
        let hour = 3_600_000;
        let timeline = [sample(0, 10), sample(2_000, 12), sample(hour, 12), sample(hour + 2_000, 14)];
        assert_eq!(per_candidate(&timeline), Some(Duration::from_secs(1)));
        assert_eq!((per_candidate(&timeline[..1]), per_candidate(&[])), (None, None));
        assert_eq!(per_candidate(&[sample(0, 10), sample(2_000, 10)]), None);
    }
}
