//! Calibration: the range of every linear's input over some data.

use std::collections::BTreeMap;
use std::ops::Range;

use qslm_common::scheme::Span;

use super::dataset::{Dataset, Target};
use super::evaluate::{mean_row, scored_rows};
use crate::model::{Probe, SpikeGpt};

/// An input that is no number: the network breaks down on the calibration data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input of {unit} is not finite in sequence {sequence}")]
pub struct NotFinite {
    /// Name of the linear's matrix.
    pub unit: String,
    /// Index of the sequence in the data.
    pub sequence: usize,
}

/// The smallest and largest input of every linear while `model` reads `sequences` of `data`, zero included. A minimum
/// does not depend on the order, so neither does the result.
///
/// # Errors
/// [`NotFinite`] names the linear.
///
/// # Panics
/// If `sequences` reaches beyond the data.
pub fn calibrate(
    model: &SpikeGpt,
    data: &Dataset,
    sequences: Range<usize>,
) -> Result<BTreeMap<String, Span>, NotFinite> {
    let mut ranges = Ranges::default();
    let mut spikes = vec![0; model.network().populations().len()];
    for index in sequences {
        let sequence = data.sequence(index);
        let tokens = data.tokens(sequence.input.clone());
        let features = model.features_watched(tokens, &mut model.start(), &mut spikes, &mut ranges);
        // The head reads what it reads in an evaluation.
        let read = match &sequence.target {
            Target::NextToken(_) => features[scored_rows(sequence, model.network().channels)].to_vec(),
            Target::Label(_) => mean_row(&features, tokens.len()),
        };
        ranges.input("head.weight", &read);
        if let Some(unit) = ranges.broken.take() {
            return Err(NotFinite { unit, sequence: index });
        }
    }
    Ok(ranges.by_unit)
}

#[derive(Default)]
struct Ranges {
    by_unit: BTreeMap<String, Span>,
    /// A linear whose input was not finite.
    broken: Option<String>,
}

impl Probe for Ranges {
    fn input(&mut self, unit: &str, x: &[f32]) {
        let (min, max) = crate::kernels::grid::span(x);
        let Ok(span) = Span::new(min, max) else {
            self.broken.get_or_insert_with(|| unit.to_owned());
            return;
        };
        let widened = self.by_unit.get(unit).map_or(span, |known| known.union(span));
        self.by_unit.insert(unit.to_owned(), widened);
    }
}
