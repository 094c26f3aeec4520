//! Paired inputs: what enters a matrix in the float network and, at the same tokens, in the network as far as it is rounded.

use std::collections::BTreeMap;

use qslm_common::network::Unit;
use qslm_engine::model::{Hook, SpikeGpt};
use qslm_engine::quant::{Hessian, InputMoments};
use qslm_engine::task::{Dataset, watch_part};

use super::failed;
use crate::exit::Outcome;

/// Second moments of a matrix's inputs x in the float network and z in the rounded one.
pub(super) struct Paired {
    /// `2/T sum z z^T`.
    pub(super) rounded: Hessian,
    /// `2/T sum x z^T`, `[columns, columns]`.
    pub(super) cross: Vec<f64>,
}

#[derive(Default)]
struct Seen(BTreeMap<String, Vec<f32>>);

impl Hook for Seen {
    fn input(&mut self, unit: &str, x: &[f32]) {
        self.0.entry(unit.to_owned()).or_default().extend(x);
    }
}

impl Paired {
    /// Moments of the matrices of a part, in their order.
    pub(super) fn see(
        float: &SpikeGpt,
        rounded: &SpikeGpt,
        data: &Dataset,
        part: u32,
        units: &[(Unit, Hessian)],
    ) -> Outcome<Vec<Self>> {
        let columns = || units.iter().map(|(unit, _)| unit.columns);
        let mut moments: Vec<_> = columns().map(InputMoments::new).collect();
        let mut cross: Vec<_> = columns().map(|columns| vec![0.0; columns * columns]).collect();
        let mut tokens = 0;
        for sequence in 0..data.len() {
            let (mut x, mut z) = (Seen::default(), Seen::default());
            watch_part(float, data, sequence, part, &mut x);
            watch_part(rounded, data, sequence, part, &mut z);
            for (index, (unit, _)) in units.iter().enumerate() {
                let (Some(x), Some(z)) = (x.0.get(&unit.name), z.0.get(&unit.name)) else { continue };
                moments[index].add(z);
                add_products(x, z, unit.columns, &mut cross[index]);
                if index == 0 {
                    tokens += x.len() / unit.columns;
                }
            }
        }
        let finish = |(moments, mut cross): (InputMoments, Vec<f64>)| {
            cross.iter_mut().for_each(|sum| *sum *= 2.0 / tokens.max(1) as f64);
            let rounded = moments.finish().ok_or_else(|| failed(&"the inputs of a matrix are not finite"))?;
            Ok(Self { rounded, cross })
        };
        moments.into_iter().zip(cross).map(finish).collect()
    }
}

/// Adds `x z^T` of every token to the sums.
fn add_products(x: &[f32], z: &[f32], columns: usize, sums: &mut [f64]) {
    for (x, z) in x.chunks_exact(columns).zip(z.chunks_exact(columns)) {
        for (x, sums) in x.iter().zip(sums.chunks_exact_mut(columns)) {
            // Inputs behind a relu are mostly zeros.
            if *x != 0.0 {
                sums.iter_mut().zip(z).for_each(|(sum, z)| *sum += f64::from(*x) * f64::from(*z));
            }
        }
    }
}
