//! Evaluation: runs sequences through a model and counts losses, hits, spikes, scored and processed tokens.
//!
//! Each sequence is computed on its own and adds integers to the counts, so any split of the sequences
//! over threads, shards and machines gives the same sum. Where the divergence from the float model is counted, that reads
//! each sequence beside the model, and some rows of logits of both are there at a time.

use std::ops::Range;

use qslm_common::hash::ContentHash;
use qslm_common::measurement::{CannotAdd, Counts, Nll};
use qslm_common::quality::Quality;
use qslm_common::spread::Spread;

use super::dataset::{Answer, Dataset, Sequence, Target};
use super::questions::answer_features;
use crate::kernels::divergence::divergence;
use crate::kernels::{loss, mean};
use crate::model::{Caches, Hook, SpikeGpt};

/// Asked before every sequence; `true` ends the evaluation with [`EvaluateError::Interrupted`].
pub type Interrupt<'a> = &'a (dyn Fn() -> bool + Sync);

/// Error of an evaluation, which then gives no counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A loss that is no number, or beyond any sane one: the quantized network broke down.
    #[error("the loss of sequence {sequence} is not finite")]
    NotFinite {
        /// Index of the sequence in the data.
        sequence: usize,
    },
    /// Sums that do not fit 64 bits.
    #[error("the counts are too large to add")]
    Overflow,
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<CannotAdd> for EvaluateError {
    fn from(_: CannotAdd) -> Self {
        Self::Overflow
    }
}

/// Counts `sequences` of `data` under `model`.
///
/// # Errors
/// [`EvaluateError`]; nothing is counted then.
///
/// # Panics
/// If `sequences` reaches beyond the data.
pub fn evaluate(
    model: &SpikeGpt,
    data: &Dataset,
    sequences: Range<usize>,
    interrupt: Interrupt<'_>,
) -> Result<Counts, EvaluateError> {
    // One after the other, so that memory does not grow with the data.
    let mut counts = Counts::zero(model.network().populations().len());
    for index in sequences {
        let one = evaluate_one((model, None), data, index, None, interrupt)?;
        counts.add(&one)?;
    }
    Ok(counts)
}

/// As [`evaluate`], with the counts of every sequence on their own, for paired comparisons. `caches` may hold what other
/// candidates left under a name, that of everything which decides the counts but the candidate; the counts are the same.
///
/// # Errors
/// [`EvaluateError`].
///
/// # Panics
/// If `sequences` reaches beyond the data.
pub fn evaluate_each(
    model: &SpikeGpt,
    data: &Dataset,
    sequences: Range<usize>,
    caches: Option<(&Caches, ContentHash)>,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Counts>, EvaluateError> {
    sequences.map(|index| evaluate_one((model, None), data, index, caches, interrupt)).collect()
}

/// As [`evaluate_each`], with the divergence of the model's predictions from those of `float`.
///
/// # Errors
/// [`EvaluateError`].
///
/// # Panics
/// If `sequences` reaches beyond the data, or the two networks differ in shape.
pub fn evaluate_each_beside(
    float: &SpikeGpt,
    model: &SpikeGpt,
    data: &Dataset,
    sequences: Range<usize>,
    caches: Option<(&Caches, ContentHash)>,
    interrupt: Interrupt<'_>,
) -> Result<Vec<Counts>, EvaluateError> {
    assert_eq!(float.network(), model.network(), "a float model of the same shape");
    sequences.map(|index| evaluate_one((model, Some(float)), data, index, caches, interrupt)).collect()
}

/// Spread of a candidate's losses around the float model's, of the counts of both of the same sequences.
pub fn spread(quality: Quality, float: &[Counts], each: &[Counts]) -> Spread {
    let mut spread = Spread::default();
    float.iter().zip(each).for_each(|(float, one)| spread.add(Spread::of(quality, float, one)));
    spread
}

fn evaluate_one(
    models: (&SpikeGpt, Option<&SpikeGpt>),
    data: &Dataset,
    index: usize,
    caches: Option<(&Caches, ContentHash)>,
    interrupt: Interrupt<'_>,
) -> Result<Counts, EvaluateError> {
    if interrupt() {
        return Err(EvaluateError::Interrupted);
    }
    let counts = evaluate_sequence(models, data, index, caches);
    counts.ok_or(EvaluateError::NotFinite { sequence: index })
}

/// Counts of one sequence, with the divergence from a float model if there is one beside; `None` if a loss or divergence is
/// not finite.
fn evaluate_sequence(
    (model, float): (&SpikeGpt, Option<&SpikeGpt>),
    data: &Dataset,
    index: usize,
    caches: Option<(&Caches, ContentHash)>,
) -> Option<Counts> {
    let sequence = data.sequence(index);
    if let Target::Answers { answers, right } = &sequence.target {
        return answer(model, float, data, data.tokens(sequence.input.clone()), (answers, *right));
    }
    let mut counts = Counts::zero(model.network().populations().len());
    let tokens = data.tokens(sequence.input.clone());
    let features_of = |model: &SpikeGpt, spikes: &mut [u64]| match caches {
        Some((caches, of)) => model.features_cached(tokens, spikes, caches, of, index),
        None => model.features(tokens, &mut model.start(), spikes),
    };
    let features = features_of(model, &mut counts.spikes);
    let of_float = float.map(|float| (float, features_of(float, &mut vec![0; counts.spikes.len()])));
    counts.processed_tokens = tokens.len() as u64;
    match &sequence.target {
        Target::NextToken(scored) => {
            let rows = scored_rows(sequence, model.network().channels);
            let features_scored = features[rows.clone()].to_vec();
            let targets = data.tokens(scored.start + 1..scored.end + 1);
            let nll = match &of_float {
                None => model.losses(features_scored, targets).iter().sum(),
                Some((float, of_float)) => {
                    let (nll, kl) =
                        losses_beside((float, &of_float[rows]), (model, &features_scored), targets);
                    counts.kl = Some(divergence_of(kl)?);
                    nll
                }
            };
            counts.nll = Nll::from_nats(nll)?;
            counts.scored_tokens = targets.len() as u64;
        }
        Target::Label(label) => {
            let logits = model.logits(mean_row(&features, tokens.len()));
            if let Some((float, of_float)) = &of_float {
                let before = float.logits(mean_row(of_float, tokens.len()));
                counts.kl = Some(divergence_of(divergence(&before, &logits))?);
            }
            counts.nll = Nll::from_nats(loss::nll(&logits, *label))?;
            counts.hits = u64::from(loss::argmax(&logits) == *label);
            counts.sentences = 1;
        }
        Target::Answers { .. } => unreachable!("answered above"),
    }
    Some(counts)
}

/// Counts of one question: the loss of the right answer's tokens, and a hit if no other answer is as likely. The context is
/// read once for all answers.
fn answer(
    model: &SpikeGpt,
    float: Option<&SpikeGpt>,
    data: &Dataset,
    context: &[u32],
    (answers, right): (&[Answer], usize),
) -> Option<Counts> {
    let mut counts = Counts { sentences: 1, ..Counts::zero(model.network().populations().len()) };
    let read = |model: &SpikeGpt, spikes: &mut [u64]| {
        let mut state = model.start();
        (model.features(context, &mut state, spikes), state)
    };
    let (of_context, state) = read(model, &mut counts.spikes);
    counts.processed_tokens = context.len() as u64;
    let mut losses = Vec::new();
    for Answer { tokens, .. } in answers {
        let tokens = data.tokens(tokens.clone());
        let features = answer_features(model, &of_context, &state, tokens, &mut counts.spikes);
        counts.processed_tokens += tokens.len() as u64 - 1;
        losses.push(model.losses(features, tokens).iter().sum::<f64>());
    }
    if let Some(float) = float {
        let nowhere = &mut vec![0; counts.spikes.len()];
        let (before, float_state) = read(float, nowhere);
        let tokens = data.tokens(answers[right].tokens.clone());
        let before = answer_features(float, &before, &float_state, tokens, nowhere);
        let after = answer_features(model, &of_context, &state, tokens, nowhere);
        counts.kl = Some(divergence_of(losses_beside((float, &before), (model, &after), tokens).1)?);
    }
    counts.nll = Nll::from_nats(losses[right])?;
    // On equal terms as answers are compared; what is no number is no answer.
    let scores = answers.iter().zip(&losses).map(|(answer, loss)| loss / answer.weight);
    let scores: Vec<f64> = scores.collect();
    let is_likelier = |(index, score): (usize, &f64)| index == right || *score > scores[right];
    counts.hits = u64::from(scores.iter().enumerate().all(is_likelier));
    Some(counts)
}

/// Logits of both networks that are there at a time.
const LOGITS_AT_ONCE: usize = 1 << 21;

/// Loss of the targets, and divergence of the model's predictions from the float model's, each summed over the rows of
/// features, `[targets, channel]` of each network.
fn losses_beside(
    (float, of_float): (&SpikeGpt, &[f32]),
    (model, of_model): (&SpikeGpt, &[f32]),
    targets: &[u32],
) -> (f64, f64) {
    let [channels, outputs] = [model.network().channels, model.network().outputs].map(|n| n as usize);
    let block = (LOGITS_AT_ONCE / outputs).max(1);
    let features = of_float.chunks(block * channels).zip(of_model.chunks(block * channels));
    let (mut nll, mut kl) = (0.0, 0.0);
    for ((before, after), targets) in features.zip(targets.chunks(block)) {
        let (before, after) = (float.logits(before.to_vec()), model.logits(after.to_vec()));
        let rows = before.chunks_exact(outputs).zip(after.chunks_exact(outputs));
        for ((before, after), target) in rows.zip(targets) {
            nll += loss::nll(after, *target as usize);
            kl += divergence(before, after);
        }
    }
    (nll, kl)
}

/// Fixed point of a divergence in nats; `None` if it is not finite.
fn divergence_of(kl: f64) -> Option<Nll> {
    // Rounding may leave a little less than nothing. What is no number stays so, which `max` would hide.
    Nll::from_nats(if kl < 0.0 { 0.0 } else { kl })
}

/// The range of a sequence's features, `[time, channel]`, whose rows predict something.
fn scored_rows(sequence: &Sequence, channels: u32) -> Range<usize> {
    let (start, channels) = (sequence.input.start, channels as usize);
    match &sequence.target {
        Target::NextToken(scored) => (scored.start - start) * channels..(scored.end - start) * channels,
        Target::Label(_) => 0..sequence.input.len() * channels,
        // The last of the context, which predicts an answer's first token.
        Target::Answers { .. } => (sequence.input.len() - 1) * channels..sequence.input.len() * channels,
    }
}

/// The input of the head for a sequence, `[predictions, channel]`: the scored rows, or the mean of a
/// sentence.
pub(super) fn head_input(
    model: &SpikeGpt,
    data: &Dataset,
    sequence: &Sequence,
    hook: &mut dyn Hook,
) -> Vec<f32> {
    let tokens = data.tokens(sequence.input.clone());
    let mut spikes = vec![0; model.network().populations().len()];
    let features = model.features_watched(tokens, &mut model.start(), &mut spikes, hook);
    match sequence.target {
        Target::NextToken(_) | Target::Answers { .. } => {
            features[scored_rows(sequence, model.network().channels)].to_vec()
        }
        Target::Label(_) => mean_row(&features, tokens.len()),
    }
}

/// Mean over the rows of `[rows, channel]`.
fn mean_row(features: &[f32], rows: usize) -> Vec<f32> {
    let mut mean = vec![0.0; features.len() / rows];
    mean::of_rows(features, &mut mean);
    mean
}

/// All logits of one sequence, `[time, outputs]`; for looking at a model, not for measuring it.
///
/// # Panics
/// If the data has no such sequence.
pub fn sequence_logits(model: &SpikeGpt, data: &Dataset, sequence: usize) -> Vec<f32> {
    let tokens = data.tokens(data.sequence(sequence).input.clone());
    let mut spikes = vec![0; model.network().populations().len()];
    model.logits(model.features(tokens, &mut model.start(), &mut spikes))
}
