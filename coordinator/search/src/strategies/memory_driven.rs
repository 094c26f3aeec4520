//! Memory-driven precision: widths by a rule over bytes alone, without any evaluation. The baseline that a search has to
//! beat.
//!
//! All groups start at the first level. While the file is larger than the budget, of all groups that can still be lowered
//! the one with the largest share of the bytes goes a level down; among those whose share is within 0.05 of the largest,
//! the first in the order of the network does. Vectors that have levels are groups like others.
//!
//! Before that, while the working memory is larger than its budget (`max.working_memory`), of all activations and membranes
//! that have levels the group with the largest share of it goes a level down by the same rule: membranes take theirs of the
//! state, and the input of a linear takes its own while that linear is the widest; no other one's width matters then.
//!
//! Source: Rusci, Capotondi and Benini, "Memory-driven mixed low precision quantization for enabling deep network inference
//! on microcontrollers", MLSys 2020 (arXiv 1905.13082), section 4.2. Its other half, to cut activations, sweeps back and
//! forth, because what leaves a layer enters the next one; here an input has a width of its own, outputs are words, and
//! what is kept from token to token takes most, so that one rule does for both halves.

use qslm_common::candidate::Candidate;
use qslm_common::cost::Cost;
use qslm_common::cost::working_memory::{
    input_bytes, linear_bytes, widest_linear_bytes, working_memory_bytes,
};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::{stored_bytes, vector_bytes};
use qslm_common::network::Unit;
use qslm_common::scheme::Membrane;
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
                                 or min_saving, and for activations or membranes max.working_memory.";
    const KEYS: &'static [Key] = &[TIER];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let constraints = &experiment.constraints;
        let mut problems = Vec::new();
        if constraints.max_footprint_bytes.is_none() && constraints.min_saving.is_none() {
            let words = "strategy memory_driven: expected constraints.max_footprint_bytes or min_saving";
            problems.push(Problem::new("constraints", words));
        }
        match ram(experiment) {
            None => problems.extend(combinations::spends_bytes(Self::KIND, experiment)),
            Some(most) => problems.extend(self.does_not_fit(experiment, most)),
        }
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let mut fitted = Fitted::new(experiment, experiment.moving(self.tier));
        if let Some(most) = ram(experiment) {
            fitted.cut_working_memory(most);
        }
        fitted.cut_file(|bytes| experiment.constraints.allow_footprint(&experiment.network, bytes));
        let candidates = [Candidate::float(&experiment.network), fitted.candidate];
        OneShot::start(Self::KIND, candidates.into_iter().collect())
    }

    fn caption(&self) -> String {
        format!("by the memory-driven rule over the {} tier", self.tier.name())
    }
}

impl MemoryDriven {
    /// A problem if the rule ends above the bound on the working memory.
    fn does_not_fit(&self, experiment: &Experiment, most: f64) -> Option<Problem> {
        let mut fitted = Fitted::new(experiment, experiment.moving(self.tier));
        fitted.cut_working_memory(most);
        let least = working_memory_bytes(&experiment.network, &fitted.candidate);
        let words = || {
            format!(
                "constraints.max.working_memory = {most} cannot be met: with activations and membranes at their last \
                 levels it is {least}"
            )
        };
        (least > most).then(|| Problem::new("constraints.max.working_memory", words()))
    }
}

/// Bound on the working memory, if there is one.
fn ram(experiment: &Experiment) -> Option<f64> {
    experiment.constraints.max.get(&Cost::WorkingMemory).copied()
}

/// Candidate that the rule lowers until it fits.
struct Fitted<'a> {
    experiment: &'a Experiment,
    units: Vec<Unit>,
    groups: Vec<Group>,
    levels: Vec<usize>,
    candidate: Candidate,
}

impl<'a> Fitted<'a> {
    /// Every group at its first level.
    fn new(experiment: &'a Experiment, groups: Vec<Group>) -> Self {
        let base = experiment.space.uniform(&experiment.network, 0);
        let levels = vec![0; groups.len()];
        let candidate = combinations::placed(experiment, &base, &groups, &levels);
        Self { experiment, units: experiment.network.units(), groups, levels, candidate }
    }

    /// Lowers weights and vectors until the file is allowed, or all are at their last level.
    fn cut_file(&mut self, is_allowed: impl Fn(u64) -> bool) {
        loop {
            let bytes = self.experiment.footprint(&self.candidate);
            if is_allowed(bytes) || !self.cut(bytes as f64, Self::file_bytes) {
                return;
            }
        }
    }

    /// Lowers activations and membranes until the working memory is small enough, or nothing makes it smaller.
    fn cut_working_memory(&mut self, most: f64) {
        loop {
            let bytes = working_memory_bytes(&self.experiment.network, &self.candidate);
            let widest = widest_linear_bytes(&self.experiment.network, &self.candidate);
            if bytes <= most || !self.cut(bytes, |fitted, group| fitted.ram_bytes(group, widest)) {
                return;
            }
        }
    }

    /// Lowers the group with the largest share of `total`; the first of those that are about as large. Those without bytes
    /// do not count. False if there is none.
    fn cut(&mut self, total: f64, bytes: impl Fn(&Self, &Group) -> f64) -> bool {
        let share = |at: usize| bytes(self, &self.groups[at]) / total.max(1.0);
        let open: Vec<(usize, f64)> = (0..self.groups.len())
            .filter(|at| self.levels[*at] + 1 < self.groups[*at].levels)
            .map(|at| (at, share(at)))
            .filter(|(_, share)| *share > 0.0)
            .collect();
        let largest = open.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let Some((at, _)) = open.into_iter().find(|(_, share)| *share >= largest - TIE) else { return false };
        self.levels[at] += 1;
        let candidate = self.candidate.clone();
        self.candidate = self.experiment.space.place(candidate, &self.groups[at], self.levels[at]);
        true
    }

    /// Members of a group that are matrices.
    fn members(&self, group: &Group) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(|unit| group.members.contains(&unit.name))
    }

    /// Bytes of a group in the file.
    fn file_bytes(&self, group: &Group) -> f64 {
        let (network, coded) = (&self.experiment.network, &self.experiment.space.coded);
        let stored = |unit: &Unit| stored_bytes(unit, self.candidate.scheme(&unit.name), coded);
        let bytes = match group.axis {
            Axis::Weights => self.members(group).map(stored).sum(),
            Axis::Vectors => vector_bytes(network, &self.candidate),
            Axis::Activations | Axis::Membranes => 0,
        };
        bytes as f64
    }

    /// Bytes of a group in the working memory, where the widest linear takes so many.
    fn ram_bytes(&self, group: &Group, widest: f64) -> f64 {
        match group.axis {
            Axis::Activations => {
                let is_widest = |unit: &&Unit| linear_bytes(unit, &self.candidate) >= widest;
                let inputs = self.members(group).filter(is_widest);
                inputs.map(|unit| input_bytes(unit, &self.candidate)).fold(0.0, f64::max)
            }
            Axis::Membranes => {
                let bits = |name: &String| self.candidate.membrane(name).map_or(32, Membrane::bits);
                let bits: f64 = group.members.iter().map(|name| f64::from(bits(name))).sum();
                bits * f64::from(self.experiment.network.channels) / 8.0
            }
            Axis::Weights | Axis::Vectors => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::scheme::{Symmetry, Width};
    use qslm_common::space::{ActivationSpace, MembraneSpace};
    use qslm_common::trade_off::TradeOff;
    use qslm_testing::{experiment, run};

    use super::*;
    use crate::problems;

    /// The candidate of the rule for the file.
    fn fit(experiment: &Experiment, groups: &[Group], is_allowed: impl Fn(u64) -> bool) -> Candidate {
        let mut fitted = Fitted::new(experiment, groups.to_vec());
        fitted.cut_file(is_allowed);
        fitted.candidate
    }

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

    /// An experiment with membranes of 8, 4 and 2 bits and inputs of 8 and 4.
    fn with_ram(most: f64) -> Experiment {
        let mut experiment = bounded(5000);
        experiment.space.membranes = Some(MembraneSpace { bits: vec![8, 4, 2], integer_bits: 1 });
        experiment.space.activations = Some(ActivationSpace {
            bits: [8, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec(),
            symmetry: Symmetry::Affine,
            calibration: None,
        });
        experiment.trade_off = TradeOff::EpsilonConstraint { cost: Cost::WorkingMemory };
        experiment.constraints.max = [(Cost::WorkingMemory, most)].into();
        experiment
    }

    /// Levels of the membranes, in their order, and inputs that are narrower than the others.
    fn inner(experiment: &Experiment, most: f64) -> (Vec<u8>, Vec<String>) {
        let mut fitted = Fitted::new(experiment, experiment.moving(Tier::Matrix));
        fitted.cut_working_memory(most);
        let narrow = fitted.candidate.activations().filter(|(_, activation)| activation.bits.get() == 4);
        let narrow = narrow.map(|(unit, _)| unit.to_owned()).collect();
        (fitted.candidate.membranes().map(|(_, membrane)| membrane.bits()).collect(), narrow)
    }

    #[test]
    fn the_working_memory_is_cut_where_it_is_largest() {
        // Of 16 channels: the state has 640 bytes of floats and 16 for each of 4 populations. The widest linears are ffn.key
        // and the head, 16 bytes in and 64 words out; ffn.value has 64 bytes in and 16 words out.
        let whole = 640.0 + 64.0 + 272.0;
        let experiment = with_ram(whole);
        assert_eq!(problems(&experiment), []);
        assert_eq!(inner(&experiment, whole), (vec![8; 4], vec![]));
        // Populations and inputs of the widest take 16 bytes each, so the first in order goes first: ffn.key of block 0. As
        // long as another linear is as wide, that alone spares nothing.
        let key = |block: u32| format!("blocks.{block}.ffn.key.weight");
        let inputs = vec![key(0), key(1), "head.weight".to_owned()];
        assert_eq!(inner(&experiment, whole - 1.0), (vec![8; 4], inputs.clone()));
        assert_eq!(inner(&experiment, whole - 8.0), (vec![8; 4], inputs.clone()));
        assert_eq!(inner(&experiment, whole - 9.0), (vec![4, 8, 8, 8], inputs.clone()));
        // The same rule goes on where shares are about equal: the first again.
        assert_eq!(inner(&experiment, whole - 17.0), (vec![2, 8, 8, 8], inputs.clone()));
        assert_eq!(inner(&experiment, 0.0), (vec![2; 4], inputs));
    }

    #[test]
    fn both_memories_are_fitted_on_their_own() {
        let experiment = with_ram(950.0);
        let (archive, _) = run(&experiment, |_| false);
        let float = Candidate::float(&experiment.network).id();
        let (_, entry) = archive.iter().find(|(id, _)| **id != float).unwrap();
        assert!(entry.footprint_bytes <= 5000);
        assert!(entry.measured().cost(Cost::WorkingMemory).unwrap() <= 950.0);
    }

    #[test]
    fn a_working_memory_that_cannot_be_is_refused_and_without_a_bound_its_axes_are() {
        let words = |experiment: &Experiment| -> Vec<String> {
            problems(experiment).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            words(&with_ram(919.0)),
            [
                "constraints.max.working_memory = 919 cannot be met: with activations and membranes at their last levels \
              it is 920"
            ]
        );
        assert_eq!(words(&with_ram(920.0)), [""; 0]);
        let mut unbounded = with_ram(920.0);
        unbounded.constraints.max = Default::default();
        assert!(
            words(&unbounded)[0].starts_with("strategy memory_driven spends bytes"),
            "{:?}",
            words(&unbounded)
        );
    }
}
