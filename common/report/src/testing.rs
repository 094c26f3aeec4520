//! A small report for tests.

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::origins::Origins;

use crate::{Cloud, EngineShare, FORMAT, Lifecycle, ReportDocument, Sample, Stage, badness};

/// The float model, a probe candidate (one unit alone), uniform widths of which the last breaks the network.
pub(crate) fn report() -> ReportDocument {
    let experiment = Experiment::decode(include_str!("testing.json").trim()).unwrap();
    let (network, space) = (&experiment.network, &experiment.space);
    let mut archive = Archive::default();
    let mut cloud = Cloud::default();
    let unit = "blocks.0.att.key.weight";
    let alone = Candidate::float(network).with([unit], space.scheme(unit, 2));
    let uniform = |level| space.uniform(network, level);
    let measured = [
        (0, Candidate::float(network), 3.0),
        (0, alone, 3.001),
        (1, uniform(0), 3.002),
        (1, uniform(2), 3.02),
    ];
    let mut add = |stage: usize, candidate: &Candidate, nats: f64| {
        let nll = Nll::from_nats(nats * 100.0).unwrap();
        let spikes = vec![40; network.population_count()];
        let counts = Counts { nll, scored_tokens: 100, processed_tokens: 100, spikes, ..Counts::default() };
        let bytes = qslm_common::footprint::footprint_bytes(network, candidate);
        cloud.insert(stage, qslm_common::footprint::saving(network, bytes), badness(&counts), candidate.id());
        archive.insert(&experiment, candidate, counts);
    };
    measured.iter().for_each(|(stage, candidate, nats)| add(*stage, candidate, *nats));
    add(1, &uniform(4), 9.0);
    let stage = |name: &str, measured| Stage { name: name.to_owned(), measured };
    let sample = |unix_ms, hypervolume| Sample {
        unix_ms,
        measured: 5,
        front: 3,
        hypervolume: Some(hypervolume),
        tokens_per_second: 100.0,
        best: None,
    };
    ReportDocument {
        format: FORMAT,
        version: "0".to_owned(),
        id: experiment.id(),
        state: Lifecycle::Running,
        stage: "global".to_owned(),
        generation_settled: 3,
        generation_trials: 5,
        failed: 1,
        failures: vec!["a <script> in a reason".to_owned()],
        stuck: String::new(),
        without_worker: String::new(),
        remaining_at_most: Some(10),
        remaining_about: None,
        workers: 2,
        tokens_per_second: 100.0,
        stages: vec![stage("sensitivity", 2), stage("global", 3)],
        spots: cloud.spots(),
        front: FrontDocument::new(&experiment, &archive),
        sensitivity: Vec::new(),
        timeline: vec![sample(1_000, 0.1), sample(2_000, 0.2)],
        comparisons: Vec::new(),
        artifacts: Vec::new(),
        origins: Origins::default(),
        engines: vec![EngineShare {
            engine: "qslm 0, engine 3, native, x86_64 avx2".to_owned(),
            measured: 5,
        }],
        experiment,
        strategy: String::new(),
    }
}
