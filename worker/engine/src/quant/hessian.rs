//! Hessian of a linear's output error: the second moments of its inputs, and the factor that GPTQ goes by.
//!
//! For inputs x of T tokens the error of a row of weights is `(w - w^) H (w - w^)^T / 2` with `H = 2/T sum x x^T`. All
//! sums are in 64 bits and one order, so the same inputs give the same bits on every machine.
//!
//! Source: Frantar et al., "GPTQ" (arXiv 2210.17323); the factor as in Chee et al., "QuIP" (arXiv 2307.13304), theorem 6.

use crate::kernels::outer::{LANES, add_outer_products, subtract_scaled};

/// Tokens that are added at a time: their inputs stay in the cache.
const TOKENS_AT_ONCE: usize = 32;
/// Rows that a factorization works out before the rest learns of them.
const ROWS_AT_ONCE: usize = 32;
/// Tokens whose inputs are kept as they are: the first ones.
const SAMPLE: usize = 256;
/// Damping beyond which a matrix is no Hessian.
const MOST_DAMPING: f64 = 1e6;

/// Second moments of the inputs of a linear, as they come in.
#[derive(Debug, Clone)]
pub struct InputMoments {
    columns: usize,
    stride: usize,
    /// Lower triangle of the sum of `x x^T`, `[columns, stride]`.
    sums: Vec<f64>,
    /// Inputs that are not added yet, `[tokens, stride]`.
    waiting: Vec<f64>,
    tokens: u64,
    sample: Vec<f32>,
}

impl InputMoments {
    /// Moments of no inputs yet, of so many columns.
    pub fn new(columns: usize) -> Self {
        let stride = columns.next_multiple_of(LANES);
        Self {
            columns,
            stride,
            sums: vec![0.0; columns * stride],
            waiting: Vec::new(),
            tokens: 0,
            sample: Vec::new(),
        }
    }

    /// Adds inputs, `[tokens, columns]`.
    pub fn add(&mut self, inputs: &[f32]) {
        for x in inputs.chunks_exact(self.columns) {
            // A product of two 32-bit floats is exact in 64 bits.
            self.waiting.extend(x.iter().copied().map(f64::from));
            self.waiting.resize(self.waiting.len().next_multiple_of(self.stride), 0.0);
            if self.tokens < SAMPLE as u64 {
                self.sample.extend(x);
            }
            self.tokens += 1;
            if self.waiting.len() == TOKENS_AT_ONCE * self.stride {
                self.add_waiting();
            }
        }
    }

    fn add_waiting(&mut self) {
        let Self { columns, stride, sums, waiting, .. } = self;
        add_outer_products(waiting, waiting, sums, *columns, *stride);
        waiting.clear();
    }

    /// The Hessian of all inputs; `None` if one of them was no number.
    pub fn finish(mut self) -> Option<Hessian> {
        self.add_waiting();
        let Self { columns, stride, sums, tokens, sample, .. } = self;
        let scale = 2.0 / tokens.max(1) as f64;
        let mut values = vec![0.0; columns * columns];
        for i in 0..columns {
            for j in 0..=i {
                let sum = scale * sums[i * stride + j];
                (values[i * columns + j], values[j * columns + i]) = (sum, sum);
            }
        }
        values.iter().all(|value| value.is_finite()).then_some(Hessian { columns, values, tokens, sample })
    }
}

/// Hessian of the error of a linear's outputs, the same for all of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Hessian {
    columns: usize,
    /// `H = 2/T sum x x^T`, `[columns, columns]`, symmetric.
    values: Vec<f64>,
    /// Tokens T that it is the mean over.
    tokens: u64,
    /// Inputs of the first of them, `[tokens, columns]`.
    sample: Vec<f32>,
}

/// A matrix that no damping makes one of squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the inputs have no Hessian that damping up to {MOST_DAMPING:e} makes positive definite")]
pub struct NotPositive;

impl Hessian {
    /// The numbers, `[columns, columns]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Mean over the tokens of the squared error of the outputs, `tr(E H E^T) / 2`, if the weights are off by `errors`,
    /// `[rows, columns]`.
    pub fn output_error(&self, errors: &[f32]) -> f64 {
        let of_row = |row: &[f32]| {
            let products = row.iter().zip(self.values.chunks_exact(self.columns)).enumerate();
            let product = |(j, (error, moments)): (usize, (&f32, &[f64]))| {
                // The matrix is symmetric: what is left of the diagonal stands for both sides.
                let left: f64 = moments[..j].iter().zip(row).map(|(moment, e)| moment * f64::from(*e)).sum();
                let error = f64::from(*error);
                error * (2.0 * left + moments[j] * error)
            };
            products.map(product).sum::<f64>()
        };
        errors.chunks_exact(self.columns).map(of_row).sum::<f64>() / 2.0
    }

    /// Inputs of the first tokens, `[tokens, columns]`.
    pub fn sample(&self) -> &[f32] {
        &self.sample
    }

    /// Tokens that it is the mean over.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// `H_jj` of every column.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.values.iter().step_by(self.columns + 1).copied()
    }

    /// Factor of the Hessian with `damping` times the mean of its diagonal on the diagonal, its columns in the order in
    /// which codes are chosen: as they are, or (`act_order`) by falling `H_jj`. Damping that is too little is raised by
    /// tens. A column that no input reaches counts as one of its own, of weight 1.
    ///
    /// # Errors
    /// [`NotPositive`].
    pub fn factor(&self, damping: f64, act_order: bool) -> Result<Factor, NotPositive> {
        let diagonal: Vec<f64> = self.diagonal().map(|h| if h == 0.0 { 1.0 } else { h }).collect();
        let mut order: Vec<usize> = (0..self.columns).collect();
        if act_order {
            // Stable, so that of equals the first comes first.
            order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
        }
        let mean = diagonal.iter().sum::<f64>() / self.columns.max(1) as f64;
        let mut tried = damping;
        while tried <= MOST_DAMPING {
            let damped = |i: usize, j: usize| {
                if i == j { diagonal[i] + tried * mean } else { self.values[i * self.columns + j] }
            };
            if let Some(factor) = Factor::of(&order, &damped, tried) {
                return Ok(factor);
            }
            tried = (tried * 10.0).max(1e-4);
        }
        Err(NotPositive)
    }
}

/// Factor of a damped Hessian, `Hd = N^T N` with N lower triangular.
///
/// What is chosen for column j, in this order, makes up for the errors of the columns k before it by
/// `w_j += sum_k (w_k - w^_k) N_jk / N_jj`; its own error e then costs `N_jj^2 e^2`. That is GPTQ, whose U is the inverse
/// of `N^T`.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    stride: usize,
    /// Columns in the order in which codes are chosen.
    order: Vec<usize>,
    /// `N_jk / N_jj` for `k < j`, `[columns, stride]`.
    feedback: Vec<f64>,
    /// `N_jj^2`.
    costs: Vec<f64>,
    /// Damping with which it passed.
    damping: f64,
}

impl Factor {
    /// Right-looking Cholesky from the last row on, some rows at a time. `None` if a pivot is lost in rounding.
    fn of(order: &[usize], damped: &dyn Fn(usize, usize) -> f64, damping: f64) -> Option<Self> {
        let (columns, stride) = (order.len(), order.len().next_multiple_of(LANES));
        let mut rows = vec![0.0; columns * stride];
        for (i, row) in rows.chunks_exact_mut(stride.max(1)).enumerate() {
            row.iter_mut().zip(&order[..=i]).for_each(|(x, j)| *x = damped(order[i], *j));
        }
        let mut negated = Vec::new();
        let mut end = columns;
        while end > 0 {
            let start = end.saturating_sub(ROWS_AT_ONCE);
            for k in (start..end).rev() {
                let (above, row) = rows.split_at_mut(k * stride);
                let row = &mut row[..stride];
                let pivot = row[k];
                // What is left of it is no more than what its own rounding may be.
                if pivot <= columns as f64 * f64::EPSILON * damped(order[k], order[k]) || !pivot.is_finite() {
                    return None;
                }
                let root = pivot.sqrt();
                row[..k].iter_mut().for_each(|x| *x /= root);
                row[k] = root;
                for j in start..k {
                    subtract_scaled(&mut above[j * stride..][..=j], row[j], &row[..=j]);
                }
            }
            let (above, block) = rows.split_at_mut(start * stride);
            let block = &block[..(end - start) * stride];
            negated.clear();
            negated.extend(block.iter().map(|x| -x));
            add_outer_products(&negated, block, above, start, stride);
            end = start;
        }
        let mut costs = Vec::with_capacity(columns);
        for (j, row) in rows.chunks_exact_mut(stride.max(1)).enumerate() {
            let root = row[j];
            row[..j].iter_mut().for_each(|x| *x /= root);
            row[j..].fill(0.0);
            costs.push(root * root);
        }
        Some(Self { stride, order: order.to_vec(), feedback: rows, costs, damping })
    }

    /// Columns in the order in which codes are chosen.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Share of every earlier column's error, in that order, that the j-th column makes up for.
    pub fn feedback(&self, j: usize) -> &[f64] {
        &self.feedback[j * self.stride..][..j]
    }

    /// Cost of a unit squared error in the j-th column, once those before it are chosen.
    pub fn cost(&self, j: usize) -> f64 {
        self.costs[j]
    }

    /// Damping with which it passed, as a multiple of the mean of the diagonal.
    pub fn damping(&self) -> f64 {
        self.damping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hessian(columns: usize, tokens: usize) -> Hessian {
        let mut moments = InputMoments::new(columns);
        let inputs: Vec<f32> = (0..tokens * columns).map(|i| ((i * i) as f32 * 0.731).sin()).collect();
        // In pieces cut anywhere.
        let (first, rest) = inputs.split_at(tokens / 3 * columns);
        moments.add(first);
        moments.add(rest);
        moments.finish().unwrap()
    }

    #[test]
    fn moments_are_the_mean_outer_product() {
        let (columns, tokens) = (5, 70);
        let x =
            |t: usize, i: usize| f64::from((((t * columns + i) * (t * columns + i)) as f32 * 0.731).sin());
        let hessian = hessian(columns, tokens);
        for i in 0..columns {
            for j in 0..columns {
                let (lower, upper) = (i.max(j), i.min(j));
                let sum = (0..tokens).fold(0.0, |sum, t| sum + x(t, lower) * x(t, upper));
                assert_eq!(hessian.values()[i * columns + j], 2.0 / tokens as f64 * sum);
            }
        }
    }

    #[test]
    fn the_factor_squared_is_the_damped_hessian() {
        for (columns, act_order) in [(3, false), (33, true), (100, false)] {
            let hessian = hessian(columns, 3 * columns);
            let factor = hessian.factor(0.01, act_order).unwrap();
            let mean = hessian.diagonal().sum::<f64>() / columns as f64;
            let n = |j: usize, k: usize| {
                let root = factor.cost(j).sqrt();
                if k < j { factor.feedback(j)[k] * root } else { root }
            };
            for i in 0..columns {
                for j in 0..=i {
                    let product: f64 = (i..columns).map(|k| n(k, i) * n(k, j)).sum();
                    let (row, column) = (factor.order()[i], factor.order()[j]);
                    let damp = if i == j { 0.01 * mean } else { 0.0 };
                    let expected = hessian.values()[row * columns + column] + damp;
                    assert!((product - expected).abs() < 1e-12, "{i} {j}: {product} {expected}");
                }
            }
            assert!(
                !act_order
                    || factor.order().windows(2).all(|pair| {
                        let of = |column: usize| hessian.values()[column * (columns + 1)];
                        of(pair[0]) >= of(pair[1])
                    })
            );
        }
    }

    #[test]
    fn damping_is_raised_by_tens_until_the_factorization_passes() {
        // Fewer tokens than columns: without damping the matrix has no inverse.
        let hessian = hessian(20, 6);
        assert_eq!(hessian.factor(0.0, false).unwrap().damping(), 1e-4);
        assert_eq!(hessian.factor(1e-18, false).unwrap().damping(), 1e-4);
        assert_eq!(hessian.factor(0.02, false).unwrap().damping(), 0.02);
        let mut wrong = hessian.clone();
        wrong.values.iter_mut().for_each(|x| *x = -*x);
        assert_eq!(wrong.factor(0.01, false), Err(NotPositive));
    }

    #[test]
    fn inputs_that_are_no_numbers_have_no_hessian() {
        let mut moments = InputMoments::new(2);
        moments.add(&[1.0, f32::NAN]);
        assert!(moments.finish().is_none());
    }
}
