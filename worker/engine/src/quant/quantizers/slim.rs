//! SliM-LLM: within a matrix, groups of columns get a bit less, as many or a bit more by their salience, as many up as
//! down, so that the mean width stays; grids are fitted group by group, and GPTQ does the rest.
//!
//! - *Salience* of a weight: `w^2 d_j`, d_j the cost of a unit error in its column (as published code has it; the paper
//!   divides by the inverse Hessian's squared diagonal).
//! - *Allocation* (SBA): for every number i of groups the i least salient lose a bit and the i most salient gain one; what
//!   changes the softmax of the outputs least wins. Here i = 0, the uniform one, may win; the published code never tries it.
//! - *Grids* (SQC): 101 factors of each run's range; least `|e|^2.4` wins. Salient weights may weigh more; the published
//!   default is that they do not, and so it is here.
//!
//! Grids are full, `s (q + 1/2)`, where the paper's are affine: one bit is then the paper's `sign(w) mean|w|` without the
//! mean of the run, and a zero point takes no bytes.
//!
//! Source: Huang et al., arXiv 2405.14917; Aaronhuang-778/SliM-LLM.

use qslm_common::elementary::ln;
use qslm_common::scheme::Format;

use super::gptq::{nearest, sweep};
use crate::kernels::exp::exp;
use crate::kernels::grid::Grid;
use crate::kernels::outer::{LANES, add_weighted_rows};
use crate::quant::codes::runs;
use crate::quant::hessian::Factor;
use crate::quant::{Codes, Needs, Quantizer, Statistics, Weights};

/// Weight of a salient weight's error beside another's.
const SALIENT_WEIGHT: f64 = 1.0;
/// Standard deviations above the mean of its group at which a weight is salient.
const SALIENT_ABOVE: f64 = 2.0;
/// Factors of a range on either side of 1, and how far they go.
const FACTORS: u32 = 50;
const FARTHEST: f64 = 0.1;
/// Logarithm of the smallest probability that counts: 1e-6.
const LEAST_LOG: f32 = -13.815_511;

/// Widths by salience.
#[derive(Debug, Clone, Copy)]
pub struct Slim;

impl Quantizer for Slim {
    fn name(&self) -> &'static str {
        "slim"
    }

    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes {
        let Weights { values, columns, .. } = weights;
        let (run, costs) = (format.granularity.run(columns).max(1), costs(statistics.inputs, columns));
        let salience: Vec<f64> =
            values.iter().enumerate().map(|(at, w)| f64::from(*w).powi(2) * costs[at % columns]).collect();
        let widths = allocate(values, columns, format, &salience, statistics.sample.unwrap_or_default());
        let mut grids = Vec::new();
        let is_salient = salient(&salience, columns, run);
        let mut start = 0;
        for (index, weights) in runs(values, columns, format.granularity).enumerate() {
            let format = format.of_width(widths[index % widths.len()]);
            grids.push(fitted(weights, format, &is_salient[start..][..weights.len()]));
            start += weights.len();
        }
        let mut codes = Codes {
            format,
            columns,
            values: vec![0; values.len()],
            scales: grids.iter().map(|grid| grid.scale).collect(),
            zero_points: Vec::new(),
            widths,
        };
        if let Some(factor) = statistics.inputs {
            let grid = |row: usize, column: usize| grids[format.granularity.run_of(columns, row, column)];
            sweep(values, columns, &grid, factor, &mut codes.values);
        }
        codes
    }
}

/// Cost of a unit squared error by column.
fn costs(factor: Option<&Factor>, columns: usize) -> Vec<f64> {
    let mut costs = vec![1.0; columns];
    for (place, column) in factor.iter().flat_map(|factor| factor.order().iter().enumerate()) {
        costs[*column] = factor.map_or(1.0, |factor| factor.cost(place));
    }
    costs
}

/// The width of every column group: of the numbers of groups that change, the one that changes the outputs' softmax least.
fn allocate(weights: &[f32], columns: usize, format: Format, salience: &[f64], sample: &[f32]) -> Vec<u8> {
    let run = format.granularity.run(columns).max(1);
    let (bits, count) = (format.bits.get(), columns.div_ceil(run));
    // A last group with fewer columns keeps its width, or the mean would change.
    let whole = columns / run;
    let mut of_group = vec![0.0; whole];
    for (at, salience) in salience.iter().enumerate() {
        if let Some(sum) = of_group.get_mut(at % columns / run) {
            *sum += salience;
        }
    }
    let mut order: Vec<usize> = (0..whole).collect();
    order.sort_by(|a, b| of_group[*a].total_cmp(&of_group[*b]));
    let reference = outputs(weights, columns, sample);
    let mut best = (f64::INFINITY, vec![bits; count]);
    for changed in 0..(whole / 2).max(1) {
        let mut widths = vec![bits; count];
        order[..changed].iter().for_each(|group| widths[*group] = bits - 1);
        order[whole - changed..].iter().for_each(|group| widths[*group] = bits + 1);
        let divergence = divergence(
            &outputs(&rounded(weights, columns, format, &widths), columns, sample),
            &reference,
            weights.len() / columns,
        );
        if divergence < best.0 {
            best = (divergence, widths);
        }
    }
    best.1
}

/// Weights rounded to nearest over the whole range of each run.
fn rounded(weights: &[f32], columns: usize, format: Format, widths: &[u8]) -> Vec<f32> {
    let mut out = Vec::with_capacity(weights.len());
    for (index, run) in runs(weights, columns, format.granularity).enumerate() {
        let format = format.of_width(widths[index % widths.len()]);
        let grid = over(run, format, 1.0);
        out.extend(run.iter().map(|w| nearest(f64::from(*w), grid).1 as f32));
    }
    out
}

/// Outputs of weights for inputs `[tokens, columns]`: `[tokens, rows]`, each summed in 64 bits in the order of the columns.
fn outputs(weights: &[f32], columns: usize, inputs: &[f32]) -> Vec<f32> {
    let (rows, tokens) = (weights.len() / columns, inputs.len() / columns);
    let mut out = vec![0.0; tokens * rows];
    for first in (0..tokens).step_by(LANES) {
        let lanes = LANES.min(tokens - first);
        let mut tile = vec![[0.0; LANES]; columns];
        for lane in 0..lanes {
            let x = &inputs[(first + lane) * columns..][..columns];
            tile.iter_mut().zip(x).for_each(|(tile, x)| tile[lane] = f64::from(*x));
        }
        for (row, weights) in weights.chunks_exact(columns).enumerate() {
            let weights: Vec<f64> = weights.iter().copied().map(f64::from).collect();
            let mut sums = [0.0; LANES];
            add_weighted_rows(&weights, &tile, &mut sums);
            (0..lanes).for_each(|lane| out[(first + lane) * rows + row] = sums[lane] as f32);
        }
    }
    out
}

/// Mean divergence of softmaxes over tokens, `KL(softmax(changed) || softmax(reference))`, with probabilities of at least
/// 1e-6. 0 without tokens.
fn divergence(changed: &[f32], reference: &[f32], rows: usize) -> f64 {
    let tokens = reference.chunks_exact(rows);
    let (count, mut sum) = (tokens.len().max(1), 0.0);
    for (changed, reference) in changed.chunks_exact(rows).zip(tokens) {
        let (of_changed, of_reference) = (log_sum(changed), log_sum(reference));
        for (changed, reference) in changed.iter().zip(reference) {
            let log = |x: f32, of: f32| (x - of).max(LEAST_LOG);
            let (p, q) = (log(*changed, of_changed), log(*reference, of_reference));
            sum += f64::from(exp(p)) * f64::from(p - q);
        }
    }
    sum / count as f64
}

fn log_sum(logits: &[f32]) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(exp(x - largest))).sum();
    largest + ln(sum) as f32
}

/// Weights whose salience stands out among their column group's.
fn salient(salience: &[f64], columns: usize, run: usize) -> Vec<bool> {
    let groups = columns.div_ceil(run);
    let (mut sums, mut squares, mut counts) = (vec![0.0; groups], vec![0.0; groups], vec![0.0; groups]);
    for (at, salience) in salience.iter().enumerate() {
        let group = at % columns / run;
        sums[group] += salience;
        squares[group] += salience * salience;
        counts[group] += 1.0;
    }
    let bound = |group: usize| {
        let mean: f64 = sums[group] / counts[group];
        mean + SALIENT_ABOVE * (squares[group] / counts[group] - mean * mean).max(0.0).sqrt()
    };
    let bounds: Vec<f64> = (0..groups).map(bound).collect();
    salience.iter().enumerate().map(|(at, salience)| *salience > bounds[at % columns / run]).collect()
}

/// The grid of a run over a factor of its range; of codes of one bit over its mean magnitude, on either side of zero.
fn over(run: &[f32], format: Format, factor: f64) -> Grid {
    let (min, max) = match format.bits.get() {
        1 => {
            let mean = run.iter().map(|w| f64::from(w.abs())).sum::<f64>() / run.len().max(1) as f64;
            (-(mean as f32), mean as f32)
        }
        _ => crate::kernels::grid::span(run),
    };
    let scaled = |x: f32| (f64::from(x) * factor) as f32;
    Grid::over(scaled(min), scaled(max), format)
}

/// The grid with the least error of 101: the whole range first, then wider, then narrower ones.
fn fitted(run: &[f32], format: Format, salient: &[bool]) -> Grid {
    let step = |index: u32| FARTHEST * f64::from(index) / f64::from(FACTORS);
    let wider = (1..=FACTORS).map(|index| 1.0 + step(index));
    let narrower = (1..=FACTORS).map(|index| 1.0 - step(FACTORS + 1 - index));
    let mut best = (f64::INFINITY, over(run, format, 1.0));
    for factor in std::iter::once(1.0).chain(wider).chain(narrower) {
        let grid = over(run, format, factor);
        let error = |(w, salient): (&f32, &bool)| {
            let error = f64::from(*w) - nearest(f64::from(*w), grid).1;
            let weight = if *salient { SALIENT_WEIGHT } else { 1.0 };
            // |e|^2.4, of roots that are the same everywhere.
            weight * error * error * fifth_root(error * error)
        };
        let sum: f64 = run.iter().zip(salient).map(error).sum();
        if sum < best.0 {
            best = (sum, grid);
        }
    }
    best.1
}

/// The fifth root of a number of at least 0, by Newton's steps.
fn fifth_root(x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    // A fifth of the exponent is near enough to begin with.
    let exponent = ((x.to_bits() >> 52) as i64 - 1023) / 5;
    let mut root = f64::from_bits(((exponent + 1023) as u64) << 52);
    for _ in 0..8 {
        let fourth = root * root * root * root;
        root = (4.0 * root + x / fourth) / 5.0;
    }
    root
}

#[cfg(test)]
mod tests;
