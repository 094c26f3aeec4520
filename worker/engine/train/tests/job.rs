//! The job `qat`: the same artifact from the start and from a checkpoint, on one thread and on several, and a candidate that
//! takes its codes and vectors from it.
#![allow(clippy::unwrap_used)]

mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qslm_common::candidate::{Candidate, VECTORS};
use qslm_common::footprint::footprint_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::recovery::{Parameters, TrainingPlan, kinds};
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::checkpoint::packed::{self, Provenance};
use qslm_engine::jobs::{BACKEND, JobError, Watch};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::evaluate;

use shared::{Stopping, inputs};

fn plan(steps: u32) -> TrainingPlan {
    TrainingPlan { window: 32, batch: 4, steps, distillation: 0.5, seed: 3, ..TrainingPlan::default() }
}

fn student(checkpoint: &Checkpoint, vectors: &str) -> Candidate {
    shared::student(checkpoint, "int2:full:channel:f16:trained:least_squares", vectors)
}

fn job(candidate: &Candidate, plan: TrainingPlan) -> Job {
    let parameters = Parameters { member: true.into(), candidate: candidate.encode(), plan, module: None };
    Job::new(kinds::QAT, 1 << 24).parameters(&parameters)
}

fn made(job: &Job, watch: &dyn Watch) -> Result<Vec<u8>, JobError> {
    shared::made_of(job, &inputs(), watch)
}

#[test]
fn a_run_that_is_killed_twice_goes_on_from_its_checkpoint_to_the_same_bytes() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let job = job(&student(&checkpoint, "f16"), plan(7));
    let undisturbed = made(&job, &()).unwrap();
    let (artifact, mut left) = shared::made_with_stops(&job, &inputs(), [3, 5]);
    assert_eq!(artifact, undisturbed);
    // What is no checkpoint of it is left alone.
    let anew = Stopping { after: u64::MAX, left: Some(left.split_off(9)), ..Stopping::default() };
    assert_eq!(made(&job, &anew).unwrap(), undisturbed);
    assert!(anew.done.load(Ordering::Relaxed) == 7);
}

#[test]
fn a_candidate_takes_codes_and_vectors_from_the_artifact_and_is_packed_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = inputs().checkpoint(true).unwrap();
    let network = *checkpoint.network();
    let task = Task::Perplexity { window: 32, stride: 32, windows: Some(12) };
    let data = inputs().data(&task, &network).unwrap();
    for vectors in ["f16", "int8:affine:tensor:f16", "f32"] {
        let student = student(&checkpoint, vectors);
        let plan = TrainingPlan { rate: 2e-3, ..plan(30) };
        let artifact = made(&job(&student, plan), &()).unwrap();
        let hash = ContentHash::of(&artifact);
        let codes = BTreeMap::from([(hash, Arc::new(CodesFile::of(artifact).unwrap()))]);
        let linears: Vec<String> = network
            .units()
            .into_iter()
            .filter(qslm_common::network::Unit::is_linear)
            .map(|unit| unit.name)
            .collect();
        let names = linears.iter().map(String::as_str).chain([VECTORS]);
        let trained = student.clone().with_codes(names, Some(hash));
        let counts = |model: &SpikeGpt| evaluate(model, &data, 0..data.len(), &|| false).unwrap();
        let model = SpikeGpt::with_codes(&checkpoint, &trained, &codes, BACKEND).unwrap();
        let measured = counts(&model);
        // On the text that it learned from it is better than what it began with.
        let untrained = linears.iter().fold(student, |candidate, unit| {
            let scheme = candidate.scheme(unit).uncalibrated();
            candidate.with([unit.as_str()], scheme)
        });
        let before = counts(&SpikeGpt::new(&checkpoint, &untrained, BACKEND).unwrap());
        assert!(measured.nll.nats() < 0.97 * before.nll.nats(), "{vectors}: {measured:?}");
        // The file is what was measured, and as large as it was counted.
        let file = folder.path().join("packed.safetensors");
        let provenance = Provenance {
            qslm: "test".to_owned(),
            checkpoint: ContentHash::of(b"checkpoint"),
            experiment: None,
            measurement: None,
            reproducible: true,
            conditions: None,
            origin: None,
        };
        let size = packed::write(&file, &checkpoint, &trained, &codes, &[], provenance).unwrap();
        assert_eq!(size.tensors, footprint_bytes(&network, &trained), "{vectors}");
        let packed = Checkpoint::load(&file, true).unwrap();
        let run = packed.manifest().unwrap().to_run();
        assert_eq!(packed.manifest().unwrap().to_candidate(), trained);
        let deployed = SpikeGpt::from_checkpoint(packed, &run, &(), BACKEND).unwrap();
        assert_eq!(counts(&deployed), measured, "{vectors}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_in_words() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let refused = |candidate: &Candidate, plan| made(&job(candidate, plan), &()).unwrap_err().to_string();
    let student = student(&checkpoint, "f16");
    let long = TrainingPlan { window: 60_000, ..plan(1) };
    assert!(refused(&student, long).contains("tokens of text: a window takes 60001"));
    let none = TrainingPlan { window: 0, ..plan(1) };
    assert!(refused(&student, none).starts_with("window = 0"), "the task's words");
    let wild = TrainingPlan { rate: 1e30, distillation: 0.0, ..plan(4) };
    assert!(refused(&student, wild).contains("the loss is not finite; try a lower rate"));
    let inner = student.with_activations(["head.weight"], "int8:affine:dynamic".parse().ok());
    assert!(refused(&inner, plan(1)).contains("training rounds weights only"));
}
