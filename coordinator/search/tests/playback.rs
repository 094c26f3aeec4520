//! One playback, whether results come from evaluations or from a record.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::evidence::Evidence;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::scheme::Scheme;
use qslm_common::space::Tier;
use qslm_common::trial::TrialKey;
use qslm_search::{Fate, Grid, OnRecord, Playback, Tiered};
use qslm_testing::{experiment, measure, run};

type Records = BTreeMap<TrialKey, Evidence>;

/// Plays a search to its end, `records` first; the rest is measured and goes on record, but for what `fails`. Returns the
/// playback and how many trials were measured.
fn play(
    experiment: &Experiment,
    records: &mut Records,
    failed: BTreeSet<TrialKey>,
    fails: &Candidate,
) -> (Playback, usize) {
    let mut playback = Playback::new(experiment.clone(), 4, failed).unwrap();
    let mut measured = 0;
    let is_measured = |records: &Records, key: &TrialKey| Ok::<_, Infallible>(records.contains_key(key));
    while playback.propose(|key| is_measured(records, key)).unwrap() {
        while playback.has_more() || playback.has_more_measured() {
            let ahead = playback.draw(7);
            let drawn = if ahead.is_empty() { playback.draw_measured(5) } else { ahead };
            let look_up = |keys: &[TrialKey]| {
                let of = |key: &TrialKey| match records.get(key) {
                    Some(evidence) => OnRecord::Measured(evidence.clone()),
                    None => OnRecord::Shards(BTreeMap::new()),
                };
                Ok::<_, Infallible>(keys.iter().map(of).collect())
            };
            for drawn in playback.read(drawn, look_up).unwrap() {
                let no_shards = |_: &TrialKey| Ok::<_, Infallible>(BTreeMap::new());
                if let Fate::Open(trial, settled) = playback.file(drawn, no_shards).unwrap() {
                    assert!(settled.is_empty());
                    if trial.trial.candidate == *fails {
                        playback.fail(trial.key);
                        continue;
                    }
                    if records.contains_key(&trial.key) {
                        // Named twice in one chunk.
                        continue;
                    }
                    let evidence = Evidence::from(measure(&trial.trial.candidate));
                    records.insert(trial.key, evidence.clone());
                    playback.measured(&trial, evidence);
                    measured += 1;
                }
            }
        }
    }
    assert!(playback.is_finished() && playback.remaining_at_most() == Some(0));
    (playback, measured)
}

fn nobody(experiment: &Experiment) -> Candidate {
    // Of another space, so no search proposes it.
    experiment.space.uniform(&experiment.network, 0).with_vectors(Scheme::Half)
}

#[test]
fn a_search_that_is_played_back_from_its_record_ends_where_it_ended() {
    let subset = Tiered { sensitivity_sequences: Some(3), ..Tiered::default() };
    for experiment in
        [experiment(Tiered::default()), experiment(subset), experiment(Grid { tier: Tier::Block })]
    {
        let mut records = Records::new();
        let nobody = nobody(&experiment);
        let (live, measured) = play(&experiment, &mut records, BTreeSet::new(), &nobody);
        let front = |archive: &Archive| (archive.len(), FrontDocument::new(&experiment, archive).to_json());
        let expected = front(&run(&experiment, |_| false).0);
        assert_eq!((measured, front(live.archive())), (records.len(), expected.clone()));
        let (again, none) = play(&experiment, &mut records, BTreeSet::new(), &nobody);
        assert_eq!((none, front(again.archive())), (0, expected.clone()));
        // With half a record, the other half is measured.
        let mut half: Records = records.clone().into_iter().step_by(2).collect();
        let known = half.len();
        let (resumed, rest) = play(&experiment, &mut half, BTreeSet::new(), &nobody);
        assert_eq!((front(resumed.archive()), rest), (expected, records.len() - known));
        assert_eq!(half, records);
    }
}

#[test]
fn a_trial_that_failed_before_is_passed_over_until_it_is_opened_again() {
    let experiment = experiment(Tiered::default());
    let fails = experiment.space.uniform(&experiment.network, 3);
    let key = experiment.trial(fails.clone()).key();
    let mut records = Records::new();
    let (failed, _) = play(&experiment, &mut records, BTreeSet::new(), &fails);
    assert!(!records.contains_key(&key) && failed.archive().get(&fails.id()).is_none());
    let (mut again, none) = play(&experiment, &mut records, BTreeSet::from([key]), &nobody(&experiment));
    assert_eq!((none, again.archive()), (0, failed.archive()));
    again.retry(&BTreeSet::from([key]));
    assert_eq!(again.archive(), &Archive::default());
    assert!(!again.is_finished());
}
