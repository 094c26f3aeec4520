//! The pass that scores: the float network and the changed one run side by side over the same data, once for
//! all measures, each of which is told what both did.

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::network::Unit;
use qslm_common::scheme::Scheme;

use super::super::dataset::{Dataset, Sequence, Target};
use super::super::evaluate::{EvaluateError, Interrupt, head_input};
use super::{Distance, LOGITS_AT_ONCE, Measure, MiniBatch, Needs, Score};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::calibrated::{CodeSource, codes_of};
use crate::model::{CannotBuild, Hook, SpikeGpt, Unwatched};
use crate::quant::fake_quantize;

/// A float network, data, and the measures by which networks with one unit quantized are compared with it.
pub struct Comparison<'a> {
    checkpoint: &'a Checkpoint,
    codes: &'a dyn CodeSource,
    backend: Backend,
    float: SpikeGpt,
    data: &'a Dataset,
    measures: &'a [&'a Measure],
    /// Sequences on which membranes are watched.
    mini_batch: usize,
    /// Values of the blocks by measure; empty where it has none.
    blocks: Vec<Vec<f64>>,
}

/// What one unit is stored under.
#[derive(Debug, Clone, Copy)]
pub struct UnitScheme {
    /// The scheme.
    pub scheme: Scheme,
    /// The artifact that holds its codes, if the scheme is calibrated.
    pub codes: Option<ContentHash>,
}

/// Reason why a unit has no scores.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A scheme that the unit cannot be stored under, or no such backend in this program.
    #[error(transparent)]
    Build(#[from] CannotBuild),
    /// A network that could not be evaluated to the end.
    #[error("{unit}: {error}")]
    Evaluate {
        /// Name of the unit.
        unit: String,
        /// What happened.
        #[source]
        error: EvaluateError,
    },
}

impl<'a> Comparison<'a> {
    /// Comparison with the float network of `checkpoint`, on all of `data`. Membranes and blocks are looked at on the
    /// mini-batch alone.
    ///
    /// # Errors
    /// [`CannotBuild`] if the program lacks the backend.
    pub fn new(
        checkpoint: &'a Checkpoint,
        backend: Backend,
        data: &'a Dataset,
        measures: &'a [&'a Measure],
        mini_batch: MiniBatch,
    ) -> Result<Self, CannotBuild> {
        let float = SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), backend)?;
        let MiniBatch { sequences, top_k } = mini_batch;
        let mini_batch = sequences.min(data.len());
        let applies = |needs| needs != Needs::LanguageModel || !float.network().is_classifier();
        let blocks = |measure: &&Measure| match measure.score {
            Score::Blocks(score) if applies(measure.needs) => score(&float, data, 0..mini_batch, top_k),
            _ => Vec::new(),
        };
        let blocks = measures.iter().map(blocks).collect();
        Ok(Self { checkpoint, codes: &(), backend, float, data, measures, mini_batch, blocks })
    }

    /// The comparison with calibrated codes from `codes`.
    #[must_use]
    pub fn with_codes(self, codes: &'a dyn CodeSource) -> Self {
        Self { codes, ..self }
    }

    /// Scores of `unit` by every measure, in their order; `None` where one does not apply. It alone is stored as
    /// `stored` says.
    ///
    /// # Errors
    /// [`ScoreError`].
    pub fn scores(
        &self,
        unit: &Unit,
        stored: UnitScheme,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Option<f64>>, ScoreError> {
        let UnitScheme { scheme, codes } = stored;
        let (network, name) = (self.float.network(), unit.name.as_str());
        let candidate = Candidate::float(network).with([name], scheme).with_codes([name], codes);
        let changed = SpikeGpt::with_codes(self.checkpoint, &candidate, self.codes, self.backend)?;
        let start = |measure: &&Measure| match measure.score {
            Score::Distance(start) => Some((measure.needs, start())),
            Score::Blocks(_) => None,
        };
        let mut distances: Vec<_> = self.measures.iter().map(start).collect();
        let (mut of_weights, mut of_data): (Vec<_>, Vec<_>) =
            distances.iter_mut().flatten().partition(|(needs, _)| *needs == Needs::Weights);
        if !of_weights.is_empty() {
            let weights = self.checkpoint.tensor(&unit.name);
            let stored = match codes_of(self.codes, &candidate, network, name) {
                Some(codes) => codes.map_err(CannotBuild::from)?.dequantize(),
                None => fake_quantize(weights.clone(), unit.columns, scheme, name),
            };
            of_weights.iter_mut().for_each(|(_, distance)| distance.weights(&weights, &stored));
        }
        let mut of_data: Vec<_> = of_data.iter_mut().map(|(_, distance)| distance).collect();
        if !of_data.is_empty() {
            self.run(&changed, &mut of_data, interrupt)
                .map_err(|error| ScoreError::Evaluate { unit: unit.name.clone(), error })?;
        }
        let block = unit.block().map(|block| block as usize);
        let mut scores = Vec::with_capacity(distances.len());
        for (distance, blocks) in distances.iter().zip(&self.blocks) {
            scores.push(match distance {
                Some((_, distance)) => Some(distance.value()),
                None => block.and_then(|block| blocks.get(block).copied()),
            });
        }
        Ok(scores)
    }

    /// Runs both networks over the data.
    fn run(
        &self,
        changed: &SpikeGpt,
        distances: &mut [&mut Box<dyn Distance>],
        interrupt: Interrupt<'_>,
    ) -> Result<(), EvaluateError> {
        for index in 0..self.data.len() {
            if interrupt() {
                return Err(EvaluateError::Interrupted);
            }
            let sequence = self.data.sequence(index);
            let watch = index < self.mini_batch;
            let (mut potentials, mut nobody) = (Potentials::default(), Unwatched);
            let hook: &mut dyn Hook = if watch { &mut potentials } else { &mut nobody };
            let before = head_input(&self.float, self.data, sequence, hook);
            let mut pairs = Pairs { before: potentials.all.into_iter(), distances };
            let hook: &mut dyn Hook = if watch { &mut pairs } else { &mut nobody };
            let after = head_input(changed, self.data, sequence, hook);
            for (before, after, target) in self.predictions(changed, sequence, &before, &after) {
                distances.iter_mut().for_each(|distance| distance.prediction(&before, &after, target));
            }
            distances.iter_mut().for_each(|distance| distance.end_of_sequence());
            if !distances.iter().all(|distance| distance.value().is_finite()) {
                return Err(EvaluateError::NotFinite { sequence: index });
            }
        }
        Ok(())
    }

    /// Both networks' logits of every prediction of a sequence, with what was to be predicted.
    fn predictions<'b>(
        &'b self,
        changed: &'b SpikeGpt,
        sequence: &'b Sequence,
        before: &'b [f32],
        after: &'b [f32],
    ) -> impl Iterator<Item = (Vec<f32>, Vec<f32>, usize)> + 'b {
        let network = self.float.network();
        let (channels, outputs) = (network.channels as usize, network.outputs as usize);
        let targets: Vec<usize> = match &sequence.target {
            Target::NextToken(scored) => {
                let tokens = self.data.tokens(scored.start + 1..scored.end + 1);
                tokens.iter().map(|token| *token as usize).collect()
            }
            Target::Label(label) => vec![*label],
            Target::Answers { answers, right } => {
                let first = answers[*right].tokens.start;
                vec![self.data.tokens(first..first + 1)[0] as usize]
            }
        };
        // In blocks, because a large vocabulary does not allow all logits at once.
        let block = (LOGITS_AT_ONCE / outputs).max(1);
        let starts = (0..targets.len()).step_by(block);
        starts.flat_map(move |start| {
            let end = (start + block).min(targets.len());
            let logits = |model: &SpikeGpt, features: &[f32]| {
                let logits = model.logits(features[start * channels..end * channels].to_vec());
                logits.chunks_exact(outputs).map(<[f32]>::to_vec).collect::<Vec<_>>()
            };
            let (before, after) = (logits(&self.float, before), logits(changed, after));
            let targets = targets[start..end].to_vec();
            before
                .into_iter()
                .zip(after)
                .zip(targets)
                .map(|((before, after), target)| (before, after, target))
        })
    }
}

/// Keeps the potentials of every population, in their order.
#[derive(Default)]
struct Potentials {
    all: Vec<Vec<f32>>,
}

impl Hook for Potentials {
    fn potentials(&mut self, _population: usize, potentials: &dyn Fn() -> Vec<f32>) {
        self.all.push(potentials());
    }
}

/// Hook that tells distances of potentials, beside those kept of the float network.
struct Pairs<'a, 'b> {
    before: std::vec::IntoIter<Vec<f32>>,
    distances: &'a mut [&'b mut Box<dyn Distance>],
}

impl Hook for Pairs<'_, '_> {
    fn potentials(&mut self, _population: usize, potentials: &dyn Fn() -> Vec<f32>) {
        let (before, after) = (self.before.next().unwrap_or_default(), potentials());
        self.distances.iter_mut().for_each(|distance| distance.potentials(&before, &after));
    }
}
