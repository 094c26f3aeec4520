//! Quantization inside training: weights on their grid going forward, straight-through and learned steps going back.
//!
//! The parameters are floats (*master weights*) or what int8 codes stand for ([`crate::states`]), and the scales and zero
//! points of every run beside them, under `UNIT.scales` and `UNIT.zero_points`. A step computes with what their codes stand
//! for, with the scales rounded as they are stored, so that what is trained is what is deployed. Source: docs/model.md
//! (Training).

use std::borrow::Cow;
use std::collections::BTreeMap;

use qslm_common::backend::Backend;
use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::network::Network;
use qslm_common::scheme::{Format, Granularity, Quantizer, Range, Rounding, Scales, Scheme, Symmetry};
use qslm_engine::kernels::gradient::{fake_quant, rate};
use qslm_engine::kernels::grid::{self, Grid};
use qslm_engine::quant::{
    Codes, Statistics, Weights, exponent_of, fake_quantize, power_of, quantize, to_half,
};

use crate::parallel::for_each;
use crate::tensors::{Parameters, Tensors};
use crate::weights::Source;

/// Least scale of a unit, as a share of its largest weight: below it a grid is no use, and a division overflows.
const LEAST_SCALE: f32 = 1.0 / (1 << 20) as f32;

/// Reason why a candidate cannot be trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotTrain {
    /// The candidate is not one of the network.
    #[error(transparent)]
    Candidate(#[from] InvalidCandidate),
    /// Widths that differ within a matrix.
    #[error("unit {unit}: {scheme} has mixed widths, which are not trained")]
    MixedWidths {
        /// Name of the unit.
        unit: String,
        /// Its scheme.
        scheme: Scheme,
    },
    /// Int8 states of another optimizer than Lion.
    #[error("training state in int8 is for the optimizer lion")]
    Int8Moments,
    /// Rounding of what training computes in float.
    #[error("the candidate rounds activations or membranes: training rounds weights only")]
    Inner,
    /// A backend that finds no gradients.
    #[error("this program does not train on the backend {0}")]
    Backend(Backend),
}

/// How the tensors of a candidate are stored while they train.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeQuant {
    /// Units with a learned grid.
    grids: BTreeMap<String, UnitGrid>,
    /// Schemes of the other units.
    others: BTreeMap<String, Scheme>,
    /// Scheme of one-dimensional parameters.
    vectors: Scheme,
    /// Rows and columns, by the name of a unit.
    shapes: BTreeMap<String, (usize, usize)>,
    /// D.
    channels: usize,
}

/// The grid of a unit.
#[derive(Debug, Clone, PartialEq)]
struct UnitGrid {
    format: Format,
    /// Number of weights.
    size: usize,
    columns: usize,
    /// Least scale.
    least: f32,
    /// True if the codes have a step instead of a width, so that an entropy coder stores them.
    is_coded: bool,
    /// Codes that stay what they are, so that scales alone are learned; empty if they follow the weights.
    frozen: Vec<i8>,
}

/// Name of the scales of a unit among the parameters.
pub fn scales_of(unit: &str) -> String {
    format!("{unit}.scales")
}

/// Name of the zero points of a unit among the parameters.
pub fn zero_points_of(unit: &str) -> String {
    format!("{unit}.zero_points")
}

impl FakeQuant {
    /// Quantization as a candidate has it, of the units that are among the parameters. Scales, and zero points of affine codes, are added to the parameters: those of
    /// the range with the least squared error, or of the step that a scheme names.
    ///
    /// # Errors
    /// [`CannotTrain`].
    pub fn new(
        network: &Network,
        candidate: &Candidate,
        parameters: &mut Tensors,
    ) -> Result<Self, CannotTrain> {
        without_artifacts(network, candidate).validate(network)?;
        let rounds = network.units().iter().any(|unit| candidate.activation(&unit.name).is_some())
            || network.populations().iter().any(|population| candidate.membrane(population).is_some());
        if rounds {
            return Err(CannotTrain::Inner);
        }
        let (mut grids, mut others) = (BTreeMap::new(), BTreeMap::new());
        for unit in network.units() {
            let scheme = candidate.scheme(&unit.name);
            if scheme.widths(unit.rows, unit.columns) > 0 {
                return Err(CannotTrain::MixedWidths { unit: unit.name, scheme });
            }
            let Scheme::Integer { format, quantizer } = scheme else {
                others.insert(unit.name, scheme);
                continue;
            };
            let range = match quantizer.range {
                Range::Step(_) => quantizer.range,
                _ => Range::LeastSquares,
            };
            let Some(values) = parameters.find(&unit.name) else { continue };
            let weights = Weights { values, columns: unit.columns, unit: &unit.name };
            let nearest = Quantizer { rounding: Rounding::Nearest, range };
            let codes = quantize(weights, format, nearest, &Statistics::NONE);
            let largest = weights.values.iter().fold(0.0f32, |top, w| top.max(w.abs()));
            let (least, is_coded) = (largest * LEAST_SCALE, matches!(range, Range::Step(_)));
            let (size, columns) = (weights.values.len(), unit.columns);
            let grid = UnitGrid { format, size, columns, least, is_coded, frozen: Vec::new() };
            grids.insert(unit.name.clone(), grid);
            put_grid(&unit.name, &codes, parameters);
        }
        let shapes = network.units().into_iter().map(|unit| (unit.name, (unit.rows, unit.columns))).collect();
        let channels = network.channels as usize;
        Ok(Self { grids, others, vectors: candidate.vectors(), shapes, channels })
    }

    /// Names of the units with a learned grid.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.grids.keys().map(String::as_str)
    }

    /// Gives a unit codes that stay what they are: its scales are learned, its weights and zero points are not (E2E-QP of
    /// EfficientQAT). They may have been chosen elsewhere.
    ///
    /// `parameters` has the scales at least.
    ///
    /// # Panics
    /// If the unit has no learned grid, or the codes do not fit it.
    pub fn freeze(&mut self, unit: &str, codes: Codes, parameters: &mut Tensors) {
        let grid = self.grids.get_mut(unit).unwrap_or_else(|| panic!("{unit} has no learned grid"));
        assert_eq!((grid.format, grid.columns), (codes.format, codes.columns), "{unit}");
        assert_eq!(codes.values.len(), grid.size, "{unit}");
        put_grid(unit, &codes, parameters);
        grid.frozen = codes.values;
    }

    /// Takes gradients in what a step computed with to those in the parameters: straight-through for weights, LSQ's for
    /// scales and zero points. Of schemes without a learned grid gradients stay as they are, and so are those of a unit
    /// whose matrix is not among them.
    ///
    /// `bit_cost` is what a bit costs, as a mean over all weights whose codes have a step instead of a width, in nats: the
    /// gradient of what an entropy coder takes for them is added.
    pub fn straight_through<'g>(
        &self,
        parameters: &impl Parameters,
        gradients: impl IntoIterator<Item = (&'g str, &'g mut [f32])>,
        bit_cost: f32,
        buffers: &mut [Vec<f32>],
    ) {
        let coded: usize = self.grids.values().filter(|unit| unit.is_coded).map(|unit| unit.size).sum();
        let of_weight = bit_cost / coded.max(1) as f32;
        let mut jobs: BTreeMap<&str, [&mut [f32]; 3]> = BTreeMap::new();
        for (name, gradient) in gradients {
            let of_unit =
                |suffix: &str| name.strip_suffix(suffix).filter(|unit| self.grids.contains_key(*unit));
            let (unit, place) = match (of_unit(".scales"), of_unit(".zero_points")) {
                (Some(unit), _) => (unit, 1),
                (_, Some(unit)) => (unit, 2),
                _ => (name, 0),
            };
            if let Some((unit, _)) = self.grids.get_key_value(unit) {
                jobs.entry(unit).or_default()[place] = gradient;
            }
        }
        let mut jobs: Vec<_> = jobs.into_iter().filter(|(_, [d, ..])| !d.is_empty()).collect();
        // The largest first, so that no thread is left with it at the end.
        jobs.sort_by_key(|(_, [d, ..])| std::cmp::Reverse(d.len()));
        for_each(buffers, jobs, |buffer, (name, [d, d_scales, d_zeros])| {
            let unit = &self.grids[name];
            let grids = unit.grids(name, parameters.floats());
            if !unit.frozen.is_empty() {
                let runs = unit.runs(&unit.frozen).zip(unit.runs(d)).zip(grids);
                for (((codes, d), grid), d_scale) in runs.zip(d_scales) {
                    *d_scale = fake_quant::backward_of_codes(codes, grid, d);
                }
                d.fill(0.0);
                d_zeros.fill(0.0);
                return;
            }
            let runs = unit.ranges().zip(unit.runs_mut(d)).zip(grids);
            for (run, ((range, d), grid)) in runs.enumerate() {
                let weights = parameters.weights(name, range, buffer);
                let gradient = fake_quant::backward(weights, grid, d);
                d_scales[run] = gradient.scale;
                if unit.is_coded && bit_cost != 0.0 && grid.scale > 0.0 {
                    let width = rate::width(weights, grid.scale);
                    d_scales[run] += rate::add(weights, grid.scale, width, of_weight, d);
                }
                if let Some(zero) = d_zeros.get_mut(run) {
                    *zero = gradient.zero;
                }
            }
        });
    }

    /// The codes of a unit; `None` if its scheme has none.
    pub fn codes(&self, name: &str, parameters: &impl Parameters) -> Option<Codes> {
        let unit = self.grids.get(name)?;
        let grids: Vec<Grid> = unit.grids(name, parameters.floats()).collect();
        let mut values = unit.frozen.clone();
        if values.is_empty() {
            values.resize(unit.size, 0);
            let runs = unit.ranges().zip(unit.runs_mut(&mut values)).zip(&grids);
            let mut buffer = Vec::new();
            for ((range, codes), grid) in runs {
                let run = parameters.weights(name, range, &mut buffer);
                grid::codes(run, *grid, 0, &|steps: f32, _| steps.round_ties_even(), codes);
            }
        }
        let affine = unit.format.symmetry == Symmetry::Affine;
        let zero_points =
            if affine { grids.iter().map(|grid| grid.zero as i8).collect() } else { Vec::new() };
        let scales = grids.iter().map(|grid| grid.scale).collect();
        let (format, columns, widths) = (unit.format, unit.columns, Vec::new());
        Some(Codes { format, columns, values, scales, zero_points, widths })
    }
}

/// Parameters on the grids that they train with.
#[derive(Debug)]
pub struct Quantized<'p, P = Tensors> {
    /// How they are stored.
    pub quant: &'p FakeQuant,
    /// Master weights, vectors, scales, zero points.
    pub parameters: &'p P,
}

impl<P: Parameters> Source for Quantized<'_, P> {
    fn values<'a>(&'a self, name: &str, buffer: &'a mut Vec<f32>) -> Cow<'a, [f32]> {
        let Self { quant, parameters } = *self;
        match (quant.grids.get(name), quant.others.get(name)) {
            (Some(unit), _) => {
                buffer.resize(unit.size, 0.0);
                let grids = unit.grids(name, parameters.floats());
                if unit.frozen.is_empty() {
                    let mut weights = Vec::new();
                    for ((range, out), grid) in unit.ranges().zip(unit.runs_mut(buffer)).zip(grids) {
                        fake_quant::forward(parameters.weights(name, range, &mut weights), grid, out);
                    }
                } else {
                    let runs = unit.runs(&unit.frozen).zip(unit.runs_mut(buffer)).zip(grids);
                    runs.for_each(|((codes, out), grid)| grid::weights(codes, grid, out));
                }
                Cow::Borrowed(buffer)
            }
            (None, Some(scheme)) => {
                let (rows, columns) = quant.shapes[name];
                stored(parameters.weights(name, 0..rows * columns, buffer), columns, *scheme, name)
            }
            (None, None) => stored(parameters.floats().get(name), quant.channels, quant.vectors, name),
        }
    }
}

/// The candidate with schemes that take no codes from elsewhere: training makes them.
fn without_artifacts(network: &Network, candidate: &Candidate) -> Candidate {
    network.units().iter().fold(candidate.clone(), |candidate, unit| {
        let scheme = candidate.scheme(&unit.name).uncalibrated();
        candidate.with([unit.name.as_str()], scheme)
    })
}

/// Puts the grids of codes among the parameters.
fn put_grid(unit: &str, codes: &Codes, parameters: &mut Tensors) {
    parameters.insert(&scales_of(unit), codes.scales.clone());
    if codes.format.symmetry == Symmetry::Affine {
        let zeros = codes.zero_points.iter().map(|zero| f32::from(*zero)).collect();
        parameters.insert(&zero_points_of(unit), zeros);
    }
}

/// The values that a scheme without a learned grid stores; those of a sign are what they are, since only that is seen.
fn stored<'a>(values: &'a [f32], columns: usize, scheme: Scheme, name: &str) -> Cow<'a, [f32]> {
    match scheme {
        Scheme::Float | Scheme::Sign => Cow::Borrowed(values),
        _ => fake_quantize(Cow::Borrowed(values), columns, scheme, name).into(),
    }
}

impl UnitGrid {
    /// Lengths of what a row is cut from, and of a run.
    fn lengths(&self, size: usize) -> (usize, usize) {
        match self.format.granularity {
            Granularity::Tensor => (size, size),
            granularity => (self.columns, granularity.run(self.columns)),
        }
    }

    /// The runs of a matrix that share a scale, in storage order.
    fn runs<'a, T>(&self, matrix: &'a [T]) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
        let (row, run) = self.lengths(matrix.len());
        matrix.chunks(row).flat_map(move |row| row.chunks(run))
    }

    /// The places of [`UnitGrid::runs`].
    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (size, (row, run)) = (self.size, self.lengths(self.size));
        (0..size).step_by(row).flat_map(move |start| {
            let end = size.min(start + row);
            (start..end).step_by(run).map(move |start| start..end.min(start + run))
        })
    }

    /// As [`UnitGrid::runs`], to be changed.
    fn runs_mut<'a, T>(&self, matrix: &'a mut [T]) -> impl Iterator<Item = &'a mut [T]> + use<'a, T> {
        let (row, run) = self.lengths(matrix.len());
        matrix.chunks_mut(row).flat_map(move |row| row.chunks_mut(run))
    }

    /// The grids of a unit's runs, with scales as they are stored and whole zero points.
    fn grids<'a>(&self, name: &str, parameters: &'a Tensors) -> impl Iterator<Item = Grid> + use<'a> {
        let zeros = parameters.find(&zero_points_of(name)).unwrap_or_default();
        let (format, least) = (self.format, self.least);
        let scales = parameters.get(&scales_of(name)).iter().enumerate();
        scales.map(move |(run, scale)| {
            let (q_min, q_max) = (format.q_min(), format.q_max());
            let zero = zeros.get(run).map_or(0.0, |zero| zero.round_ties_even());
            let zero = (zero as i32).clamp(q_min, q_max);
            let scale = stored_scale(scale.max(least), format.scales);
            Grid { scale, zero, offset: format.offset(), q_min, q_max }
        })
    }
}

/// A scale as it is stored.
fn stored_scale(scale: f32, scales: Scales) -> f32 {
    match scales {
        Scales::F32 => scale,
        Scales::F16 => to_half(scale).to_f32(),
        Scales::Pow2 if scale > 0.0 => power_of(exponent_of(scale)),
        Scales::Pow2 => scale,
    }
}
