//! The ways: how the weights of one matrix are chosen on its grid.

use qslm_common::network::Unit;
use qslm_common::scheme::{Format, Quantizer, Range, Rounding};
use qslm_engine::kernels::grid::Grid;
use qslm_engine::quant::{Factor, Hessian, NotPositive, Statistics, Weights, quantize, sweep};

use super::paired::Paired;

/// A matrix, its scheme, and the second moments of its inputs in the float network.
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) unit: &'a Unit,
    pub(super) format: Format,
    pub(super) range: Range,
    pub(super) damping: f64,
    pub(super) hessian: &'a Hessian,
}

/// A way to choose codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Nearest,
    ColumnScales,
    Learned,
    Gptq,
    ActOrder,
    WeightedRange,
    Descent,
    Prefix,
    Asymmetric,
}

impl Way {
    pub(super) const ALL: [Self; 9] = [
        Self::Nearest,
        Self::ColumnScales,
        Self::Learned,
        Self::Gptq,
        Self::ActOrder,
        Self::WeightedRange,
        Self::Descent,
        Self::Prefix,
        Self::Asymmetric,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::ColumnScales => "column scales",
            Self::Learned => "learned",
            Self::Gptq => "gptq",
            Self::ActOrder => "gptq, act-order",
            Self::WeightedRange => "gptq, weighted range",
            Self::Descent => "gptq, descent",
            Self::Prefix => "gptq, prefix",
            Self::Asymmetric => "gptq, asymmetric",
        }
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Nearest => "each weight on its own",
            Self::ColumnScales => "AWQ: columns times rms(input)^a, the best a of 20; each matrix its own",
            Self::Learned => "offered: descent, which has AdaRound's aim",
            Self::Gptq => "offered",
            Self::ActOrder => "offered",
            Self::WeightedRange => "ranges by squared error times the input's second moment",
            Self::Descent => "then single codes up or down while that lowers the error",
            Self::Prefix => "second moments of the rounded prefix",
            Self::Asymmetric => "the same; aims at the float network's outputs",
        }
    }

    /// True if it looks at the inputs of the network as far as it is rounded.
    pub(super) fn follows_prefix(self) -> bool {
        matches!(self, Self::Prefix | Self::Asymmetric)
    }

    /// The weights that it makes of a matrix.
    pub(super) fn choose(
        self,
        matrix: &Matrix<'_>,
        paired: Option<&Paired>,
    ) -> Result<Vec<f32>, NotPositive> {
        let Matrix { values, hessian, damping, .. } = *matrix;
        let factor = |act_order| hessian.factor(damping, act_order);
        match (self, paired) {
            (Self::ColumnScales, _) => Ok(matrix.column_scales()),
            (Self::Learned, _) => Ok(matrix.offered_descent(&factor(false)?)),
            (Self::Gptq, _) => Ok(matrix.gptq(values, &factor(false)?)),
            (Self::ActOrder, _) => Ok(matrix.gptq(values, &factor(true)?)),
            (Self::WeightedRange, _) => Ok(matrix.weighted_range(&factor(false)?)),
            (Self::Descent, _) => Ok(matrix.descend(matrix.gptq(values, &factor(false)?))),
            (Self::Prefix, Some(paired)) => Ok(matrix.gptq(values, &paired.rounded.factor(damping, false)?)),
            (Self::Asymmetric, Some(paired)) => {
                let aim = matrix.aim(paired).ok_or(NotPositive)?;
                Ok(matrix.gptq(&aim, &paired.rounded.factor(damping, false)?))
            }
            (Self::Nearest | Self::Prefix | Self::Asymmetric, _) => Ok(matrix.nearest(values)),
        }
    }
}

/// `tr(E H E^T)` of the error of rounded weights.
pub(super) fn output_error(float: &[f32], rounded: &[f32], columns: usize, hessian: &Hessian) -> f64 {
    let rows = float.chunks_exact(columns).zip(rounded.chunks_exact(columns));
    let of_row = |(w, v): (&[f32], &[f32])| {
        let e: Vec<f64> = w.iter().zip(v).map(|(w, v)| f64::from(*v) - f64::from(*w)).collect();
        let product = |(e_i, row): (&f64, &[f64])| e_i * row.iter().zip(&e).map(|(h, e)| h * e).sum::<f64>();
        e.iter().zip(hessian.values().chunks_exact(columns)).map(product).sum::<f64>()
    };
    rows.map(of_row).sum()
}

impl Matrix<'_> {
    fn quantize(&self, values: &[f32], rounding: Rounding, statistics: &Statistics<'_>) -> Vec<f32> {
        let weights = Weights { values, columns: self.unit.columns, unit: &self.unit.name };
        quantize(weights, self.format, Quantizer { rounding, range: self.range }, statistics).dequantize()
    }

    fn nearest(&self, values: &[f32]) -> Vec<f32> {
        self.quantize(values, Rounding::Nearest, &Statistics::NONE)
    }

    fn gptq(&self, values: &[f32], factor: &Factor) -> Vec<f32> {
        self.quantize(values, Rounding::Gptq, &Statistics { inputs: Some(factor), ..Statistics::NONE })
    }

    /// Rounded to nearest with columns scaled by a power of what enters them: AWQ without its search for ranges.
    fn column_scales(&self) -> Vec<f32> {
        let columns = self.unit.columns;
        let rms: Vec<f64> = self.hessian.diagonal().map(|moment| (moment / 2.0).sqrt().max(1e-4)).collect();
        let mut best = (f64::INFINITY, Vec::new());
        for twentieths in 0..20 {
            let powers: Vec<f64> = rms.iter().map(|rms| rms.powf(f64::from(twentieths) / 20.0)).collect();
            let most = powers.iter().copied().fold(0.0, f64::max);
            let least = powers.iter().copied().fold(f64::INFINITY, f64::min);
            let scales: Vec<f32> =
                powers.iter().map(|power| (power / (most * least).sqrt()) as f32).collect();
            let times = |values: &[f32], inverse: bool| -> Vec<f32> {
                let scale =
                    |at: usize| if inverse { 1.0 / scales[at % columns] } else { scales[at % columns] };
                values.iter().enumerate().map(|(at, w)| w * scale(at)).collect()
            };
            let rounded = times(&self.nearest(&times(self.values, false)), true);
            let error = output_error(self.values, &rounded, columns, self.hessian);
            if error < best.0 {
                best = (error, rounded);
            }
        }
        best.1
    }

    /// GPTQ on grids of each row that weigh a column's squared error with the second moment of its input.
    fn weighted_range(&self, factor: &Factor) -> Vec<f32> {
        let columns = self.unit.columns;
        let moments: Vec<f64> = self.hessian.diagonal().collect();
        let grid_of = |row: &[f32]| {
            let (min, max) = qslm_engine::kernels::grid::span(row);
            let mut best = (f64::INFINITY, Grid::over(min, max, self.format));
            for hundredths in (20..=100u8).rev() {
                let fraction = f32::from(hundredths) / 100.0;
                let grid = Grid::over(min * fraction, max * fraction, self.format);
                let mut codes = vec![0; columns];
                let mut weights = vec![0.0; columns];
                qslm_engine::kernels::grid::codes(
                    row,
                    grid,
                    0,
                    &|steps: f32, _| steps.round_ties_even(),
                    &mut codes,
                );
                qslm_engine::kernels::grid::weights(&codes, grid, &mut weights);
                let error = row.iter().zip(&weights).map(|(w, v)| (f64::from(*w) - f64::from(*v)).powi(2));
                let error = error.zip(&moments).map(|(error, moment)| error * moment).sum::<f64>();
                if error < best.0 {
                    best = (error, grid);
                }
            }
            best.1
        };
        let grids: Vec<Grid> = self.values.chunks_exact(columns).map(grid_of).collect();
        let mut codes = vec![0; self.values.len()];
        sweep(self.values, columns, &|row, _| grids[row], factor, &mut codes);
        let mut weights = vec![0.0; codes.len()];
        for ((codes, weights), grid) in
            codes.chunks_exact(columns).zip(weights.chunks_exact_mut(columns)).zip(&grids)
        {
            qslm_engine::kernels::grid::weights(codes, *grid, weights);
        }
        weights
    }

    fn offered_descent(&self, factor: &Factor) -> Vec<f32> {
        let statistics = Statistics { inputs: Some(factor), hessian: Some(self.hessian), ..Statistics::NONE };
        self.quantize(self.values, Rounding::Descent, &statistics)
    }

    /// Codes one up or down, also away from the weight, the best one first, as long as that lowers the damped error of a row's
    /// output.
    fn descend(&self, mut rounded: Vec<f32>) -> Vec<f32> {
        let columns = self.unit.columns;
        let mean = self.hessian.diagonal().sum::<f64>() / columns as f64;
        let damp = self.damping * mean;
        let h = |i: usize, j: usize| self.hessian.values()[i * columns + j] + if i == j { damp } else { 0.0 };
        for (row, w) in rounded.chunks_exact_mut(columns).zip(self.values.chunks_exact(columns)) {
            let Some((step, least, most)) = levels(row) else { continue };
            let mut e: Vec<f64> = row.iter().zip(w).map(|(v, w)| f64::from(*v) - f64::from(*w)).collect();
            let mut g: Vec<f64> = (0..columns).map(|i| (0..columns).map(|j| h(i, j) * e[j]).sum()).collect();
            for _ in 0..10 * columns {
                let mut best = (0.0, 0, 0.0);
                for j in 0..columns {
                    for delta in [step, -step] {
                        let to = f64::from(row[j]) + delta;
                        let is_code = to >= least - step / 2.0 && to <= most + step / 2.0;
                        let gain = 2.0 * delta * g[j] + delta * delta * h(j, j);
                        if is_code && gain < best.0 {
                            best = (gain, j, delta);
                        }
                    }
                }
                let (gain, j, delta) = best;
                if gain > -1e-12 * h(j, j) * step * step {
                    break;
                }
                row[j] = (f64::from(row[j]) + delta) as f32;
                e[j] += delta;
                g.iter_mut().enumerate().for_each(|(i, g)| *g += delta * h(i, j));
            }
        }
        rounded
    }

    /// The weights whose outputs on the rounded network's inputs are nearest to the float weights' on the float network's:
    /// `(W C + d W) (H + d)^-1`, with the moments of `paired`.
    fn aim(&self, paired: &Paired) -> Option<Vec<f32>> {
        let n = self.unit.columns;
        let damp = self.damping * paired.rounded.diagonal().sum::<f64>() / n as f64;
        let mut h = paired.rounded.values().to_vec();
        (0..n).for_each(|i| h[i * n + i] += damp);
        let root = cholesky(h, n)?;
        let mut out = Vec::with_capacity(self.values.len());
        for w in self.values.chunks_exact(n) {
            let mut x: Vec<f64> = w.iter().map(|w| f64::from(*w) * damp).collect();
            for (w, cross) in w.iter().zip(paired.cross.chunks_exact(n)) {
                x.iter_mut().zip(cross).for_each(|(x, c)| *x += f64::from(*w) * c);
            }
            solve(&root, n, &mut x);
            out.extend(x.iter().map(|x| *x as f32));
        }
        Some(out)
    }
}

/// Step, least and largest level of a rounded row; `None` if it has one level alone. All levels are taken to occur.
fn levels(row: &[f32]) -> Option<(f64, f64, f64)> {
    let mut all: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
    all.sort_by(f64::total_cmp);
    let step =
        all.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 0.0).fold(f64::INFINITY, f64::min);
    step.is_finite().then(|| (step, all[0], all[all.len() - 1]))
}

/// Lower Cholesky factor of a positive definite matrix; `None` if it is none.
fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for j in 0..n {
        let (before, row) = a.split_at_mut(j * n);
        for k in 0..j {
            let sum: f64 = (0..k).map(|m| row[m] * before[k * n + m]).sum();
            row[k] = (row[k] - sum) / before[k * n + k];
        }
        let left = row[j] - row[..j].iter().map(|x| x * x).sum::<f64>();
        if left <= 0.0 {
            return None;
        }
        row[j] = left.sqrt();
    }
    Some(a)
}

/// Solves `L L^T x = b` in place.
fn solve(l: &[f64], n: usize, x: &mut [f64]) {
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
        x[i] = (x[i] - sum) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
        x[i] = (x[i] - sum) / l[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_solves_what_it_was_made_of() {
        let a = [4.0, 1.0, 0.5, 1.0, 3.0, 0.2, 0.5, 0.2, 2.0];
        let root = cholesky(a.to_vec(), 3).unwrap();
        let mut x = [1.0, -2.0, 3.0];
        solve(&root, 3, &mut x);
        for (row, b) in a.chunks(3).zip([1.0, -2.0, 3.0]) {
            assert!((row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>() - b).abs() < 1e-12);
        }
        assert!(cholesky(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
    }

    #[test]
    fn levels_are_those_of_the_row() {
        assert_eq!(levels(&[0.5, -0.5, 1.5, 0.5]), Some((1.0, -0.5, 1.5)));
        assert_eq!(levels(&[0.0; 4]), None);
    }
}
