//! Condition of an experiment that is under way: what it waits for, if it does.

/// Numbers that tell a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Workers that may evaluate it.
    pub suitable_workers: u32,
    /// Shards that wait for a worker.
    pub pending: u32,
    /// Shards that workers have.
    pub leased: u32,
}

/// What a running experiment waits for; `None` while it is worked on.
pub fn of_running(work: Work) -> Option<&'static str> {
    match work {
        Work { suitable_workers: 0, .. } => Some("no worker"),
        // Whoever could take them has shards of experiments with a higher priority, or its share of others.
        Work { leased: 0, pending: 1.., .. } => Some("waiting (others have priority)"),
        _ => None,
    }
}

/// Seconds after which it is told that there is no worker: one may be starting before that.
const TOLD_AFTER: u64 = 60;

/// Sentence about an experiment that has had no worker for some seconds, once that lasts; and about leases that were lost with
/// their workers since its last result.
pub fn without_worker(seconds: u64, vanished_leases: u64) -> Option<String> {
    let minutes = seconds / 60;
    let plural = |number: u64| if number == 1 { "" } else { "s" };
    let lost = match vanished_leases {
        0 => String::new(),
        leases => format!("; {leases} lease{} ran out on workers that vanished", plural(leases)),
    };
    (seconds >= TOLD_AFTER).then(|| format!("no worker for {minutes} minute{}{lost}", plural(minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_that_nobody_works_on_says_what_it_waits_for() {
        let of = |suitable_workers, pending, leased| of_running(Work { suitable_workers, pending, leased });
        assert_eq!(of(0, 5, 0), Some("no worker"));
        assert_eq!(of(0, 0, 0), Some("no worker"));
        assert_eq!(of(2, 5, 0), Some("waiting (others have priority)"));
        assert_eq!((of(2, 5, 1), of(2, 0, 0), of(2, 0, 3)), (None, None, None));
    }

    #[test]
    fn that_there_is_no_worker_is_told_once_it_lasts() {
        let told = |seconds, leases| without_worker(seconds, leases).unwrap_or_default();
        assert_eq!((told(0, 3), told(59, 3)), (String::new(), String::new()));
        assert_eq!(told(60, 0), "no worker for 1 minute");
        assert_eq!(told(185, 1), "no worker for 3 minutes; 1 lease ran out on workers that vanished");
        assert_eq!(told(7200, 12), "no worker for 120 minutes; 12 leases ran out on workers that vanished");
    }
}
