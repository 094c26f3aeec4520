//! Unmet constraints: what comes nearest to each bound where no measured candidate meets them all.
//!
//! Whoever asked for too much wants to know which bound to loosen, and how far. So for every bound this keeps the
//! candidate that meets all other ones and is best by it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::candidate::CandidateId;
use crate::constraints::{Constraints, task_interval, task_loss};
use crate::cost::Cost;
use crate::footprint;
use crate::measurement::Counts;
use crate::network::Network;
use crate::objective::{Measured, quality_loss};
use crate::quality::Quality;
use crate::tasks::TaskName;

/// A bound of the constraints, by the name of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bound {
    /// Largest loss of quality, a fraction; the upper end of its interval where constraints are confident.
    Loss(Quality),
    /// Largest divergence from the float model, in nats per scored token or sentence.
    Kl,
    /// Largest loss of quality on a further task, a fraction; the upper end of its interval where constraints are confident.
    Task(TaskName),
    /// Largest footprint in bytes.
    Footprint,
    /// Smallest saving, a fraction.
    Saving,
    /// Largest value of a cost, in its unit.
    Cost(Cost),
}

/// A name that is no bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no bound of the constraints")]
pub struct UnknownBound(String);

/// A bound with the candidate that is nearest to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unmet {
    /// The bound.
    pub constraint: Bound,
    /// Its limit, in the bound's unit.
    pub limit: f64,
    /// Nearest value among the candidates that meet every other bound; `None` if none does, or it is beyond the largest
    /// number.
    pub nearest: Option<f64>,
    /// Candidate with that value.
    pub candidate: Option<CandidateId>,
}

/// A value with the candidate that has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Nearest {
    value: f64,
    footprint_bytes: u64,
    id: CandidateId,
}

/// For every bound, in the order of [`bounds`], the nearest candidate so far of those that meet all others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NearestToBounds(Vec<Option<Nearest>>);

/// Bounds of the constraints with their limits, in the order of the keys.
pub fn bounds(constraints: &Constraints) -> Vec<(Bound, f64)> {
    let losses =
        Quality::ALL.into_iter().map(|quality| (Bound::Loss(quality), constraints.largest_loss(quality)));
    let bytes = constraints.max_footprint_bytes.map(|bytes| bytes as f64);
    let costs = constraints.max.iter().map(|(cost, most)| (Bound::Cost(*cost), Some(*most)));
    let others =
        [(Bound::Kl, constraints.max_kl), (Bound::Footprint, bytes), (Bound::Saving, constraints.min_saving)];
    let tasks = constraints.tasks.iter().map(|(name, most)| (Bound::Task(*name), Some(*most)));
    let all = losses.chain(others).chain(costs).chain(tasks);
    all.filter_map(|(bound, limit)| Some((bound, limit?))).collect()
}

impl Bound {
    /// Value that is compared with the limit; `None` where it is not known.
    fn value(
        self,
        constraints: &Constraints,
        network: &Network,
        float: &Counts,
        measured: Measured<'_>,
    ) -> Option<f64> {
        match self {
            Self::Loss(_) if constraints.confident => {
                Some(measured.spread?.loss_interval(float, measured.counts)?.1)
            }
            Self::Loss(_) => Some(quality_loss(float, measured.counts)),
            Self::Kl => measured.counts.mean_kl(),
            Self::Task(name) if constraints.confident => {
                task_interval(name, float, measured).map(|(_, high)| high)
            }
            Self::Task(name) => task_loss(name, float, measured.counts),
            Self::Footprint => Some(measured.footprint_bytes as f64),
            Self::Saving => Some(footprint::saving(network, measured.footprint_bytes)),
            Self::Cost(cost) => measured.cost(cost),
        }
    }

    /// True if a value is better than another, or as good.
    fn meets(self, value: f64, limit: f64) -> bool {
        if self == Self::Saving { value >= limit } else { value <= limit }
    }
}

impl NearestToBounds {
    /// Takes a measured candidate that does not meet all bounds for the nearest to the one that it misses, if it is.
    pub fn consider(
        &mut self,
        constraints: &Constraints,
        network: &Network,
        float: &Counts,
        id: CandidateId,
        measured: Measured<'_>,
    ) {
        let bounds = bounds(constraints);
        self.0.resize(bounds.len(), None);
        let values: Vec<Option<f64>> =
            bounds.iter().map(|(bound, _)| bound.value(constraints, network, float, measured)).collect();
        let is_met = |at: usize| values[at].is_some_and(|value| bounds[at].0.meets(value, bounds[at].1));
        for (at, nearest) in self.0.iter_mut().enumerate() {
            let others = (0..bounds.len()).filter(|other| *other != at);
            let Some(value) = values[at].filter(|_| others.into_iter().all(is_met)) else { continue };
            let new = Nearest { value, footprint_bytes: measured.footprint_bytes, id };
            let is_nearer = nearest.is_none_or(|known| new.is_nearer(bounds[at].0, &known));
            if is_nearer {
                *nearest = Some(new);
            }
        }
    }

    /// Every bound with what is nearest to it.
    pub fn unmet(&self, constraints: &Constraints) -> Vec<Unmet> {
        let unmet = |(at, (constraint, limit)): (usize, (Bound, f64))| {
            let nearest = self.0.get(at).copied().flatten();
            Unmet {
                constraint,
                limit,
                nearest: nearest.map(|nearest| nearest.value).filter(|value| value.is_finite()),
                candidate: nearest.map(|nearest| nearest.id),
            }
        };
        bounds(constraints).into_iter().enumerate().map(unmet).collect()
    }
}

impl Nearest {
    /// True if it is nearer to a bound: on equal values the smaller candidate, then the one with the lower id.
    fn is_nearer(&self, bound: Bound, other: &Self) -> bool {
        let by_value = self.value.total_cmp(&other.value);
        let by_value = if bound == Bound::Saving { by_value.reverse() } else { by_value };
        by_value.then(self.footprint_bytes.cmp(&other.footprint_bytes)).then(self.id.cmp(&other.id)).is_lt()
    }
}

/// Beginning of the name of a bound on a further task.
const OF_TASK: &str = "tasks.";

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(quality) => f.write_str(quality.bound_name()),
            Self::Kl => f.write_str("max_kl"),
            Self::Task(name) => write!(f, "{OF_TASK}{name}"),
            Self::Footprint => f.write_str("max_footprint_bytes"),
            Self::Saving => f.write_str("min_saving"),
            Self::Cost(cost) => write!(f, "max.{cost}"),
        }
    }
}

impl FromStr for Bound {
    type Err = UnknownBound;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let losses = Quality::ALL.into_iter().map(Self::Loss);
        let all = losses.chain([Self::Kl, Self::Footprint, Self::Saving]).chain(Cost::all().map(Self::Cost));
        let found = all.into_iter().find(|bound| bound.to_string() == text);
        let task = || text.strip_prefix(OF_TASK).and_then(|name| name.parse().ok()).map(Self::Task);
        let found = found.or_else(task);
        found.ok_or_else(|| UnknownBound(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Bound {
    type Error = UnknownBound;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Bound> for String {
    fn from(bound: Bound) -> Self {
        bound.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::{archive, counts};
    use crate::archive::{Archive, Measurement};
    use crate::experiment::Experiment;
    use crate::experiment::tests::experiment;

    /// The 8, 4 and 2 bits of the archive lose about 0.1, 1 and 170 %; with bounds that none of them meets.
    fn too_tight() -> Experiment {
        let mut experiment = experiment();
        let bytes = |level| experiment.footprint(&experiment.space.uniform(&experiment.network, level));
        let between = u64::midpoint(bytes(1), bytes(2));
        experiment.constraints = Constraints {
            max_perplexity_increase: Some(0.03),
            max_footprint_bytes: Some(between),
            ..Constraints::default()
        };
        experiment
    }

    #[test]
    fn for_each_bound_the_best_of_those_that_meet_the_others_is_named() {
        let experiment = too_tight();
        let archive = archive(&experiment, [300.1, 301.0, 400.0]);
        assert!(archive.chosen().is_none());
        let level = |level| experiment.space.uniform(&experiment.network, level);
        let [loss, footprint] = &archive.unmet(&experiment)[..] else { panic!("two bounds") };
        assert_eq!(loss.constraint, Bound::Loss(Quality::Perplexity));
        assert_eq!((loss.limit, loss.candidate), (0.03, Some(level(2).id())));
        assert!((loss.nearest.unwrap() - 1.0_f64.exp_m1()).abs() < 1e-6, "{loss:?}");
        assert_eq!((footprint.constraint, footprint.candidate), (Bound::Footprint, Some(level(1).id())));
        assert_eq!(footprint.nearest, Some(experiment.footprint(&level(1)) as f64));
    }

    #[test]
    fn the_order_of_arrival_leaves_no_trace_and_a_choice_ends_it() {
        let mut experiment = too_tight();
        let nats = [300.1, 301.0, 400.0];
        let forward = archive(&experiment, nats);
        let backward = |experiment: &Experiment| {
            let mut archive = Archive::default();
            let mut insert = |candidate, nats| {
                let id = crate::candidate::Candidate::id(&candidate);
                let new = Measurement::new(experiment, id, &candidate, counts(nats), None);
                archive.insert_measured(experiment, &candidate, new);
            };
            for level in (0..3).rev() {
                insert(experiment.space.uniform(&experiment.network, level), nats[level]);
            }
            insert(crate::candidate::Candidate::float(&experiment.network), 300.0);
            archive
        };
        assert_eq!(forward.unmet(&experiment), backward(&experiment).unmet(&experiment));
        experiment.constraints.max_footprint_bytes = None;
        for archive in [archive(&experiment, nats), backward(&experiment)] {
            assert!(archive.chosen().is_some() && archive.unmet(&experiment).is_empty());
        }
    }

    #[test]
    fn a_single_bound_is_told_with_the_best_of_all() {
        let mut experiment = experiment();
        experiment.constraints = Constraints { min_saving: Some(0.99), ..Constraints::default() };
        let archive = archive(&experiment, [300.1, 301.0, 400.0]);
        let [saving] = &archive.unmet(&experiment)[..] else { panic!("one bound") };
        assert_eq!(saving.constraint, Bound::Saving);
        assert_eq!(saving.candidate, Some(experiment.space.uniform(&experiment.network, 2).id()));
        assert!(Archive::default().unmet(&experiment).is_empty(), "nothing is measured");
    }

    #[test]
    fn a_bound_is_written_as_the_key_of_the_spec() {
        for (bound, key) in [
            (Bound::Loss(Quality::Accuracy), "max_accuracy_drop"),
            (Bound::Kl, "max_kl"),
            (Bound::Footprint, "max_footprint_bytes"),
            (Bound::Saving, "min_saving"),
            (Bound::Cost(Cost::Energy), "max.energy"),
            (Bound::Task("books".parse().unwrap()), "tasks.books"),
        ] {
            assert_eq!((bound.to_string().as_str(), key.parse()), (key, Ok(bound)));
        }
        assert_eq!(
            "max.joules".parse::<Bound>().unwrap_err().to_string(),
            "\"max.joules\" is no bound of the constraints"
        );
    }
}
