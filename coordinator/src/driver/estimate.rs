//! Estimate of how much of what a search may still propose it really will, off searches like it that have finished.
//!
//! Bounds are for the worst case, in which no tier spares the next one anything. A search of the same strategy over the
//! same axes of as many units visits about the same share of them.

use qslm_common::experiment::Experiment;
use qslm_common::space::Axis;
use qslm_search::{AnyStrategy, Strategy, Tiered};

/// Share that the tiered search visits beyond its sensitivities: 60 of 220 with the bundled model, text and plain spec.
const TIERED: f64 = 0.27;

/// Likeness: what two searches have in common of which one tells about the other.
#[derive(Debug, Clone, PartialEq)]
struct Likeness {
    strategy: String,
    axes: Vec<Axis>,
    units: usize,
}

/// Share that a finished search visited of what it might have beyond its first stage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Visited {
    like: Likeness,
    share: f64,
}

impl Likeness {
    fn of(experiment: &Experiment) -> Self {
        Self {
            strategy: experiment.strategy.kind().to_owned(),
            axes: experiment.space.axes(),
            units: experiment.network.units().len(),
        }
    }
}

impl Visited {
    /// Share of a finished search with so many candidates beyond those of its first stage; `None` if there is nothing
    /// beyond it.
    pub(super) fn new(experiment: &Experiment, beyond: u64) -> Option<Self> {
        let strategy = AnyStrategy::parse(&experiment.strategy).ok()?;
        let planned: u64 =
            strategy.outline(experiment, 0).iter().skip(1).map(|stage| stage.candidates_at_most).sum();
        let share = (planned > 0).then(|| (beyond as f64 / planned as f64).min(1.0))?;
        Some(Self { like: Likeness::of(experiment), share })
    }
}

/// Share that the search of an experiment will visit of what it may still propose, about: the mean of finished ones like
/// it, or what is usual. `None` where nothing is known.
pub(super) fn share<'a>(experiment: &Experiment, finished: impl Iterator<Item = &'a Visited>) -> Option<f64> {
    let like = Likeness::of(experiment);
    let shares: Vec<f64> =
        finished.filter(|visited| visited.like == like).map(|visited| visited.share).collect();
    let usual = (like.strategy == Tiered::KIND).then_some(TIERED);
    if shares.is_empty() { usual } else { Some(shares.iter().sum::<f64>() / shares.len() as f64) }
}

#[cfg(test)]
mod tests {
    use qslm_common::space::Tier;
    use qslm_testing::experiment;

    use super::*;

    #[test]
    fn a_finished_search_tells_what_share_it_visited() {
        let experiment = experiment(Tiered::default());
        let strategy = AnyStrategy::parse(&experiment.strategy).unwrap();
        let planned: u64 =
            strategy.outline(&experiment, 0).iter().skip(1).map(|stage| stage.candidates_at_most).sum();
        let visited = Visited::new(&experiment, planned / 4).unwrap();
        assert!((visited.share - 0.25).abs() < 0.01, "{visited:?}");
        assert_eq!(Visited::new(&experiment, 2 * planned).unwrap().share, 1.0);
        let mut other = experiment.clone();
        other.network.blocks += 1;
        assert_ne!(Likeness::of(&other), visited.like, "another model tells nothing");
        // What proposes all of it at once has nothing beyond.
        let once = qslm_testing::experiment(qslm_search::Random { tier: Tier::Global, trials: 5, seed: 1 });
        assert_eq!(Visited::new(&once, 5), None);
    }
}
