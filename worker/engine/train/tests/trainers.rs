//! Jobs of the trainers of several jobs: the same artifact from the start and from checkpoints, in any order, and refusal of
//! what is none of a run.
#![allow(clippy::unwrap_used)]

mod shared;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::Network;
use qslm_common::recovery::{Optimizer, Recovery, States, Trainer, TrainingPlan, kinds};
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::jobs::{Inputs, Loaded};
use qslm_engine::quant::Codes;
use tempfile::TempDir;

use shared::{made_of, made_with_stops, student};

const SCHEME: &str = "int2:full:channel:f16:trained:least_squares";

fn plan(trainer: Trainer, steps: u32) -> TrainingPlan {
    let plan = TrainingPlan { window: 24, batch: 3, steps, rate: 2e-3, seed: 3, ..TrainingPlan::default() };
    TrainingPlan { trainer, distillation: 0.5, ..plan }
}

fn phases(end_to_end_steps: u32) -> Trainer {
    Trainer::BlockAp { end_to_end_steps, end_to_end_rate: 1e-2 }
}

/// A folder with what jobs made, and the jobs of a plan.
struct Bench {
    folder: TempDir,
    network: Network,
    candidate: Candidate,
    jobs: Vec<Job>,
    /// Files of the inputs of all jobs.
    files: BTreeMap<String, PathBuf>,
    /// What was read of the files that all jobs share.
    loaded: Arc<Loaded>,
}

impl Bench {
    fn new(scheme: &str, vectors: &str, plan: TrainingPlan) -> Self {
        Self::of(shared::files(), scheme, vectors, plan)
    }

    fn of(files: BTreeMap<String, PathBuf>, scheme: &str, vectors: &str, plan: TrainingPlan) -> Self {
        let checkpoint = Inputs::new(files.clone()).checkpoint(true).unwrap();
        let network = *checkpoint.network();
        let hash = |name: &str| ContentHash::of(name.as_bytes());
        let backend = Backend::Native;
        let recovery = Recovery { text: hash("text"), candidates: 1, reach: 2.0, plan, backend };
        let candidate = student(&checkpoint, scheme, vectors);
        let jobs = recovery.jobs(&network, hash("checkpoint"), hash("tokenizer"), &candidate).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { folder, network, candidate, jobs, files, loaded: Arc::default() }
    }

    fn path(&self, job: &Job) -> PathBuf {
        self.folder.path().join(job.key().to_string())
    }

    /// Files of the inputs of a job: those of all, and what others made.
    fn files(&self, job: &Job) -> BTreeMap<String, PathBuf> {
        let mut files = self.files.clone();
        for (name, input) in &job.inputs {
            if let JobInput::Job(key) = input {
                files.insert(name.clone(), self.folder.path().join(key.to_string()));
            }
        }
        files
    }

    fn inputs(&self, job: &Job) -> Inputs {
        Inputs::sharing(self.files(job), self.loaded.clone())
    }

    fn make(&self, job: &Job) -> Vec<u8> {
        let artifact = made_of(job, &self.inputs(job), &()).unwrap();
        assert!(artifact.len() as u64 <= job.largest, "{} bytes of {}", artifact.len(), job.largest);
        std::fs::write(self.path(job), &artifact).unwrap();
        artifact
    }

    /// What the last job makes, if they are all made, those first of which `first` says the most.
    fn make_all(&self, first: impl Fn(&Job) -> u32) -> Vec<u8> {
        let mut left: Vec<&Job> = self.jobs.iter().collect();
        loop {
            let is_ready = |job: &&&Job| {
                let keys = job.waits_for();
                keys.into_iter().all(|key| self.folder.path().join(key.to_string()).exists())
            };
            let next = left.iter().filter(is_ready).max_by_key(|job| first(job)).copied().unwrap();
            let artifact = self.make(next);
            left.retain(|job| job.key() != next.key());
            if left.is_empty() {
                return artifact;
            }
        }
    }

    fn codes(&self, artifact: &[u8]) -> BTreeMap<String, Codes> {
        let file = CodesFile::of(artifact.to_vec()).unwrap();
        let units = self.network.units().into_iter().filter(qslm_common::network::Unit::is_linear);
        let codes = units.map(|unit| {
            let scheme = self.candidate.scheme(&unit.name);
            (unit.name.clone(), file.codes(&unit.name, (unit.rows, unit.columns), scheme).unwrap())
        });
        codes.collect()
    }

    fn vectors(&self, artifact: &[u8]) -> Vec<Vec<f32>> {
        let (file, size) = (CodesFile::of(artifact.to_vec()).unwrap(), self.network.channels as usize);
        let vectors = self.network.vectors().into_iter();
        vectors
            .map(|vector| file.vector_values(&vector.name, size, self.candidate.vectors()).unwrap())
            .collect()
    }
}

#[test]
fn blocks_that_are_killed_twice_go_on_from_their_checkpoint_to_the_same_bytes() {
    let bench = Bench::new(SCHEME, "f16", plan(phases(0), 4));
    let [job] = &bench.jobs[..] else { panic!("one phase") };
    let undisturbed = bench.make(job);
    // Within the first block, and within the third, whose inputs come through the first two.
    let (artifact, left) = made_with_stops(job, &bench.inputs(job), [2, 11]);
    assert_eq!(artifact, undisturbed);
    // What is no checkpoint of it is left alone.
    for broken in [left[..left.len() - 1].to_vec(), left[9..].to_vec(), [left, vec![0; 8]].concat()] {
        let anew = shared::Stopping { after: u64::MAX, left: Some(broken), ..Default::default() };
        assert_eq!(made_of(job, &bench.inputs(job), &anew).unwrap(), undisturbed);
    }
}

#[test]
fn the_second_phase_changes_scales_and_nothing_else() {
    for (scheme, vectors) in [(SCHEME, "f16"), ("int3:affine:group32:f16:trained", "int8:affine:tensor:f16")]
    {
        let bench = Bench::new(scheme, vectors, plan(phases(6), 4));
        let [first, second] = &bench.jobs[..] else { panic!("two phases") };
        assert_eq!((first.kind.as_str(), second.kind.as_str()), (kinds::BLOCK_AP, kinds::E2E_QP));
        let (before, after) = (bench.make(first), bench.make(second));
        assert_eq!(before.len(), after.len());
        assert_eq!(bench.vectors(&before), bench.vectors(&after));
        for ((unit, before), (_, after)) in bench.codes(&before).iter().zip(&bench.codes(&after)) {
            assert_eq!((&before.values, &before.zero_points), (&after.values, &after.zero_points), "{unit}");
            assert_ne!(before.scales, after.scales, "{unit}");
        }
        let (artifact, _) = made_with_stops(second, &bench.inputs(second), [2, 4]);
        assert_eq!(artifact, after);
    }
}

#[test]
fn at_the_least_rate_the_second_phase_is_the_identity() {
    let trainer = Trainer::BlockAp { end_to_end_steps: 2, end_to_end_rate: 1e-9 };
    let bench = Bench::new(SCHEME, "f16", plan(trainer, 2));
    let before = bench.make(&bench.jobs[0]);
    let after = bench.make(&bench.jobs[1]);
    // Scales of 16 bits do not feel it.
    assert_eq!(bench.codes(&before), bench.codes(&after));
    assert_eq!(bench.vectors(&before), bench.vectors(&after));
}

#[test]
fn the_second_phase_takes_codes_of_its_candidate_alone() {
    let bench = Bench::new(SCHEME, "f16", plan(phases(1), 1));
    let other = Bench::new("int3:full:channel:f16:trained", "f16", plan(phases(1), 1));
    bench.make(&bench.jobs[0]);
    std::fs::copy(bench.path(&bench.jobs[0]), other.path(&other.jobs[0])).unwrap();
    let refused = |job: &Job| made_of(job, &other.inputs(job), &()).unwrap_err().to_string();
    let words = refused(&other.jobs[1]);
    assert!(words.contains("codes: ") && words.contains("has none under int3"), "{words}");
    std::fs::write(other.path(&other.jobs[0]), b"what?").unwrap();
    assert!(refused(&other.jobs[1]).starts_with("codes: "));
}

#[test]
fn modules_make_the_same_artifact_in_any_order_and_from_any_checkpoint() {
    let mrem = || Bench::new(SCHEME, "f16", plan(Trainer::Mrem { modules: 4, rounds: 3 }, 13));
    let (bench, other) = (mrem(), mrem());
    assert_eq!(bench.jobs.len(), 13);
    let place = |job: &Job| bench.jobs.iter().position(|other| other.key() == job.key()).unwrap() as u32;
    let in_order = bench.make_all(|job| 100 - place(job));
    // A module hurries ahead as far as those in front of it let it.
    assert_eq!(other.make_all(|job| place(job) * 7 % 13), in_order);
    // The third module in the last round, whose inputs come through the first two.
    let job = &bench.jobs[4 * 2 + 2];
    assert!(job.inputs.contains_key("before_1") && job.inputs.contains_key("state"));
    let (artifact, left) = made_with_stops(job, &bench.inputs(job), [2, 4]);
    let expected = std::fs::read(bench.path(job)).unwrap();
    assert_eq!(artifact, expected);
    let cut = shared::Stopping { after: u64::MAX, left: Some(left[..90].to_vec()), ..Default::default() };
    assert_eq!(made_of(job, &bench.inputs(job), &cut).unwrap(), expected);
    // What has codes has them on their grids.
    assert!(
        bench.codes(&in_order).values().all(|codes| codes.values.iter().all(|code| (-2..2).contains(code)))
    );
}

#[test]
fn a_state_that_is_not_of_the_run_is_refused_by_its_name() {
    let bench = Bench::new(SCHEME, "f16", plan(Trainer::Mrem { modules: 2, rounds: 2 }, 2));
    let [first, second, _, later, join] = &bench.jobs[..] else { panic!("two modules, two rounds, the end") };
    let states = [bench.make(first), bench.make(second)];
    let refused = |job: &Job, name: &str, state: &[u8]| {
        let path = bench.folder.path().join("broken");
        std::fs::write(&path, state).unwrap();
        let mut files = bench.files(job);
        files.insert(name.to_owned(), path);
        let inputs = Inputs::sharing(files, bench.loaded.clone());
        let error = made_of(job, &inputs, &()).unwrap_err();
        assert!(matches!(error, qslm_engine::jobs::JobError::Invalid(_)), "{error:?}");
        error.to_string()
    };
    for cut in [0, 7, 20, 47, 48, 55, 56, 70, states[0].len() - 1] {
        assert!(refused(later, "before_0", &states[0][..cut]).starts_with("before_0: "), "{cut}");
    }
    assert!(refused(later, "before_0", &states[1]).contains("module 0 after round 0"));
    assert!(refused(later, "state", &[states[1].clone(), vec![0]].concat()).contains("is not whole"));
    let mut broken = states[1].clone();
    // A parameter is where the first number after steps and powers is.
    broken[48 + 8 + 8 + 4 + 16..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(refused(later, "state", &broken).contains("not finite"));
    let other =
        Bench::new("int2:full:channel:f16:trained", "f16", plan(Trainer::Mrem { modules: 2, rounds: 2 }, 3));
    assert!(refused(later, "state", &other.make(&other.jobs[1])).contains("of this run"));
    bench.make(&bench.jobs[2]);
    bench.make(later);
    assert!(refused(join, "module_0", &states[0]).contains("module 0 after round 1"));
    assert_eq!(bench.make(join), bench.make(join));
}

#[test]
fn rounds_and_modules_that_there_are_not_are_refused() {
    let bench = Bench::new(SCHEME, "f16", plan(Trainer::Mrem { modules: 2, rounds: 2 }, 2));
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut job = bench.jobs[0].clone();
        change(&mut job);
        made_of(&job, &bench.inputs(&job), &()).unwrap_err().to_string()
    };
    let module = |module: [u32; 2]| {
        refused(&move |job: &mut Job| {
            job.parameters.insert("module".to_owned(), module.to_vec().into());
        })
    };
    assert!(module([2, 0]).contains("(2, 0): expected one of 2"));
    assert!(module([0, 2]).contains("a round of 2"));
    assert!(module([1, 1]).contains("\"before_0\" is missing"));
    let none = refused(&|job| {
        job.parameters.remove("module");
    });
    assert!(none.contains("a round is one of a module"), "{none}");
    let other = Bench::new(SCHEME, "f16", plan(Trainer::Qat, 2));
    let plan_of_other = other.jobs[0].parameters["plan"].clone();
    let qat = refused(&|job| {
        job.parameters.insert("plan".to_owned(), plan_of_other.clone());
    });
    assert!(qat.contains("of the trainer mrem"), "{qat}");
}

#[test]
fn parts_of_a_classifier_learn_from_its_sentences() {
    for trainer in [phases(4), Trainer::Mrem { modules: 3, rounds: 2 }] {
        let plan = TrainingPlan { window: 1, ..plan(trainer, 4) };
        let bench = Bench::of(shared::files_of_classifier(), SCHEME, "f16", plan);
        assert!(bench.network.is_classifier());
        let artifact = bench.make_all(|_| 0);
        let file = CodesFile::of(artifact.clone()).unwrap();
        // Four batches of three sentences.
        assert!(
            file.units().values().all(|unit| unit.tokens > 12 && unit.tokens < 1000),
            "{:?}",
            file.units()
        );
        assert_eq!(bench.codes(&artifact).len(), file.units().len());
    }
}

#[test]
fn parts_train_with_states_in_eight_bits() {
    for trainer in [phases(6), Trainer::Mrem { modules: 2, rounds: 2 }] {
        let plan = TrainingPlan { optimizer: Optimizer::Lion, states: States::Int8, ..plan(trainer, 4) };
        let (bench, other) = (Bench::new(SCHEME, "f16", plan.clone()), Bench::new(SCHEME, "f16", plan));
        let artifact = bench.make_all(|_| 0);
        assert_eq!(other.make_all(|job| job.inputs.len() as u32), artifact);
        for job in
            bench.jobs.iter().filter(|job| [kinds::BLOCK_AP, kinds::E2E_QP].contains(&job.kind.as_str()))
        {
            let (again, _) = made_with_stops(job, &bench.inputs(job), [2, 4]);
            assert_eq!(again, std::fs::read(bench.path(job)).unwrap(), "{}", job.kind);
        }
        assert!(bench.codes(&artifact).len() == 29);
    }
}
