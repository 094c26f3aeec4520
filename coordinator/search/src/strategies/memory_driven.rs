//! Memory-driven precision: widths by a rule over bytes alone, without any evaluation. The baseline that a search has to
//! beat.
//!
//! All groups start at the first level. While the file is larger than the budget, of all groups that can still be lowered
//! the one with the largest share of the bytes goes a level down; among those whose share is within 0.05 of the largest,
//! the first in the order of the network does. Vectors that have levels are groups like others.
//!
//! Source: Rusci, Capotondi and Benini, "Memory-driven mixed low precision quantization for enabling deep network inference
//! on microcontrollers", MLSys 2020 (arXiv 1905.13082), section 4.2 (cut weights). Its other half cuts activations until
//! the tensors between two layers fit the working memory; here those are one vector per layer, and take no rule.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::{stored_bytes, vector_bytes};
use qslm_common::network::Unit;
use qslm_common::space::{Axis, Group, Tier};
use serde::{Deserialize, Serialize};

use super::combinations::{self, TIER};
use super::one_shot::OneShot;
use crate::{Key, Problem, Search, Strategy};

/// Widths by the memory-driven rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryDriven {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
}

/// Shares of the bytes that count as equal.
const TIE: f64 = 0.05;

impl Strategy for MemoryDriven {
    const KIND: &'static str = "memory_driven";
    const ABOUT: &'static str = "The rule of Rusci et al.: while the file is too large, the largest part goes a level down. Two \
                                 candidates are measured, the float model and the one that fits; needs max_footprint_bytes \
                                 or min_saving.";
    const KEYS: &'static [Key] = &[TIER];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let constraints = &experiment.constraints;
        let mut problems = Vec::new();
        if constraints.max_footprint_bytes.is_none() && constraints.min_saving.is_none() {
            let words = "strategy memory_driven: expected constraints.max_footprint_bytes or min_saving";
            problems.push(Problem::new("constraints", words));
        }
        problems.extend(combinations::spends_bytes(Self::KIND, experiment));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let fitted = fit(experiment, &experiment.moving(self.tier), |bytes| {
            experiment.constraints.allow_footprint(&experiment.network, bytes)
        });
        OneShot::start(Self::KIND, [Candidate::float(&experiment.network), fitted].into_iter().collect())
    }

    fn caption(&self) -> String {
        format!("by the memory-driven rule over the {} tier", self.tier.name())
    }
}

/// The candidate of the rule: the first that is allowed, or every group at its last level if none is.
fn fit(experiment: &Experiment, groups: &[Group], is_allowed: impl Fn(u64) -> bool) -> Candidate {
    let space = &experiment.space;
    let base = space.uniform(&experiment.network, 0);
    let mut levels = vec![0; groups.len()];
    let mut candidate = combinations::placed(experiment, &base, groups, &levels);
    let units = experiment.network.units();
    loop {
        let total = experiment.footprint(&candidate);
        if is_allowed(total) {
            return candidate;
        }
        let share =
            |at: usize| bytes_of(experiment, &units, &candidate, &groups[at]) as f64 / total.max(1) as f64;
        let open: Vec<(usize, f64)> = (0..groups.len())
            .filter(|at| levels[*at] + 1 < groups[*at].levels)
            .map(|at| (at, share(at)))
            .collect();
        let largest = open.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let Some((at, _)) = open.into_iter().find(|(_, share)| *share >= largest - TIE) else {
            return candidate;
        };
        levels[at] += 1;
        candidate = space.place(candidate, &groups[at], levels[at]);
    }
}

/// Bytes of a group's members in the file of a candidate.
fn bytes_of(experiment: &Experiment, units: &[Unit], candidate: &Candidate, group: &Group) -> u64 {
    let (network, coded) = (&experiment.network, &experiment.space.coded);
    if group.axis == Axis::Vectors {
        return vector_bytes(network, candidate);
    }
    let members = units.iter().filter(|unit| group.members.contains(&unit.name));
    members.map(|unit| stored_bytes(unit, candidate.scheme(&unit.name), coded)).sum()
}

#[cfg(test)]
mod tests {
    use qslm_testing::{experiment, run};

    use super::*;
    use crate::problems;

    fn bounded(bytes: u64) -> Experiment {
        let mut experiment = experiment(MemoryDriven { tier: Tier::Matrix });
        experiment.constraints.max_footprint_bytes = Some(bytes);
        experiment
    }

    #[test]
    fn the_result_fits_or_nothing_smaller_is_there() {
        let experiment = experiment(MemoryDriven { tier: Tier::Matrix });
        let largest = experiment.footprint(&experiment.space.uniform(&experiment.network, 0));
        let smallest = experiment.footprint(&experiment.space.uniform(&experiment.network, 4));
        let groups = experiment.moving(Tier::Matrix);
        let mut last = u64::MAX;
        for budget in (smallest..=largest).rev().step_by(97) {
            let fitted = fit(&experiment, &groups, |bytes| bytes <= budget);
            let bytes = experiment.footprint(&fitted);
            assert!(bytes <= budget, "{bytes} {budget}");
            assert!(bytes <= last, "a smaller budget never takes more");
            last = bytes;
        }
        let beyond = fit(&experiment, &groups, |_| false);
        assert_eq!(experiment.footprint(&beyond), smallest);
    }

    #[test]
    fn the_largest_goes_first_and_of_equal_ones_the_first() {
        let experiment = experiment(MemoryDriven { tier: Tier::Matrix });
        let groups = experiment.moving(Tier::Matrix);
        let largest = experiment.footprint(&experiment.space.uniform(&experiment.network, 0));
        // One byte less than everything at 8 bits takes one step.
        let fitted = fit(&experiment, &groups, |bytes| bytes < largest);
        let lowered: Vec<&str> = fitted
            .schemes()
            .filter(|(_, scheme)| scheme.to_string().starts_with("int6"))
            .map(|(unit, _)| unit)
            .collect();
        let bytes = |unit: &str| {
            let (rows, columns) = experiment.network.shape_of(unit);
            rows * columns
        };
        let most = groups.iter().map(|group| bytes(&group.members[0])).max().unwrap();
        let near = |group: &&Group| (most - bytes(&group.members[0])) as f64 <= TIE * largest as f64;
        assert_eq!(lowered, [groups.iter().find(near).unwrap().members[0].as_str()]);
    }

    #[test]
    fn it_measures_two_candidates_and_needs_a_budget() {
        let experiment = bounded(5000);
        assert_eq!(problems(&experiment), []);
        let (archive, stages) = run(&experiment, |_| false);
        assert_eq!((archive.len(), stages), (2, vec![("memory_driven", 2)]));
        let without = qslm_testing::experiment(MemoryDriven { tier: Tier::Matrix });
        let words: Vec<_> = problems(&without).iter().map(ToString::to_string).collect();
        assert_eq!(words, ["strategy memory_driven: expected constraints.max_footprint_bytes or min_saving"]);
    }
}
