//! Strategies: pure state machines that propose candidates from what was measured.
//!
//! A strategy works in generations. It proposes some candidates, sees the archive once all of them are
//! settled, and proposes the next. It never sees who measured what when, so its path is the same on one
//! worker and on fifty; and since it keeps no state that the archive does not imply, an interrupted
//! experiment resumes by proposing from the start again, with every stored result answered at once.

mod candidates;
mod fixed;
mod qslm;
mod race;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::{Experiment, Strategy};
use qslm_common::space::Axis;
use qslm_common::task::Task;

pub use candidates::Candidates;
pub use race::{has_lost, race};

/// What a strategy wants next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Measure these; some may be measured already, or be named twice.
    Measure(Generation),
    /// Nothing more.
    Finished,
}

/// Candidates that are measured together.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// What this is for, as shown to people: `sensitivity`, `global`, `block`, `module`, `matrix`, ...
    pub stage: &'static str,
    /// What to measure.
    pub candidates: Candidates,
    /// The protocol to measure them by, if it is not the experiment's: [`Experiment::sensitivity_task`].
    pub task: Option<Task>,
    /// Whether nobody needs to know how bad those are that lose too much; see [`qslm_common::racing`].
    pub may_race: bool,
}

/// A strategy under way.
pub trait Search: Send {
    /// Called with the archive once every candidate proposed so far is settled. A candidate that is not in
    /// the archive failed.
    fn next(&mut self, archive: &Archive) -> Step;

    /// The most candidates that may still be proposed after the generation under way, if that can be told.
    fn remaining_at_most(&self) -> Option<u64>;

    /// What is quantized alone to learn how sensitive it is, by kind and name, with the candidate that does it. Empty if
    /// the strategy does not ask.
    fn probes(&self) -> Vec<(Axis, String, Candidate)> {
        Vec::new()
    }
}

/// The strategy of an experiment, at its start.
pub fn start(experiment: &Experiment) -> Box<dyn Search> {
    match experiment.strategy {
        Strategy::Qslm { sensitivity_bits, .. } => {
            Box::new(qslm::Qslm::new(experiment.clone(), sensitivity_bits))
        }
        Strategy::Grid { tier } => Box::new(fixed::Fixed::grid(experiment, tier)),
        Strategy::Random { tier, trials, seed } => {
            Box::new(fixed::Fixed::random(experiment, tier, trials, seed))
        }
        Strategy::List { ref candidates } => Box::new(fixed::Fixed::list(experiment, candidates)),
        Strategy::Ranked { tier, ref order, .. } => Box::new(fixed::Fixed::ranked(experiment, tier, order)),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! An experiment whose measurements are a formula, for testing strategies without a network.

    use qslm_common::cost::{Cost, Device};
    use qslm_common::measurement::{Counts, Nll};
    use qslm_common::network::Network;
    use qslm_common::objective::{Constraints, Objective};
    use qslm_common::scheme::{Granularity, Range, Rounding, Scheme, Symmetry, Width};
    use qslm_common::space::{Embedding, Space};
    use qslm_common::task::{Data, Task};
    use qslm_common::trade_off::TradeOff;
    use qslm_common::{ENGINE_VERSION, hash::ContentHash};

    use super::*;

    pub(crate) fn experiment(strategy: Strategy) -> Experiment {
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
            },
            data: Data { text: ContentHash::of(b"text"), tokenizer: ContentHash::of(b"tokenizer") },
            task: Task::Perplexity { window: 8, stride: 8, windows: None },
            space: Space {
                bits: [8, 6, 4, 3, 2].map(|bits| Width::try_from(bits).unwrap()).to_vec(),
                symmetry: Symmetry::Symmetric,
                granularity: Granularity::Tensor,
                rounding: Rounding::Nearest,
                range: Range::MinMax,
                embedding: Embedding::Sign,
                vectors: None,
                activations: None,
                membranes: None,
            },
            constraints: Constraints { max_perplexity_increase: Some(0.03), ..Default::default() },
            objectives: vec![Objective::Perplexity, Objective::Cost(Cost::Footprint)],
            trade_off: TradeOff::default(),
            strategy,
            device: Device::default(),
            racing: None,
        }
    }

    /// A loss that grows with every bit taken, at a rate of each site's own.
    pub(crate) fn measure(candidate: &Candidate) -> Counts {
        let harm = |(index, (_, scheme)): (usize, (&str, Scheme))| match scheme {
            Scheme::Integer(integer) => {
                let weight = [0.02, 0.001, 0.5, 0.003, 0.1][index % 5];
                weight * 0.25f64.powi(i32::from(integer.bits.get()) - 2)
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
            tokens: 100,
            positions: 100,
            ..Counts::zero(populations)
        }
    }

    /// Runs a strategy to its end. `fails` marks candidates that cannot be measured. Returns the archive and
    /// the stages with how many candidates each proposed.
    pub(crate) fn run(
        experiment: &Experiment,
        fails: impl Fn(&Candidate) -> bool,
    ) -> (Archive, Vec<(&'static str, usize)>) {
        let mut search = start(experiment);
        let (mut archive, mut stages) = (Archive::default(), Vec::new());
        while let Step::Measure(generation) = search.next(&archive) {
            assert!(stages.len() < 1000, "the strategy does not end");
            stages.push((generation.stage, generation.candidates.len()));
            for candidate in generation.candidates.iter() {
                assert_eq!(candidate.validate(&experiment.network), Ok(()));
                if !fails(&candidate) {
                    let counts = measure(&candidate);
                    match generation.task {
                        Some(_) => archive.insert_probe(candidate.id(), counts),
                        None => archive.insert(experiment, &candidate, counts),
                    }
                }
            }
        }
        (archive, stages)
    }
}
