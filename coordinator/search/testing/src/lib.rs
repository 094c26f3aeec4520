//! Testing: an experiment whose measurements are a formula, so that searches, ledgers and stores are tested without a
//! network. For tests only: no program builds on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::constraints::Constraints;
use qslm_common::cost::{Cost, Device};
use qslm_common::experiment::Experiment;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::Network;
use qslm_common::objective::Objective;
use qslm_common::scheme::{Granularity, Scheme, Width};
use qslm_common::space::{Embedding, Space};
use qslm_common::strategy::StrategySpec;
use qslm_common::task::{Data, Task};
use qslm_common::tasks::{FurtherTask, TaskName};
use qslm_common::trade_off::TradeOff;
use qslm_common::{ENGINE_VERSION, hash::ContentHash};
use qslm_search::{AnyStrategy, Step, Tell, Tiered};

/// Experiment on a network of two blocks, with every width and a bound on quality.
#[expect(clippy::unwrap_used, reason = "the widths are written here")]
pub fn experiment(strategy: impl Into<StrategySpec>) -> Experiment {
    Experiment {
        name: "formula".to_owned(),
        engine_version: ENGINE_VERSION,
        backend: Default::default(),
        checkpoint: ContentHash::of(b"checkpoint"),
        network: Network {
            vocabulary: 64,
            channels: 16,
            hidden: 64,
            blocks: 2,
            outputs: 64,
            binary_embedding: true,
            dynamics: qslm_common::network::Dynamics::SPIKEGPT,
        },
        data: Data { text: ContentHash::of(b"text"), tokenizer: ContentHash::of(b"tokenizer") },
        task: Task::Perplexity { window: 8, stride: 8, windows: None },
        space: Space {
            granularity: Granularity::Tensor,
            ..Space::of([8, 6, 4, 3, 2].map(|bits| Width::try_from(bits).unwrap()).to_vec(), Embedding::Sign)
        },
        constraints: Constraints { max_perplexity_increase: Some(0.03), ..Default::default() },
        objectives: vec![Objective::Perplexity, Objective::Cost(Cost::Footprint)],
        trade_off: TradeOff::default(),
        strategy: strategy.into(),
        device: Device::default(),
        racing: None,
        recovery: None,
        max_candidates: None,
        tasks: BTreeMap::new(),
    }
}

/// Texts of one strategy of every kind, small, in the order of the registry. `external` has nobody who could tell it anything.
#[expect(clippy::unwrap_used, reason = "the schemes are written here")]
pub fn every_strategy() -> Vec<String> {
    let network = experiment(Tiered::default()).network;
    let listed = ["f16", "int8:symmetric:tensor", "int4:symmetric:tensor", "int2:symmetric:tensor"];
    let listed = listed.map(|scheme| Candidate::new(&network, |_| scheme.parse().unwrap()).encode());
    let listed = listed.map(|text| format!("\"{}\"", text.replace('\n', "\\n")));
    let texts = [
        r#"{"kind":"qslm","sensitivity_bits":null}"#,
        r#"{"kind":"grid","tier":"block"}"#,
        r#"{"kind":"random","tier":"matrix","trials":100,"seed":1}"#,
        r#"{"kind":"ranked","metric":"lsaq","tier":"block","order":["head","blocks.1","blocks.0"]}"#,
        &format!(r#"{{"kind":"list","candidates":[{}]}}"#, listed.join(",")),
        r#"{"kind":"allocate","tier":"matrix","fit":"regression"}"#,
        r#"{"kind":"evolve","tier":"module","population":20,"generations":5,"seed":1}"#,
        r#"{"kind":"memory_driven","tier":"matrix"}"#,
        r#"{"kind":"surrogate","tier":"matrix","initial":20,"iterations":8,"batch":10,"seed":1}"#,
        r#"{"kind":"beam","tier":"matrix","width":3}"#,
        r#"{"kind":"haq","tier":"matrix","episodes":40,"seed":1}"#,
        r#"{"kind":"external"}"#,
    ];
    texts.map(str::to_owned).into()
}

/// Counts of a candidate: a loss that grows with every bit taken, at a rate of each site's own.
#[expect(clippy::unwrap_used, reason = "the sum is small")]
pub fn measure(candidate: &Candidate) -> Counts {
    let harm = |(index, (_, scheme)): (usize, (&str, Scheme))| match scheme {
        Scheme::Integer { format, .. } => {
            let weight = [0.02, 0.001, 0.5, 0.003, 0.1][index % 5];
            weight * 0.25f64.powi(i32::from(format.bits.get()) - 2)
        }
        Scheme::Float | Scheme::Half | Scheme::Sign => 0.0,
    };
    let weights = candidate.schemes().enumerate().map(harm).sum::<f64>();
    let activations = candidate.activations().enumerate().map(|(index, (_, scheme))| {
        [0.001, 0.02, 0.05][index % 3] * 0.25f64.powi(i32::from(scheme.bits.get()) - 4)
    });
    let membranes =
        candidate.membranes().map(|(_, scheme)| 1e-5 * 0.25f64.powi(i32::from(scheme.bits()) - 4));
    let nats: f64 = 400.0 + (weights + activations.sum::<f64>() + membranes.sum::<f64>()) * 10.0;
    let populations = 4;
    Counts {
        nll: Nll::from_nats(nats).unwrap(),
        scored_tokens: 100,
        processed_tokens: 100,
        ..Counts::zero(populations)
    }
}

/// Counts of a candidate on all tasks of an experiment, which are the same on each.
pub fn measure_all(experiment: &Experiment, candidate: &Candidate) -> Counts {
    let counts = measure(candidate);
    let tasks = experiment.tasks.keys().map(|name| (*name, counts.clone())).collect();
    Counts { tasks, ..counts }
}

/// The experiment with a further task, `more`, that is bounded and an axis of the front.
#[expect(clippy::unwrap_used, reason = "the name is written here")]
pub fn with_task(mut experiment: Experiment) -> Experiment {
    let name: TaskName = "more".parse().unwrap();
    let task = Task::Perplexity { window: 8, stride: 8, windows: Some(3) };
    experiment.tasks.insert(name, FurtherTask { text: ContentHash::of(b"more"), task });
    experiment.objectives.push(Objective::Task(name));
    experiment.constraints.tasks.insert(name, 0.03);
    experiment
}

/// Runs a strategy to its end. `fails` marks candidates that cannot be measured. Returns the archive and
/// the stages with how many candidates each proposed.
///
/// # Panics
/// The strategy is none, proposes what does not fit the network, or does not end.
pub fn run(
    experiment: &Experiment,
    fails: impl Fn(&Candidate) -> bool,
) -> (Archive, Vec<(&'static str, usize)>) {
    run_told(experiment, &[], fails)
}

/// As [`run`], of a search that was told all of this beforehand; one that waits for more ends, too.
///
/// # Panics
/// As [`run`].
#[expect(clippy::unwrap_used, reason = "a test ends here")]
pub fn run_told(
    experiment: &Experiment,
    tells: &[Arc<Tell>],
    fails: impl Fn(&Candidate) -> bool,
) -> (Archive, Vec<(&'static str, usize)>) {
    let mut search = AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment);
    tells.iter().for_each(|tell| search.told(tell));
    let (mut archive, mut stages) = (Archive::default(), Vec::new());
    while let Step::Measure(generation) = search.next_at_last(&archive) {
        assert!(stages.len() < 1000, "the strategy does not end");
        stages.push((generation.stage, generation.candidates.len()));
        for candidate in generation.candidates.iter() {
            assert_eq!(candidate.validate(&experiment.network), Ok(()));
            if !fails(&candidate) {
                match generation.subset {
                    Some(_) => archive.insert_on_subset(candidate.id(), measure(&candidate)),
                    None => archive.insert(experiment, &candidate, measure_all(experiment, &candidate)),
                }
            }
        }
    }
    (archive, stages)
}
