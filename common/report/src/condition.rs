//! Condition of an experiment that is under way: what it waits for, if it does.

/// Words for an experiment whose coordinator is gone: its store is read, and nobody works on it.
pub const INTERRUPTED: &str = "interrupted";

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
}
