//! Perceptron of several layers, rectified between them: outputs of a batch, and gradients by hand.

/// Layers of weights and biases, in one list: what optimises them need not know which is which.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mlp {
    /// Numbers that enter the first layer, each further one, and that leave the last.
    sizes: Vec<usize>,
    /// Parameters, layer by layer: weights `[inputs, outputs]`, then biases `[outputs]`.
    pub(super) parameters: Vec<f64>,
}

/// Rows of a batch that share a pass over the weights: their sums stay in the nearest cache meanwhile.
const ROWS_AT_A_TIME: usize = 8;

/// Sums that run beside each other in a product of rows. Their order is fixed, and a compiler makes vectors of them.
const LANES: usize = 8;

impl Mlp {
    /// A perceptron whose parameters `draw` chooses, given the layer, the input (or none for a bias) and the number of
    /// inputs.
    pub(super) fn new(sizes: &[usize], mut draw: impl FnMut(usize, Option<usize>, usize) -> f64) -> Self {
        let mut parameters = Vec::new();
        for (layer, pair) in sizes.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            for input in 0..inputs {
                parameters.extend((0..outputs).map(|_| draw(layer, Some(input), inputs)));
            }
            parameters.extend((0..outputs).map(|_| draw(layer, None, inputs)));
        }
        Self { sizes: sizes.to_vec(), parameters }
    }

    /// Number of layers.
    fn layers(&self) -> usize {
        self.sizes.len() - 1
    }

    /// Place of each layer's weights in the list of parameters, and of its biases.
    fn places(&self) -> Vec<(usize, usize)> {
        let mut at = 0;
        let place = |pair: &[usize]| {
            let weights = at;
            at += (pair[0] + 1) * pair[1];
            (weights, weights + pair[0] * pair[1])
        };
        self.sizes.windows(2).map(place).collect()
    }

    /// What enters each layer for a batch `[rows, inputs]`, and last what leaves the last one.
    pub(super) fn forward(&self, batch: Vec<f64>) -> Vec<Vec<f64>> {
        let places = self.places();
        let mut values = vec![batch];
        for layer in 0..self.layers() {
            let (inputs, outputs) = (self.sizes[layer], self.sizes[layer + 1]);
            let (weights, biases) = places[layer];
            let entering = &values[layer];
            let mut leaving = Vec::with_capacity(entering.len() / inputs * outputs);
            for _ in 0..entering.len() / inputs {
                leaving.extend_from_slice(&self.parameters[biases..biases + outputs]);
            }
            multiply(entering, &self.parameters[weights..biases], &mut leaving, inputs, outputs);
            if layer + 1 < self.layers() {
                leaving.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            values.push(leaving);
        }
        values
    }

    /// Adds the gradient by each parameter to `gradient`, where one is wanted. `values` are those of [`Mlp::forward`], and
    /// `by_outputs` is the gradient by what left the last layer. Returns the gradient by the batch.
    pub(super) fn backward(
        &self,
        values: &[Vec<f64>],
        by_outputs: Vec<f64>,
        mut gradient: Option<&mut [f64]>,
    ) -> Vec<f64> {
        let places = self.places();
        let mut leaving = by_outputs;
        for layer in (0..self.layers()).rev() {
            let (inputs, outputs) = (self.sizes[layer], self.sizes[layer + 1]);
            let (weights, biases) = places[layer];
            let entering = &values[layer];
            if let Some(gradient) = gradient.as_deref_mut() {
                let (by_weights, by_biases) =
                    gradient[weights..biases + outputs].split_at_mut(biases - weights);
                add_outer(entering, &leaving, by_weights, inputs, outputs);
                leaving.chunks_exact(outputs).for_each(|row| add_scaled(by_biases, 1.0, row));
            }
            let weights = &self.parameters[weights..biases];
            let mut by_entering = Vec::with_capacity(entering.len());
            for (values, leaving) in entering.chunks_exact(inputs).zip(leaving.chunks_exact(outputs)) {
                let inputs = values.iter().zip(weights.chunks_exact(outputs));
                // What a hidden unit cut off has no gradient.
                by_entering.extend(inputs.map(|(value, weights)| match layer > 0 && *value <= 0.0 {
                    true => 0.0,
                    false => dot(leaving, weights),
                }));
            }
            leaving = by_entering;
        }
        leaving
    }
}

/// Adds the product of `entering` `[rows, inputs]` and `weights` `[inputs, outputs]` to `leaving`.
fn multiply(entering: &[f64], weights: &[f64], leaving: &mut [f64], inputs: usize, outputs: usize) {
    let rows = entering.chunks(ROWS_AT_A_TIME * inputs).zip(leaving.chunks_mut(ROWS_AT_A_TIME * outputs));
    for (entering, leaving) in rows {
        for (input, weights) in weights.chunks_exact(outputs).enumerate() {
            for (row, leaving) in leaving.chunks_exact_mut(outputs).enumerate() {
                add_scaled(leaving, entering[row * inputs + input], weights);
            }
        }
    }
}

/// Adds the product of `entering` `[rows, inputs]`, transposed, and `leaving` `[rows, outputs]` to `by_weights`.
fn add_outer(entering: &[f64], leaving: &[f64], by_weights: &mut [f64], inputs: usize, outputs: usize) {
    let rows = entering.chunks(ROWS_AT_A_TIME * inputs).zip(leaving.chunks(ROWS_AT_A_TIME * outputs));
    for (entering, leaving) in rows {
        for (input, by_weights) in by_weights.chunks_exact_mut(outputs).enumerate() {
            for (row, leaving) in leaving.chunks_exact(outputs).enumerate() {
                add_scaled(by_weights, entering[row * inputs + input], leaving);
            }
        }
    }
}

/// Adds `scale * row` to `sums`.
fn add_scaled(sums: &mut [f64], scale: f64, row: &[f64]) {
    // Half of what leaves rectified units.
    if scale == 0.0 {
        return;
    }
    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += scale * value);
}

/// Sum of products, in lanes that are added up in their order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_lanes.remainder().iter().zip(b_lanes.remainder());
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(sizes: &[usize], rng: &mut ChaCha8Rng) -> Mlp {
        Mlp::new(sizes, |_, _, _| rng.random_range(-1.0..1.0))
    }

    #[test]
    fn outputs_are_those_of_the_definition() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let network = random(&[3, 11, 2], &mut rng);
        let batch: Vec<f64> = (0..3 * 20).map(|_| rng.random_range(-1.0..1.0)).collect();
        let outputs = network.forward(batch.clone()).pop().unwrap();
        let weight = |at: usize, input: usize, outputs: usize, output: usize| {
            network.parameters[at + input * outputs + output]
        };
        for row in 0..20 {
            let hidden: Vec<f64> = (0..11)
                .map(|unit| {
                    let sum = (0..3).map(|input| batch[row * 3 + input] * weight(0, input, 11, unit));
                    (sum.sum::<f64>() + weight(0, 3, 11, unit)).max(0.0)
                })
                .collect();
            for output in 0..2 {
                let sum = (0..11).map(|unit| hidden[unit] * weight(44, unit, 2, output)).sum::<f64>();
                let expected = sum + weight(44, 11, 2, output);
                assert!((outputs[row * 2 + output] - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let network = random(&[4, 19, 17, 2], &mut rng);
        let batch: Vec<f64> = (0..4 * 11).map(|_| rng.random_range(-1.0..1.0)).collect();
        // Half the sum of squared outputs.
        let loss = |network: &Mlp, batch: &[f64]| {
            let outputs = network.forward(batch.to_vec()).pop().unwrap();
            outputs.iter().map(|output| output * output / 2.0).sum::<f64>()
        };
        let values = network.forward(batch.clone());
        let mut gradient = vec![0.0; network.parameters.len()];
        let by_batch = network.backward(&values, values.last().unwrap().clone(), Some(&mut gradient));
        const STEP: f64 = 1e-6;
        for (at, gradient) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut network = network.clone();
                network.parameters[at] += by;
                loss(&network, &batch)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!((gradient - expected).abs() < 1e-6 * expected.abs().max(1.0), "parameter {at}");
        }
        for (at, gradient) in by_batch.iter().enumerate() {
            let moved = |by: f64| {
                let mut batch = batch.clone();
                batch[at] += by;
                loss(&network, &batch)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!((gradient - expected).abs() < 1e-6 * expected.abs().max(1.0), "input {at}");
        }
        assert_eq!(network.backward(&values, values.last().unwrap().clone(), None), by_batch);
    }
}
