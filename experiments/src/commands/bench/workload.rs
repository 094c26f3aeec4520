//! Workload that coordinators are measured with: a search over a network that is never run.

use std::collections::BTreeMap;

use qslm_common::ENGINE_VERSION;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::constraints::Constraints;
use qslm_common::cost::{Cost, Device};
use qslm_common::demands::Capabilities;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::Network;
use qslm_common::objective::Objective;
use qslm_common::scheme::{Scheme, Width};
use qslm_common::space::{Embedding, Space};
use qslm_common::strategy::StrategySpec;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trade_off::TradeOff;

use crate::exit::{Exit, Failure, Outcome};

/// Capabilities that a worker needs for it.
pub(super) fn capabilities() -> Capabilities {
    let backends = [Backend::default().to_string()].into();
    Capabilities { backends, ..Capabilities::default() }
}

/// An experiment of four blocks whose files are all empty.
pub(super) fn experiment(strategy: impl Into<StrategySpec>) -> Outcome<Experiment> {
    let file = ContentHash::of(b"");
    let network = Network {
        vocabulary: 64,
        channels: 16,
        hidden: 64,
        blocks: 4,
        outputs: 64,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };
    let bits = [8, 6, 4, 3, 2].into_iter().filter_map(|bits| Width::try_from(bits).ok()).collect();
    let experiment = Experiment {
        name: "bench".to_owned(),
        engine_version: ENGINE_VERSION,
        backend: Backend::default(),
        checkpoint: file,
        network,
        data: Data { text: file, tokenizer: file },
        task: Task::Perplexity { window: 8, stride: 8, windows: None },
        space: Space::of(bits, Embedding::Sign),
        constraints: Constraints { max_perplexity_increase: Some(0.03), ..Constraints::default() },
        objectives: vec![Objective::Perplexity, Objective::Cost(Cost::Footprint)],
        trade_off: TradeOff::default(),
        strategy: strategy.into(),
        device: Device::default(),
        racing: None,
        recovery: None,
        max_candidates: None,
        tasks: BTreeMap::new(),
    };
    match qslm_search::problems(&experiment).into_iter().next() {
        Some(problem) => Err(Failure::new(Exit::Failure, problem)),
        None => Ok(experiment),
    }
}

/// Counts of a shard of a candidate, as simulated: a loss that grows fourfold with every bit taken, at a rate
/// of each unit's own.
pub(super) fn counts(candidate: &Candidate, shard: Shard) -> Counts {
    let harm = |(index, (_, scheme)): (usize, (&str, Scheme))| match scheme {
        Scheme::Integer { format, .. } => {
            let rate = [0.02, 0.001, 0.5, 0.003, 0.1][index % 5];
            rate * 0.25f64.powi(i32::from(format.bits.get()) - 2)
        }
        Scheme::Float | Scheme::Half | Scheme::Sign => 0.0,
    };
    let nats = 4.0 + 0.1 * candidate.schemes().enumerate().map(harm).sum::<f64>();
    // Equal parts would say nothing about adding them up.
    let part = Nll::from_nats(nats).unwrap_or_default().0 + u64::from(shard.index);
    Counts { nll: Nll(part), scored_tokens: 1, processed_tokens: 1, ..Counts::zero(8) }
}
