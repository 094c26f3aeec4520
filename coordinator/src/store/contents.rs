//! All that a store knows, as one value, and how two of them are joined.
//!
//! Joining is a union of sets: commutative, associative and idempotent, so the results of separate clusters can be
//! brought together in any order and any number of times. Measurements are deterministic; where two stores hold different
//! counts for the same trial, something is wrong with one of them, and both are kept and shown.

use std::collections::BTreeMap;

use qslm_common::evidence::{Engines, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::task::Shard;

use super::record::ExperimentRecord;

/// What a store knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// Experiments by id.
    pub experiments: BTreeMap<String, ExperimentRecord>,
    /// The counts of measured trials.
    pub measurements: BTreeMap<ContentHash, Variants>,
    /// The counts of settled shards of trials that are still open.
    pub shards: BTreeMap<(ContentHash, Shard), Variants>,
    /// What the engines are that counted.
    pub engines: BTreeMap<Fingerprint, String>,
    /// Why trials failed for good, by experiment and trial.
    pub failures: BTreeMap<(String, ContentHash), String>,
    /// Why trials failed that were opened again since, the first failure first.
    pub retried: BTreeMap<(String, ContentHash), Vec<String>>,
    /// How far experiments were, as written, by experiment and milliseconds since 1970.
    pub timeline: BTreeMap<(String, u64), Vec<u8>>,
    /// What other tools found, as written, by experiment and source.
    pub comparisons: BTreeMap<(String, String), Vec<u8>>,
}

/// Counts, each with the engines that gave them; more than one if stores disagree.
pub type Variants = BTreeMap<Counts, Engines>;

/// Adds counts to others, and engines to those that gave the same.
pub(super) fn add(variants: &mut Variants, more: impl IntoIterator<Item = (Counts, Engines)>) {
    for (counts, engines) in more {
        variants.entry(counts).or_default().extend(engines);
    }
}

impl Contents {
    /// Adds what `other` knows.
    pub fn join(&mut self, other: Self) {
        for (id, theirs) in other.experiments {
            match self.experiments.get_mut(&id) {
                None => drop(self.experiments.insert(id, theirs)),
                Some(ours) => {
                    ours.order = ours.order.min(theirs.order);
                    ours.shards = ours.shards.max(theirs.shards);
                    // Cancelled in one place, wanted in another.
                    ours.cancelled &= theirs.cancelled;
                    ours.paused &= theirs.paused;
                    // A hint, which the next start checks.
                    ours.finished &= theirs.finished;
                    ours.priority = ours.priority.max(theirs.priority);
                }
            }
        }
        for (trial, theirs) in other.measurements {
            add(self.measurements.entry(trial).or_default(), theirs);
        }
        for (shard, theirs) in other.shards {
            add(self.shards.entry(shard).or_default(), theirs);
        }
        for (engine, theirs) in other.engines {
            let ours = self.engines.entry(engine).or_insert_with(|| theirs.clone());
            *ours = theirs.min(std::mem::take(ours));
        }
        for (failure, theirs) in other.failures {
            let ours = self.failures.entry(failure).or_insert_with(|| theirs.clone());
            *ours = theirs.min(std::mem::take(ours));
        }
        for (at, theirs) in other.timeline {
            let ours = self.timeline.entry(at).or_default();
            *ours = theirs.max(std::mem::take(ours));
        }
        for (at, theirs) in other.comparisons {
            let ours = self.comparisons.entry(at).or_default();
            *ours = theirs.max(std::mem::take(ours));
        }
        // A trial that was measured anywhere is neither open nor failed.
        self.shards.retain(|(trial, _), _| !self.measurements.contains_key(trial));
        self.failures.retain(|(_, trial), _| !self.measurements.contains_key(trial));
    }

    /// Trials (or shards of open ones) with more than one set of counts on record.
    pub fn conflicts(&self) -> Vec<(ContentHash, &Variants)> {
        let whole = self.measurements.iter().map(|(trial, counts)| (*trial, counts));
        let parts = self.shards.iter().map(|((trial, _), counts)| (*trial, counts));
        whole.chain(parts).filter(|(_, counts)| counts.len() > 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::experiment::Strategy as Search;
    use qslm_common::measurement::Nll;

    use super::*;
    use crate::search::testing::experiment;

    fn counts() -> impl Strategy<Value = Variants> {
        let one = (0u64..3).prop_map(|nll| Counts { nll: Nll(nll), tokens: 1, ..Counts::zero(2) });
        let engines = prop::collection::btree_set((0u64..3).prop_map(Fingerprint), 0..3);
        prop::collection::btree_map(one, engines, 1..2)
    }

    fn trial() -> impl Strategy<Value = ContentHash> {
        (0u8..4).prop_map(|number| ContentHash::of(&[number]))
    }

    /// Few names, so that stores overlap and disagree.
    fn contents() -> impl Strategy<Value = Contents> {
        let flags = (any::<bool>(), any::<bool>(), -1i32..2);
        let record = (0u64..3, 1u32..4, flags).prop_map(|(order, shards, (cancelled, paused, priority))| {
            let experiment = experiment(Search::Qslm { sensitivity_bits: None, sensitivity_sequences: None });
            let record = ExperimentRecord::new(order, shards, priority, experiment);
            ExperimentRecord { cancelled, paused, finished: paused ^ cancelled, ..record }
        });
        let shard = (trial(), 0u32..2).prop_map(|(trial, index)| (trial, Shard { index, of: 2 }));
        (
            prop::collection::btree_map("[ab]", record, 0..3),
            prop::collection::btree_map(trial(), counts(), 0..4),
            prop::collection::btree_map(shard, counts(), 0..4),
            prop::collection::btree_map(("[ab]", trial()), "[xy]", 0..4),
            prop::collection::btree_map(("[ab]", 0u64..3), prop::collection::vec(1u8..4, 1..3), 0..4),
            prop::collection::btree_map(("[ab]", "[xy]"), prop::collection::vec(1u8..4, 1..3), 0..4),
            prop::collection::btree_map((0u64..3).prop_map(Fingerprint), "[ab]", 0..3),
        )
            .prop_map(
                |(experiments, measurements, shards, failures, timeline, comparisons, engines)| {
                    let mut contents = Contents::default();
                    let all = Contents {
                        retried: BTreeMap::new(),
                        experiments,
                        measurements,
                        shards,
                        failures,
                        timeline,
                        comparisons,
                        engines,
                    };
                    contents.join(all);
                    contents
                },
            )
    }

    fn joined(parts: &[&Contents]) -> Contents {
        let mut all = Contents::default();
        parts.iter().for_each(|part| all.join((*part).clone()));
        all
    }

    proptest! {
        #[test]
        fn the_order_of_joining_leaves_no_trace(a in contents(), b in contents(), c in contents()) {
            prop_assert_eq!(joined(&[&a, &b]), joined(&[&b, &a]));
            prop_assert_eq!(joined(&[&joined(&[&a, &b]), &c]), joined(&[&a, &joined(&[&b, &c])]));
        }

        #[test]
        fn joining_again_changes_nothing(a in contents(), b in contents()) {
            let both = joined(&[&a, &b]);
            prop_assert_eq!(&joined(&[&both, &a]), &both);
            prop_assert_eq!(&joined(&[&both, &both]), &both);
        }

        #[test]
        fn nothing_that_was_measured_is_lost_and_no_conflict_is_hidden(a in contents(), b in contents()) {
            let both = joined(&[&a, &b]);
            for (trial, counts) in a.measurements.iter().chain(&b.measurements) {
                for (counts, engines) in counts {
                    prop_assert!(both.measurements[trial][counts].is_superset(engines));
                }
            }
            let differ = |(trial, counts): (&ContentHash, &Variants)| {
                b.measurements.get(trial).is_some_and(|other| !other.keys().eq(counts.keys()))
            };
            let expected = a.measurements.iter().filter(|pair| differ(*pair)).count();
            let whole = both.measurements.values().filter(|counts| counts.len() > 1).count();
            prop_assert_eq!(whole, expected);
            prop_assert!(both.conflicts().len() >= expected);
        }
    }
}
