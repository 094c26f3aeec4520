//! The tiered search of QSLM (arXiv 2601.00679), as MODEL.md section 3 reads it.
//!
//! ```text
//! sensitivity   one unit at a time, the rest float: how much loss each adds
//!     |
//! global        the same width everywhere; keep the smallest that is good enough
//!     |
//! block         per group, least sensitive first: try every narrower width, keep what is good enough
//!     |
//! module        the same for att and ffn of the blocks that did not reach the narrowest width
//!     |
//! matrix        the same for the matrices of the modules that did not
//! ```
//!
//! "Good enough" is the bound on quality. Without one, a change is kept if it improves the trade-off.
//! The selection over everything measured (S4) is [`Archive::chosen`].

use std::collections::{BTreeMap, VecDeque};

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::float_bytes;
use qslm_common::scheme::Width;
use qslm_common::space::{Group, Tier, groups};

use super::{Generation, Search, Step};

/// The search under way.
pub(super) struct Qslm {
    experiment: Experiment,
    /// The rung at which sensitivity is measured.
    probe: usize,
    state: State,
}

/// Which generation is being measured.
enum State {
    Start,
    Sensitivity,
    Global(Sensitivity),
    Lowering(Lowering),
    Finished,
}

/// Added loss of each unit when it alone is quantized, in units of [`qslm_common::measurement::Nll`].
/// A unit that could not be measured counts as the most sensitive.
type Sensitivity = BTreeMap<String, i128>;

/// Below the global tier: groups are lowered one after the other.
struct Lowering {
    sensitivity: Sensitivity,
    tier: Tier,
    /// The best candidate so far, which every next one starts from.
    current: Candidate,
    /// The rung of every unit in `current`; absent for float.
    rungs: BTreeMap<String, usize>,
    /// The group being tried, and its candidates by rung.
    trying: Option<(Group, Vec<(usize, Candidate)>)>,
    /// Groups of this tier that are still to be tried, least sensitive first.
    queue: VecDeque<Group>,
    /// Groups of this tier that did not reach the last rung.
    stuck: Vec<Group>,
}

impl Qslm {
    /// The search at its start. Sensitivity is measured at `sensitivity_bits`, or in the middle of the ladder.
    pub(super) fn new(experiment: Experiment, sensitivity_bits: Option<Width>) -> Self {
        let bits = &experiment.space.bits;
        let given = sensitivity_bits.and_then(|wanted| bits.iter().position(|bits| *bits == wanted));
        let probe = given.unwrap_or(bits.len() / 2);
        Self { experiment, probe, state: State::Start }
    }

    fn sensitivity_generation(&self) -> Generation {
        let (space, network) = (&self.experiment.space, &self.experiment.network);
        let float = Candidate::float(network);
        let moving = self.groups(Tier::Matrix);
        let units = network.units();
        let moves = units.iter().filter(|unit| moving.iter().any(|group| group.name == unit.name));
        let one = |unit: &qslm_common::network::Unit| {
            float.with([unit.name.as_str()], space.scheme(unit, self.probe))
        };
        let mut candidates = vec![float.clone()];
        candidates.extend(moves.map(one));
        Generation { stage: "sensitivity", candidates }
    }

    fn global_generation(&self) -> Generation {
        let uniform = |rung| self.experiment.space.uniform(&self.experiment.network, rung);
        let candidates = (0..self.experiment.space.rungs()).map(uniform).collect();
        Generation { stage: "global", candidates }
    }

    /// Reads the added loss of every unit off the archive.
    fn sensitivity(&self, archive: &Archive) -> Sensitivity {
        let (space, network) = (&self.experiment.space, &self.experiment.network);
        let float = Candidate::float(network);
        let nll = |candidate: &Candidate| archive.get(&candidate.id()).map(|e| i128::from(e.counts.nll.0));
        let added = |unit: &qslm_common::network::Unit| {
            let alone = float.with([unit.name.as_str()], space.scheme(unit, self.probe));
            let added = nll(&alone).zip(nll(&float)).map(|(alone, float)| alone - float);
            // Small enough that a sum over all units does not overflow.
            (unit.name.clone(), added.unwrap_or(i128::from(u64::MAX)))
        };
        network.units().iter().map(added).collect()
    }

    /// Ends the global tier: picks the uniform candidate to go on from, or float if none is good enough.
    fn start_lowering(&self, sensitivity: Sensitivity, archive: &Archive) -> Lowering {
        let network = &self.experiment.network;
        let mut current = (None, Candidate::float(network));
        for (rung, candidate) in self.global_generation().candidates.into_iter().enumerate() {
            if self.improves(&current.1, &candidate, archive) {
                current = (Some(rung), candidate);
            }
        }
        let rungs = current.0.map(|rung| network.units().into_iter().map(move |unit| (unit.name, rung)));
        let mut lowering = Lowering {
            sensitivity,
            tier: Tier::Block,
            current: current.1,
            rungs: rungs.into_iter().flatten().collect(),
            trying: None,
            queue: VecDeque::new(),
            stuck: Vec::new(),
        };
        lowering.queue = lowering.by_sensitivity(self.groups(Tier::Block));
        lowering
    }

    /// Groups of a tier that the space lets move.
    fn groups(&self, tier: Tier) -> Vec<Group> {
        let (space, network) = (&self.experiment.space, &self.experiment.network);
        groups(network, tier).into_iter().filter(|group| space.can_move(network, group)).collect()
    }

    /// Whether `next` is to be kept in place of `current`: smaller and within the bound on quality, or, without
    /// a bound, of a better trade-off. A candidate that failed is never kept.
    fn improves(&self, current: &Candidate, next: &Candidate, archive: &Archive) -> bool {
        let (Some(float), Some(next)) = (archive.float(&self.experiment), archive.get(&next.id())) else {
            return false;
        };
        let Some(current) = archive.get(&current.id()) else { return true };
        if self.experiment.constraints.bounds_quality() {
            let good_enough = self.experiment.constraints.allow_quality(float, &next.counts);
            return good_enough && next.footprint_bytes < current.footprint_bytes;
        }
        let bytes = float_bytes(&self.experiment.network);
        let value = |entry: &Entry| self.experiment.trade_off.value(float, bytes, entry.measured());
        value(next) > value(current)
    }

    /// Settles the group that was tried and proposes the next one's candidates.
    fn lower(&self, mut lowering: Lowering, archive: &Archive) -> (State, Step) {
        if let Some((group, tried)) = lowering.trying.take() {
            self.settle(&mut lowering, group, tried, archive);
        }
        let last = self.experiment.space.rungs() - 1;
        loop {
            while let Some(group) = lowering.queue.pop_front() {
                let tried = self.narrower(&lowering, &group);
                if tried.is_empty() {
                    continue;
                }
                let candidates = tried.iter().map(|(_, candidate)| candidate.clone()).collect();
                let generation = Generation { stage: stage(lowering.tier), candidates };
                lowering.trying = Some((group, tried));
                return (State::Lowering(lowering), Step::Measure(generation));
            }
            let finer = match lowering.tier {
                Tier::Global => Tier::Block,
                Tier::Block => Tier::Module,
                Tier::Module => Tier::Matrix,
                Tier::Matrix => return (State::Finished, Step::Finished),
            };
            let stuck = std::mem::take(&mut lowering.stuck);
            let inside = |group: &Group| {
                // A group that cannot be split was tried already.
                let parent = stuck.iter().find(|parent| parent.units.contains(&group.units[0]));
                parent.is_some_and(|parent| parent.units.len() > group.units.len())
                    && group.units.iter().any(|unit| lowering.rungs.get(unit).is_none_or(|r| *r < last))
            };
            let next = self.groups(finer).into_iter().filter(inside).collect();
            lowering.queue = lowering.by_sensitivity(next);
            lowering.tier = finer;
        }
    }

    /// Keeps the best of what was tried, and notes whether the group could go further.
    fn settle(
        &self,
        lowering: &mut Lowering,
        group: Group,
        tried: Vec<(usize, Candidate)>,
        archive: &Archive,
    ) {
        let last = self.experiment.space.rungs() - 1;
        for (rung, candidate) in tried {
            if self.improves(&lowering.current, &candidate, archive) {
                lowering.rungs.extend(group.units.iter().map(|unit| (unit.clone(), rung)));
                lowering.current = candidate;
            }
        }
        let at_last = |unit: &String| lowering.rungs.get(unit) == Some(&last);
        if !group.units.iter().all(at_last) {
            lowering.stuck.push(group);
        }
    }

    /// The current candidate with the group at every narrower rung.
    fn narrower(&self, lowering: &Lowering, group: &Group) -> Vec<(usize, Candidate)> {
        let (space, network) = (&self.experiment.space, &self.experiment.network);
        // The units of a group below the block tier share a rung, because their parent was moved as one.
        let rung_of = |unit: &String| lowering.rungs.get(unit).map_or(0, |rung| rung + 1);
        let first = group.units.iter().map(rung_of).min().unwrap_or(0);
        let units = network.units();
        let at = |rung| {
            units
                .iter()
                .filter(|unit| group.units.contains(&unit.name))
                .fold(lowering.current.clone(), |candidate, unit| {
                    candidate.with([unit.name.as_str()], space.scheme(unit, rung))
                })
        };
        (first..space.rungs()).map(|rung| (rung, at(rung))).collect()
    }
}

impl Lowering {
    /// Groups by the summed sensitivity of their units, least first; equal ones in the network's order.
    fn by_sensitivity(&self, mut groups: Vec<Group>) -> VecDeque<Group> {
        groups.sort_by_cached_key(|group| {
            group.units.iter().filter_map(|unit| self.sensitivity.get(unit)).sum::<i128>()
        });
        groups.into()
    }
}

fn stage(tier: Tier) -> &'static str {
    match tier {
        Tier::Global => "global",
        Tier::Block => "block",
        Tier::Module => "module",
        Tier::Matrix => "matrix",
    }
}

impl Search for Qslm {
    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start => (State::Sensitivity, Step::Measure(self.sensitivity_generation())),
            // Without the float model there is nothing to compare with.
            State::Sensitivity if archive.float(&self.experiment).is_none() => {
                (State::Finished, Step::Finished)
            }
            State::Sensitivity => {
                (State::Global(self.sensitivity(archive)), Step::Measure(self.global_generation()))
            }
            State::Global(sensitivity) => self.lower(self.start_lowering(sensitivity, archive), archive),
            State::Lowering(lowering) => self.lower(lowering, archive),
            State::Finished => (State::Finished, Step::Finished),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let lower = self.experiment.space.rungs() as u64;
        let below = |tier| self.groups(tier).len() as u64 * lower;
        let (module, matrix) = (below(Tier::Module), below(Tier::Matrix));
        Some(match &self.state {
            State::Start | State::Sensitivity => lower + below(Tier::Block) + module + matrix,
            State::Global(_) => below(Tier::Block) + module + matrix,
            State::Lowering(lowering) => {
                let queued = lowering.queue.len() as u64 * lower;
                queued
                    + match lowering.tier {
                        Tier::Global | Tier::Block => module + matrix,
                        Tier::Module => matrix,
                        Tier::Matrix => 0,
                    }
            }
            State::Finished => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::experiment::Strategy;
    use qslm_common::objective::Constraints;

    use super::super::testing::{experiment, measure, run};
    use super::*;

    fn qslm() -> Experiment {
        experiment(Strategy::Qslm { sensitivity_bits: None })
    }

    #[test]
    fn the_tiers_come_in_the_papers_order() {
        let (_, stages) = run(&qslm(), |_| false);
        let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
        order.dedup();
        assert_eq!(order, ["sensitivity", "global", "block", "module", "matrix"]);
        // The float model and the 15 units that move; the five widths.
        assert_eq!(stages[..2], [("sensitivity", 16), ("global", 5)]);
    }

    #[test]
    fn every_tier_only_makes_the_chosen_candidate_smaller() {
        let experiment = qslm();
        let (archive, _) = run(&experiment, |_| false);
        let bounded = |rung| {
            let uniform = experiment.space.uniform(&experiment.network, rung);
            let entry = archive.get(&uniform.id()).unwrap();
            let float = archive.float(&experiment).unwrap();
            experiment.constraints.allow_quality(float, &entry.counts).then_some(entry.footprint_bytes)
        };
        let best_uniform = (0..5).filter_map(bounded).min().unwrap();
        let smallest = archive.iter().filter(|(_, entry)| {
            experiment.constraints.allow_quality(archive.float(&experiment).unwrap(), &entry.counts)
        });
        let smallest = smallest.map(|(_, entry)| entry.footprint_bytes).min().unwrap();
        assert!(smallest < best_uniform, "{smallest} {best_uniform}");
    }

    #[test]
    fn the_search_comes_close_to_the_exhaustive_optimum() {
        // Small enough for the grid over blocks to be a bound that the finer tiers may beat.
        let chosen = |strategy| {
            let experiment = experiment(strategy);
            let (archive, _) = run(&experiment, |_| false);
            archive.chosen(&experiment).unwrap().1.footprint_bytes
        };
        let grid = chosen(Strategy::Grid { tier: Tier::Block });
        let tiered = chosen(Strategy::Qslm { sensitivity_bits: None });
        assert!(tiered <= grid, "tiered {tiered}, grid over blocks {grid}");
    }

    #[test]
    fn the_path_is_the_same_every_time() {
        let (first, stages) = run(&qslm(), |_| false);
        let (second, again) = run(&qslm(), |_| false);
        assert_eq!((first, stages), (second, again));
    }

    #[test]
    fn without_a_bound_the_trade_off_decides() {
        let experiment = Experiment { constraints: Constraints::default(), ..qslm() };
        let (archive, _) = run(&experiment, |_| false);
        let float = archive.float(&experiment).unwrap();
        let bytes = float_bytes(&experiment.network);
        let value = |entry: &Entry| experiment.trade_off.value(float, bytes, entry.measured());
        let chosen = value(archive.chosen(&experiment).unwrap().1);
        let uniform =
            |rung| value(archive.get(&experiment.space.uniform(&experiment.network, rung).id()).unwrap());
        assert!((0..5).all(|rung| chosen >= uniform(rung)));
    }

    #[test]
    fn a_failed_candidate_is_passed_over() {
        let experiment = qslm();
        let fails = |candidate: &Candidate| candidate.encode().contains("int2:");
        let (archive, _) = run(&experiment, fails);
        let (_, chosen) = archive.chosen(&experiment).unwrap();
        assert!(!fails(&chosen.candidate));
        assert!(chosen.footprint_bytes < float_bytes(&experiment.network) / 4);
    }

    #[test]
    fn a_float_model_that_fails_ends_the_search() {
        let experiment = qslm();
        let float = Candidate::float(&experiment.network);
        let (archive, stages) = run(&experiment, |candidate| *candidate == float);
        assert_eq!(stages.len(), 1);
        assert!(archive.chosen(&experiment).is_none());
    }

    #[test]
    fn the_number_of_candidates_left_is_a_bound() {
        let experiment = qslm();
        let mut search = Qslm::new(experiment.clone(), None);
        let (mut archive, mut bounds, mut sizes) = (Archive::default(), vec![], vec![]);
        while let Step::Measure(generation) = search.next(&archive) {
            bounds.push(search.remaining_at_most().unwrap());
            sizes.push(generation.candidates.len() as u64);
            for candidate in generation.candidates {
                let counts = measure(&candidate);
                archive.insert(&experiment, candidate, counts);
            }
        }
        for (index, bound) in bounds.into_iter().enumerate() {
            let left: u64 = sizes[index + 1..].iter().sum();
            assert!(left <= bound, "after generation {index}: {left} proposed, {bound} announced");
        }
    }
}
