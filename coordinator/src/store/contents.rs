//! Contents of a store as one value, and how two of them are joined.
//!
//! Joining is a union of sets: commutative, associative and idempotent, so the results of separate clusters can be
//! brought together in any order and any number of times. Measurements are deterministic; where two stores hold different
//! counts for the same trial, something is wrong with one of them, and both are kept and shown.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::evidence::{Backing, Engines, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use qslm_common::measurement::Counts;
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;

use super::record::ExperimentRecord;
use super::tables::KEPT_EVENTS;

/// Everything in a store. [`Self::shards`] are of open trials, [`Self::shard_results`] of measured ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// Experiments by id.
    pub experiments: BTreeMap<String, ExperimentRecord>,
    /// The counts of measured trials.
    pub measurements: BTreeMap<TrialKey, Variants>,
    /// The counts of settled shards of trials that are still open.
    pub shards: BTreeMap<(TrialKey, Shard), Variants>,
    /// Shard results that were kept although their trials were measured: what others race against.
    pub shard_results: BTreeMap<(TrialKey, Shard), Variants>,
    /// Canonical texts of the jobs that were asked for.
    pub jobs: BTreeMap<JobKey, String>,
    /// Artifacts that jobs made.
    pub made: BTreeMap<JobKey, MadeVariants>,
    /// Artifacts that jobs gave experiments, by experiment and job.
    pub bindings: BTreeMap<(String, JobKey), ContentHash>,
    /// Descriptions of the engines that counted or made.
    pub engines: BTreeMap<Fingerprint, String>,
    /// Reasons of final failures, by experiment and trial; a job's key stands here as a trial's, too.
    pub failures: BTreeMap<(String, TrialKey), String>,
    /// Reasons of failures that were opened again since, the first failure first.
    pub retried: BTreeMap<(String, TrialKey), Vec<String>>,
    /// Generations that experiments were told, as written, by experiment and number.
    pub tells: BTreeMap<(String, u64), Vec<u8>>,
    /// Candidates that somebody outside told to prune, with their experiments.
    pub prunes: BTreeSet<(String, CandidateId)>,
    /// Progress of experiments, as written, by experiment and milliseconds since 1970.
    pub timeline: BTreeMap<(String, u64), Vec<u8>>,
    /// Points of other tools, as written, by experiment and source.
    pub comparisons: BTreeMap<(String, String), Vec<u8>>,
    /// The last events: when, to which experiment, and what.
    pub events: BTreeSet<(u64, String, String)>,
}

/// Counts, each with its backing; more than one if stores disagree.
pub type Variants = BTreeMap<Counts, Backing>;

/// Artifacts of one job, each with the engines that made it; more than one if stores disagree.
pub type MadeVariants = BTreeMap<ContentHash, Engines>;

/// Adds results to others, and what is known of them to those that are the same.
pub(super) fn add(variants: &mut Variants, more: impl IntoIterator<Item = (Counts, Backing)>) {
    for (counts, backing) in more {
        variants.entry(counts).or_default().join(backing);
    }
}

impl Contents {
    /// The map to which the counts of a trial's shards belong.
    pub(super) fn shards_of(&mut self, trial: &TrialKey) -> &mut BTreeMap<(TrialKey, Shard), Variants> {
        if self.measurements.contains_key(trial) { &mut self.shard_results } else { &mut self.shards }
    }

    /// Adds what `other` knows.
    pub fn join(&mut self, other: Self) {
        // Every field by name, so that the next one is not forgotten.
        let Self {
            experiments,
            measurements,
            shards,
            shard_results,
            jobs,
            made,
            bindings,
            engines,
            failures,
            retried,
            tells,
            prunes,
            timeline,
            comparisons,
            events,
        } = other;
        for (id, theirs) in experiments {
            match self.experiments.get_mut(&id) {
                None => drop(self.experiments.insert(id, theirs)),
                Some(ours) => ours.join(theirs),
            }
        }
        for (trial, theirs) in measurements {
            add(self.measurements.entry(trial).or_default(), theirs);
        }
        for (shard, theirs) in shards {
            add(self.shards.entry(shard).or_default(), theirs);
        }
        for (shard, theirs) in shard_results {
            add(self.shard_results.entry(shard).or_default(), theirs);
        }
        self.jobs.extend(jobs);
        for (job, theirs) in made {
            let ours = self.made.entry(job).or_default();
            for (artifact, engines) in theirs {
                ours.entry(artifact).or_default().extend(engines);
            }
        }
        // The smaller hash, as for whoever asks what the job made.
        for (at, theirs) in bindings {
            let ours = self.bindings.entry(at).or_insert(theirs);
            *ours = theirs.min(*ours);
        }
        for (engine, theirs) in engines {
            let ours = self.engines.entry(engine).or_insert_with(|| theirs.clone());
            *ours = theirs.min(std::mem::take(ours));
        }
        self.join_failures(failures, retried);
        // Where two stores were told different things under one number, one of them counts, always the same.
        for (at, theirs) in tells {
            let ours = self.tells.entry(at).or_insert_with(|| theirs.clone());
            *ours = theirs.min(std::mem::take(ours));
        }
        self.prunes.extend(prunes);
        for (at, theirs) in timeline {
            let ours = self.timeline.entry(at).or_default();
            *ours = theirs.max(std::mem::take(ours));
        }
        for (at, theirs) in comparisons {
            let ours = self.comparisons.entry(at).or_default();
            *ours = theirs.max(std::mem::take(ours));
        }
        self.events.extend(events);
        while self.events.len() > KEPT_EVENTS {
            self.events.pop_first();
        }
        // A trial that was measured anywhere is neither open nor failed.
        self.shards.retain(|(trial, _), _| !self.measurements.contains_key(trial));
        let made = |key: &TrialKey| self.made.contains_key(&JobKey::from_bytes(*key.as_bytes()));
        self.failures.retain(|(_, trial), _| !self.measurements.contains_key(trial) && !made(trial));
        self.race_against_what_is_kept();
    }

    /// A failure that was opened again in one store is none any more in the other; what failed more often there counts.
    fn join_failures(
        &mut self,
        failures: BTreeMap<(String, TrialKey), String>,
        retried: BTreeMap<(String, TrialKey), Vec<String>>,
    ) {
        let often = |retried: &BTreeMap<(String, TrialKey), Vec<String>>, at: &(String, TrialKey)| {
            retried.get(at).map_or(0, Vec::len)
        };
        for at in retried.keys().filter(|at| often(&retried, at) > often(&self.retried, at)) {
            self.failures.remove(at);
        }
        for (at, theirs) in failures {
            if often(&retried, &at) >= often(&self.retried, &at) {
                let ours = self.failures.entry(at).or_insert_with(|| theirs.clone());
                *ours = theirs.min(std::mem::take(ours));
            }
        }
        for (at, mut theirs) in retried {
            let ours = self.retried.entry(at).or_default();
            let more = theirs.split_off(theirs.len().min(ours.len()));
            ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| *ours = theirs.min(std::mem::take(ours)));
            ours.extend(more);
        }
    }

    /// Lets experiments that race cut their trials as the float model was cut. It is measured once, so where stores cut it
    /// into different numbers of shards and not all of them kept its counts, nothing could be compared otherwise.
    fn race_against_what_is_kept(&mut self) {
        let Self { experiments, shard_results, .. } = self;
        for ExperimentRecord { shards, experiment, .. } in experiments.values_mut() {
            if experiment.racing.is_none() {
                continue;
            }
            let float = experiment.trial(Candidate::float(&experiment.network)).key();
            let whole = (float, Shard { index: 0, of: 0 })..=(float, Shard { index: u32::MAX, of: u32::MAX });
            let mut kept = BTreeMap::<u32, u32>::new();
            for (_, Shard { of, .. }) in shard_results.range(whole).map(|(at, _)| at) {
                *kept.entry(*of).or_default() += 1;
            }
            // The most, as where nothing is kept.
            let complete = kept.into_iter().rev().find(|(of, kept)| of == kept);
            *shards = complete.map_or(*shards, |(of, _)| of);
        }
    }

    /// Experiments that are bound to an artifact of such a job as [`Self::made_differently`] names.
    pub fn bound_to_conflicts(&self) -> BTreeSet<&str> {
        let of_conflict = |job: &JobKey| self.made.get(job).is_some_and(|artifacts| artifacts.len() > 1);
        self.bindings.keys().filter(|(_, job)| of_conflict(job)).map(|(id, _)| id.as_str()).collect()
    }

    /// Jobs with more than one artifact on record. Whoever reads one gets the first, by its hash.
    pub fn made_differently(&self) -> impl Iterator<Item = (JobKey, &MadeVariants)> {
        self.made
            .iter()
            .filter(|(_, artifacts)| artifacts.len() > 1)
            .map(|(job, artifacts)| (*job, artifacts))
    }

    /// Trials (or shards of them) with more than one set of counts on record.
    pub fn conflicts(&self) -> Vec<(TrialKey, &Variants)> {
        let whole = self.measurements.iter().map(|(trial, counts)| (*trial, counts));
        let shards = self.shards.iter().chain(&self.shard_results);
        let shards = shards.map(|((trial, _), counts)| (*trial, counts));
        whole.chain(shards).filter(|(_, counts)| counts.len() > 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::demands::Demands;
    use qslm_common::experiment::Experiment;
    use qslm_common::measurement::Nll;
    use qslm_common::origins::Origins;
    use qslm_common::racing::Racing;
    use qslm_common::spread::Spread;
    use qslm_search::Tiered;

    use super::*;
    use qslm_testing::experiment;

    fn counts() -> impl Strategy<Value = Variants> {
        let one = (0u64..3).prop_map(|nll| Counts { nll: Nll(nll), scored_tokens: 1, ..Counts::zero(2) });
        let engines = prop::collection::btree_set((0u64..3).prop_map(Fingerprint), 0..3);
        let spread = prop::option::of((0u64..3).prop_map(|squares| Spread { sequences: 9, squares }));
        let backing = (engines, spread).prop_map(|(engines, spread)| Backing { engines, spread });
        prop::collection::btree_map(one, backing, 1..2)
    }

    fn candidate() -> impl Strategy<Value = CandidateId> {
        (0u8..3).prop_map(|number| CandidateId::of(&[number]))
    }

    fn job() -> impl Strategy<Value = JobKey> {
        (0u8..3).prop_map(|number| JobKey::of(&[number]))
    }

    fn made() -> impl Strategy<Value = MadeVariants> {
        let artifact = (0u8..3).prop_map(|number| ContentHash::of(&[number]));
        let engines = prop::collection::btree_set((0u64..3).prop_map(Fingerprint), 0..3);
        prop::collection::btree_map(artifact, engines, 1..2)
    }

    fn raced() -> Experiment {
        Experiment { racing: Some(Racing::Confidence(0.95)), ..experiment(Tiered::default()) }
    }

    fn float() -> TrialKey {
        let experiment = raced();
        experiment.trial(Candidate::float(&experiment.network)).key()
    }

    fn trial() -> impl Strategy<Value = TrialKey> {
        prop_oneof![(0u8..4).prop_map(|number| TrialKey::of(&[number])), Just(float())]
    }

    fn shard() -> impl Strategy<Value = (TrialKey, Shard)> {
        (trial(), 0u32..2, 1u32..4).prop_map(|(trial, index, of)| (trial, Shard { index: index % of, of }))
    }

    fn demands() -> impl Strategy<Value = Demands> {
        let labels = prop::collection::btree_map("[ab]", "[xy]", 0..3);
        (prop::collection::btree_set("[ab]", 0..3), 0u64..3, labels)
            .prop_map(|(cpu_features, memory_bytes, labels)| Demands { cpu_features, memory_bytes, labels })
    }

    fn origins() -> impl Strategy<Value = Origins> {
        let origins =
            prop::collection::btree_map((0u8..3).prop_map(|file| ContentHash::of(&[file])), "[ab]", 0..3);
        origins.prop_map(|origins| Origins::new(origins).unwrap())
    }

    /// Every field of a record and of the contents is written out, so that the next one is not forgotten.
    fn record() -> impl Strategy<Value = ExperimentRecord> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (0u64..3, 1u32..4, flags, -1i32..2, demands(), origins()).prop_map(
            |(order, shards, (cancelled, paused, finished), priority, demands, origins)| {
                let experiment = raced();
                ExperimentRecord {
                    order,
                    shards,
                    cancelled,
                    paused,
                    finished,
                    priority,
                    demands,
                    origins,
                    experiment,
                }
            },
        )
    }

    /// Few, or more than are kept.
    fn events() -> impl Strategy<Value = BTreeSet<(u64, String, String)>> {
        let event = |most| (0..most, "[ab]", "[xy]");
        prop_oneof![
            prop::collection::btree_set(event(3u64), 0..3),
            prop::collection::btree_set(event(900u64), KEPT_EVENTS..KEPT_EVENTS + 9),
        ]
    }

    /// Few names, so that stores overlap and disagree.
    fn contents() -> impl Strategy<Value = Contents> {
        (
            prop::collection::btree_map("[ab]", record(), 0..3),
            prop::collection::btree_map(trial(), counts(), 0..4),
            prop::collection::btree_map(shard(), counts(), 0..4),
            prop::collection::btree_map(shard(), counts(), 0..6),
            (
                prop::collection::btree_map(("[ab]", trial()), "[xy]", 0..4),
                prop::collection::btree_map(("[ab]", trial()), prop::collection::vec("[xy]", 1..3), 0..4),
                prop::collection::btree_map(("[ab]", 1u64..4), prop::collection::vec(1u8..4, 1..3), 0..4),
                prop::collection::btree_set(("[ab]", candidate()), 0..3),
            ),
            (
                prop::collection::btree_map(("[ab]", 0u64..3), prop::collection::vec(1u8..4, 1..3), 0..4),
                events(),
            ),
            prop::collection::btree_map(("[ab]", "[xy]"), prop::collection::vec(1u8..4, 1..3), 0..4),
            prop::collection::btree_map((0u64..3).prop_map(Fingerprint), "[ab]", 0..3),
            (
                prop::collection::btree_map(job(), "[ab]", 0..3),
                prop::collection::btree_map(job(), made(), 0..3),
                prop::collection::btree_map(
                    ("[ab]", job()),
                    (0u8..3).prop_map(|n| ContentHash::of(&[n])),
                    0..3,
                ),
            ),
        )
            .prop_map(
                |(
                    experiments,
                    measurements,
                    shards,
                    shard_results,
                    failures,
                    (timeline, events),
                    comparisons,
                    engines,
                    (jobs, made, bindings),
                )| {
                    // One key is one text.
                    let jobs = jobs.into_keys().map(|key| (key, key.to_string())).collect();
                    // One id is one experiment.
                    let named = experiments.into_iter().map(|(id, record): (String, ExperimentRecord)| {
                        let racing = raced().racing.filter(|_| id == "a");
                        let experiment = Experiment { racing, ..record.experiment };
                        (id, ExperimentRecord { experiment, ..record })
                    });
                    let experiments = named.collect();
                    let mut contents = Contents::default();
                    let (failures, retried, tells, prunes) = failures;
                    let mut all = Contents {
                        retried,
                        tells,
                        prunes,
                        experiments,
                        measurements,
                        shards,
                        shard_results,
                        failures,
                        timeline,
                        comparisons,
                        events,
                        engines,
                        jobs,
                        made,
                        bindings,
                    };
                    all.shard_results.retain(|(trial, _), _| all.measurements.contains_key(trial));
                    contents.join(all);
                    contents
                },
            )
    }

    fn joined(stores: &[&Contents]) -> Contents {
        let mut all = Contents::default();
        stores.iter().for_each(|store| all.join((*store).clone()));
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
                for (counts, backing) in counts {
                    let joined = &both.measurements[trial][counts];
                    prop_assert!(joined.engines.is_superset(&backing.engines));
                    prop_assert!(joined.spread.is_some() || backing.spread.is_none());
                }
            }
            for (shard, counts) in a.shard_results.iter().chain(&b.shard_results) {
                prop_assert!(counts.keys().all(|counts| both.shard_results[shard].contains_key(counts)));
            }
            let differ = |(trial, counts): (&TrialKey, &Variants)| {
                b.measurements.get(trial).is_some_and(|other| !other.keys().eq(counts.keys()))
            };
            let expected = a.measurements.iter().filter(|pair| differ(*pair)).count();
            let whole = both.measurements.values().filter(|counts| counts.len() > 1).count();
            prop_assert_eq!(whole, expected);
            prop_assert!(both.conflicts().len() >= expected);
        }
    }

    #[test]
    fn a_race_goes_on_with_what_the_float_model_was_cut_into_wherever_it_was_measured() {
        let store = |shards, kept: u32| {
            let counts = || Variants::from([(Counts::zero(2), Backing::default())]);
            let result = |index| ((float(), Shard { index, of: shards }), counts());
            Contents {
                experiments: [("a".to_owned(), ExperimentRecord::new(0, shards, 0, raced()))].into(),
                measurements: (0..kept.min(1)).map(|_| (float(), counts())).collect(),
                shard_results: (0..kept).map(result).collect(),
                ..Contents::default()
            }
        };
        let shards = |stores: &[&Contents]| joined(stores).experiments["a"].shards;
        let (measured, begun) = (store(4, 4), store(16, 0));
        assert_eq!((shards(&[&measured, &begun]), shards(&[&begun, &measured])), (4, 4));
        let (lossy, both) = (store(16, 15), store(16, 16));
        assert_eq!(shards(&[&lossy, &begun]), 16, "nothing is complete");
        assert_eq!((shards(&[&measured, &lossy]), shards(&[&measured, &both])), (4, 16));
    }
}
