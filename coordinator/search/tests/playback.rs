//! One playback, whether results come from evaluations or from a record.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::evidence::{Backing, Evidence, Fingerprint};
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput, JobKey};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::scheme::Scheme;
use qslm_common::space::Tier;
use qslm_common::spread::Spread;
use qslm_common::task::Shard;
use qslm_common::tasks::TaskName;
use qslm_common::trial::TrialKey;
use qslm_common::work::WorkKey;
use qslm_search::{
    Allocate, AnyStrategy, Beam, External, Fate, Fit, Grid, OnRecord, Playback, Prediction, Search, Step,
    Surrogate, Tiered,
};
use qslm_testing::{experiment, measure, run, with_task};

type Records = BTreeMap<TrialKey, Evidence>;

/// Plays a search to its end, `records` first; the rest is measured and goes on record, but for what `fails`. Returns the
/// playback and how many trials were measured.
fn play(
    experiment: &Experiment,
    records: &mut Records,
    failed: BTreeSet<WorkKey>,
    fails: &Candidate,
) -> (Playback, usize) {
    play_on(Playback::new(experiment.clone(), 4, failed).unwrap(), records, fails)
}

fn play_on(mut playback: Playback, records: &mut Records, fails: &Candidate) -> (Playback, usize) {
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
fn a_candidate_is_measured_once_it_is_on_every_task_and_one_task_is_enough_to_fail() {
    let experiment = with_task(experiment(Grid { tier: Tier::Global }));
    let mut playback = Playback::new(experiment.clone(), 1, []).unwrap();
    assert!(playback.propose(|_| Ok::<_, Infallible>(false)).unwrap());
    assert_eq!(
        (playback.progress(), playback.candidates(), playback.trials_per_candidate()),
        ((12, 0), 6, 2)
    );
    let nothing = |keys: &[TrialKey]| {
        Ok::<_, Infallible>(keys.iter().map(|_| OnRecord::Shards(BTreeMap::new())).collect())
    };
    let drawn = playback.draw(2);
    assert_eq!(playback.progress(), (12, 4));
    let mut open = Vec::new();
    for drawn in playback.read(drawn, nothing).unwrap() {
        match playback.file(drawn, |_| Ok::<_, Infallible>(BTreeMap::new())).unwrap() {
            Fate::Open(trial, _) => open.push(trial),
            _ => panic!("nothing is known"),
        }
    }
    let protocols: Vec<_> = open.iter().map(|trial| trial.trial.protocol.data.text).collect();
    let (own, more) = (ContentHash::of(b"text"), ContentHash::of(b"more"));
    assert_eq!(protocols, [own, more, own, more]);
    assert_ne!(open[0].key, open[1].key, "results are shared by what was measured");
    // The further task comes first, with engines and a spread of its own.
    let spread = |squares| Some(Spread { sequences: 3, squares });
    let engine = |name: &str| [Fingerprint::of(name)].into();
    let evidence = |nats: f64, name: &str, squares| Evidence {
        counts: Counts { nll: Nll::from_nats(nats).unwrap(), ..measure(&open[0].trial.candidate) },
        backing: Backing { engines: engine(name), spread: spread(squares) },
    };
    assert_eq!(playback.measured(&open[1], evidence(410.0, "b", 7)), None);
    assert!(playback.archive().is_empty());
    let engines = playback.measured(&open[0], evidence(400.0, "a", 5)).unwrap();
    assert_eq!(engines, ["a", "b"].map(Fingerprint::of).into());
    let entry = playback.archive().get(&open[0].candidate).unwrap();
    let name: TaskName = "more".parse().unwrap();
    assert_eq!((entry.counts.nll.nats(), entry.counts.tasks[&name].nll.nats()), (400.0, 410.0));
    assert_eq!((entry.spread, entry.task_spreads.get(&name).copied()), (spread(5), spread(7)));
    playback.fail(open[3].key);
    assert_eq!(playback.measured(&open[2], evidence(400.0, "a", 5)), None);
    assert_eq!(playback.archive().len(), 1);
}

#[test]
fn a_search_that_is_played_back_from_its_record_ends_where_it_ended() {
    let subset = Tiered { sensitivity_sequences: Some(3), ..Tiered::default() };
    let (tier, gate_sequences, gate_loss) = (Tier::Matrix, Some(3), Some(0.05));
    let beam = Beam { tier, width: 3, gate_sequences, gate_loss };
    let (prune, sensitivity_sequences) = (Some(2.0), Some(3));
    let surrogate = Surrogate {
        tier,
        initial: 20,
        iterations: 4,
        batch: 7,
        seed: 1,
        prune,
        sensitivity_sequences,
        warm_start: Vec::new(),
    };
    for experiment in [
        experiment(Tiered::default()),
        experiment(subset),
        experiment(Grid { tier: Tier::Block }),
        experiment(beam),
        experiment(surrogate),
        with_task(experiment(Tiered { sensitivity_sequences: Some(3), ..Tiered::default() })),
        with_task(experiment(Grid { tier: Tier::Block })),
    ] {
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
fn who_tells_candidates_is_shown_the_float_models_shards_off_the_record_with_one_task_or_several() {
    for experiment in [experiment(External {}), with_task(experiment(External {}))] {
        let mut playback = Playback::new(experiment, 2, []).unwrap();
        assert!(playback.propose(|_| Ok::<_, Infallible>(true)).unwrap());
        let counts = measure(&Candidate::float(&playback.experiment().network));
        let measured = |keys: &[TrialKey]| {
            let all = keys.iter().map(|_| OnRecord::Measured(counts.clone().into()));
            Ok::<_, Infallible>(all.collect())
        };
        let shards: BTreeMap<Shard, Evidence> =
            (0..2).map(|index| (Shard { index, of: 2 }, counts.clone().into())).collect();
        let drawn = playback.draw(1);
        for drawn in playback.read(drawn, measured).unwrap() {
            playback.file(drawn, |_| Ok::<_, Infallible>(shards.clone())).unwrap();
        }
        assert_eq!((playback.archive().len(), playback.float_shards().len()), (1, 2));
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
    let (mut again, none) =
        play(&experiment, &mut records, BTreeSet::from([key.into()]), &nobody(&experiment));
    assert_eq!((none, again.archive()), (0, failed.archive()));
    again.retry(&BTreeSet::from([key.into()]));
    assert_eq!(again.archive(), &Archive::default());
    assert!(!again.is_finished());
}

#[test]
fn predicted_losses_come_with_those_that_were_measured() {
    let allocate = Allocate::over(Tier::Module, Fit::Regression);
    let experiment = experiment(allocate);
    let start = Playback::new(experiment.clone(), 4, BTreeSet::new()).unwrap();
    assert_eq!(start.predictions(), []);
    let (played, _) = play_on(start, &mut Records::new(), &nobody(&experiment));
    let float = measure(&Candidate::float(&experiment.network)).nll.nats();
    let predictions = played.predictions();
    assert!(predictions.len() > 6, "{predictions:?}");
    for Prediction { candidate, predicted, measured } in predictions {
        let nats = played.archive().get(&candidate).unwrap().counts.nll.nats();
        assert_eq!(measured, Some(nats / 100.0 - float / 100.0));
        assert!(predicted > 0.0);
    }
    let (grid, _) = play(
        &qslm_testing::experiment(Grid { tier: Tier::Global }),
        &mut Records::new(),
        BTreeSet::new(),
        &nobody(&experiment),
    );
    assert_eq!(grid.predictions(), []);
}

/// The grid, once a job is done that reads what another makes; without their artifacts there is nothing.
struct MakesFirst {
    jobs: Vec<Job>,
    asked: bool,
    grid: Box<dyn Search>,
}

impl Search for MakesFirst {
    fn next(&mut self, archive: &Archive) -> Step {
        if !std::mem::replace(&mut self.asked, true) {
            return Step::Make(self.jobs.clone());
        }
        let made = self.jobs.iter().all(|job| archive.made(&job.key()).is_some());
        if made { self.grid.next(archive) } else { Step::Finished }
    }

    fn remaining_at_most(&self) -> Option<u64> {
        self.grid.remaining_at_most()
    }
}

#[test]
fn a_search_that_asks_for_jobs_goes_on_with_their_artifacts() {
    let experiment = experiment(Grid { tier: Tier::Block });
    let first = Job::new("codes", 10);
    let second = Job::new("codes", 10).input("of", JobInput::Job(first.key()));
    let jobs = [first, second.clone()];
    let keys = jobs.clone().map(|job| job.key());
    let start = move |experiment: &Experiment| -> Box<dyn Search> {
        let grid = AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment);
        Box::new(MakesFirst { jobs: jobs.to_vec(), asked: false, grid })
    };
    let nobody = nobody(&experiment);
    let playback = |failed: &[WorkKey]| {
        Playback::started_by(experiment.clone(), 4, failed.iter().copied(), start.clone()).unwrap()
    };
    let propose = |playback: &mut Playback| playback.propose(|_| Ok::<_, Infallible>(false)).unwrap();
    let mut one = playback(&[]);
    assert!(propose(&mut one) && one.has_jobs());
    assert_eq!((one.stage(), one.progress(), one.jobs()), ("making", (2, 2), 2));
    let taken: Vec<JobKey> = one.take_jobs().iter().map(|job| job.key).collect();
    assert_eq!((taken, one.has_jobs()), (keys.to_vec(), false));
    for key in keys {
        one.made(key, ContentHash::of(key.as_bytes()));
    }
    let mut records = Records::new();
    let (one, measured) = play_on(one, &mut records, &nobody);
    assert_eq!(one.archive().len(), measured);
    let expected = FrontDocument::new(&experiment, &run(&experiment, |_| false).0).to_json();
    assert_eq!(FrontDocument::new(&experiment, one.archive()).to_json(), expected);
    // The first artifact stays.
    let mut again = one;
    again.made(keys[0], ContentHash::of(b"another"));
    assert_eq!(again.archive().made(&keys[0]), Some(ContentHash::of(keys[0].as_bytes())));
    // A job that failed has none.
    let mut failed = playback(&[second.key().into()]);
    assert!(propose(&mut failed));
    for job in failed.take_jobs() {
        match failed.has_failed(job.key) {
            true => assert_eq!(job.key, keys[1]),
            false => failed.made(job.key, ContentHash::of(b"made")),
        }
    }
    assert!(!propose(&mut failed) && failed.is_finished());
    // Opened again, it is asked for again.
    failed.retry(&BTreeSet::from([second.key().into()]));
    assert!(propose(&mut failed) && failed.take_jobs().len() == 2 && !failed.has_failed(second.key()));
}
