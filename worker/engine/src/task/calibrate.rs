//! Calibration: the range of every linear's input over some data.

use std::collections::BTreeMap;
use std::ops::Range;

use qslm_common::scheme::Span;

use super::dataset::Dataset;
use super::evaluate::head_input;
use crate::model::{Hook, SpikeGpt, Unwatched};

/// An input that is no number: the network breaks down on the calibration data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input of {unit} is not finite in sequence {sequence}")]
pub struct NotFinite {
    /// Name of the linear's matrix.
    pub unit: String,
    /// Index of the sequence in the data.
    pub sequence: usize,
}

/// The smallest and largest input of every linear while `model` reads `sequences` of `data`, zero included. A
/// minimum does not depend on the order, so neither does the result.
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
    for index in sequences {
        let read = head_input(model, data, data.sequence(index), &mut ranges);
        ranges.input("head.weight", &read);
        if let Some(unit) = ranges.broken.take() {
            return Err(NotFinite { unit, sequence: index });
        }
    }
    Ok(ranges.by_unit)
}

/// Lets `hook` look at the inputs of one part of the network, the block with this index or else the head, while `model`
/// reads a sequence of `data`. What comes after that part is not computed.
///
/// # Panics
/// If the data has no such sequence.
pub fn watch_part(model: &SpikeGpt, data: &Dataset, sequence: usize, part: u32, hook: &mut dyn Hook) {
    let sequence = data.sequence(sequence);
    if part < model.network().blocks {
        model.run_to_block(part as usize, data.tokens(sequence.input.clone()), hook);
    } else {
        let read = head_input(model, data, sequence, &mut Unwatched);
        hook.input("head.weight", &read);
    }
}

#[derive(Default)]
struct Ranges {
    by_unit: BTreeMap<String, Span>,
    /// A linear whose input was not finite.
    broken: Option<String>,
}

impl Hook for Ranges {
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
