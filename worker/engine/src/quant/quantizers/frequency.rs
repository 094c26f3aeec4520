//! Frequency: rows of the head of a language model, or of the embedding, by how often their tokens occur, a bit more for the
//! most frequent quarter and a bit less for the rarest, so that the mean width stays; where inputs are multiplied, coordinate
//! descent does the rest.
//!
//! An error in a row of the head changes the logit of one token, which costs in proportion to how probable that token is; one
//! in a row of the embedding is there as often as its token is read.
//! Codes with a step in place of a width have a finer one in frequent rows and a coarser one in rare ones, by half a bit.

use qslm_common::scheme::{Format, Range};

use super::descent::{damped, descend_all};
use crate::kernels::grid::{self, Grid};
use crate::quant::{Codes, Needs, Quantizer, Statistics, Weights, range};

/// Rows that get a bit more, and as many that get a bit less: one in so many.
const ONE_IN: usize = 4;
/// Step of the next rarer class, as a multiple. Measured: with 2, which is a bit as of widths, an entropy coder takes more
/// bytes at the same loss than without classes.
const STEP_RATIO: f64 = std::f64::consts::SQRT_2;

/// Widths by the frequency of tokens.
#[derive(Debug, Clone, Copy)]
pub struct Frequency {
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Frequency {
    fn name(&self) -> &'static str {
        "frequency"
    }

    fn needs(&self) -> Needs {
        Needs::TokenCounts
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes {
        let Weights { values, columns, .. } = weights;
        let classes = classes(statistics.token_counts.unwrap_or_default(), values.len() / columns.max(1));
        let rows = || values.chunks_exact(columns.max(1)).zip(&classes).enumerate();
        let grids: Vec<Grid> =
            rows().map(|(row, (weights, class))| self.grid(weights, format, *class, row * columns)).collect();
        let bits = format.bits.get() as i8;
        let widths = match self.range {
            Range::Step(_) => Vec::new(),
            _ => classes.iter().map(|class| (bits + class) as u8).collect(),
        };
        let mut codes = Codes {
            format,
            columns,
            values: vec![0; values.len()],
            scales: grids.iter().map(|grid| grid.scale).collect(),
            zero_points: Vec::new(),
            widths,
        };
        let rows = values.chunks_exact(columns.max(1)).zip(codes.values.chunks_exact_mut(columns.max(1)));
        for ((weights, codes), grid) in rows.zip(&grids) {
            grid::codes(weights, *grid, 0, &nearest, codes);
        }
        if let (Some(hessian), Some(factor)) = (statistics.hessian, statistics.inputs) {
            descend_all(values, &mut codes, &damped(hessian, factor.damping()));
        }
        codes
    }
}

impl Frequency {
    /// The grid of a row that starts at position `start` of its matrix.
    fn grid(&self, row: &[f32], format: Format, class: i8, start: usize) -> Grid {
        match self.range {
            Range::Step(_) => {
                let grid = range::grid(row, format, self.range, &nearest, start);
                let scale = f64::from(grid.scale) * STEP_RATIO.powi(-i32::from(class));
                Grid { scale: range::round_scale(scale as f32, format.scales), ..grid }
            }
            _ => {
                let bits = (format.bits.get() as i8 + class) as u8;
                range::grid(row, format.of_width(bits), self.range, &nearest, start)
            }
        }
    }
}

fn nearest(steps: f32, _: usize) -> f32 {
    steps.round_ties_even()
}

/// 1, 0 or -1 by row: a quarter each of the most and of the least frequent tokens. Of tokens that are as frequent the one
/// with the lower id comes first, as tokenizers number them.
fn classes(counts: &[u64], rows: usize) -> Vec<i8> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by_key(|row| std::cmp::Reverse(counts.get(*row).copied().unwrap_or(0)));
    let changed = rows / ONE_IN;
    let mut classes = vec![0; rows];
    order[..changed].iter().for_each(|row| classes[*row] = 1);
    order[rows - changed..].iter().for_each(|row| classes[*row] = -1);
    classes
}

#[cfg(test)]
mod tests {
    use qslm_common::scheme::{Quantizer as Named, Scheme};

    use super::*;
    use crate::quant::hessian::Hessian;
    use crate::quant::{InputMoments, quantize};

    /// Counts that put rows 5 and 2 first, and 0 and 7 last.
    const COUNTS: [u64; 8] = [0, 3, 9, 3, 3, 20, 3, 0];

    fn hessian(columns: usize) -> Hessian {
        let mut moments = InputMoments::new(columns);
        let inputs: Vec<f32> = (0..columns * 40).map(|i| (i as f32 * 1.7).sin()).collect();
        moments.add(&inputs);
        moments.finish().unwrap()
    }

    fn codes(text: &str) -> Codes {
        let scheme: Scheme = text.parse().unwrap();
        let Scheme::Integer { format, quantizer } = scheme else { panic!("{scheme}") };
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin()).collect();
        let (hessian, weights) = (hessian(12), Weights { values: &values, columns: 12, unit: "head.weight" });
        let factor = hessian.factor(0.1, false).unwrap();
        let statistics = Statistics {
            inputs: Some(&factor),
            hessian: Some(&hessian),
            token_counts: Some(&COUNTS),
            ..Statistics::NONE
        };
        quantize(weights, format, quantizer, &statistics)
    }

    #[test]
    fn as_many_rows_get_more_as_get_less() {
        assert_eq!(classes(&COUNTS, 8), [-1, 0, 1, 0, 0, 1, 0, -1]);
        assert_eq!(classes(&[], 9), [1, 1, 0, 0, 0, 0, 0, -1, -1], "the lower id is the more frequent one");
        assert_eq!(classes(&[1, 2, 3], 3), [0, 0, 0]);
    }

    #[test]
    fn widths_follow_the_frequency_and_codes_keep_to_them() {
        let codes = codes("int3:full:channel:f16:frequency:least_squares");
        assert_eq!(codes.widths, [2, 3, 4, 3, 3, 4, 3, 2]);
        for (row, width) in codes.values.chunks(12).zip(&codes.widths) {
            let most = 1 << (width - 1);
            assert!(
                row.iter().all(|code| (-most..most).contains(&i32::from(*code))),
                "{row:?} in {width} bits"
            );
        }
        let error = |row: usize| -> f32 {
            let weights = (row * 12..row * 12 + 12).map(|i| (i as f32 * 0.7).sin());
            weights.zip(&codes.dequantize()[row * 12..]).map(|(w, back)| (w - back).powi(2)).sum()
        };
        assert!(error(5) < error(1) && error(1) < error(0));
    }

    #[test]
    fn a_step_changes_by_half_a_bit() {
        let (by_row, plain) = (codes("ec:0.50:channel:f16:frequency"), codes("ec:0.50:channel:f16:descent"));
        let ratios = by_row.scales.iter().zip(&plain.scales).map(|(a, b)| (2.0 * (a / b).log2()).round());
        assert_eq!(ratios.collect::<Vec<_>>(), [1.0, 0.0, -1.0, 0.0, 0.0, -1.0, 0.0, 1.0]);
        let stored = |scale: &f32| half::f16::from_f32(*scale).to_f32() == *scale;
        assert!(by_row.widths.is_empty() && by_row.scales.iter().all(stored));
    }

    #[test]
    fn rows_of_middling_tokens_are_as_without_classes() {
        let (by_row, plain) = (codes("int4:full:channel:frequency"), codes("int4:full:channel:descent"));
        assert_eq!(by_row.values[12..24], plain.values[12..24]);
        assert_ne!(by_row.values[..12], plain.values[..12]);
        let word = Named { rounding: "frequency".parse().unwrap(), range: Range::MinMax };
        assert!(word.is_calibrated());
    }
}
