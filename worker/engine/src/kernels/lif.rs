//! The leaky integrate-and-fire neuron, scanned over time, and the stream that its spikes are added to.

use qslm_common::network::{Comparison, Constant, Reset};
use qslm_common::scheme::Membrane;

use super::simd::per_instruction_set;

/// Neuron of a population, as scans compute with it: `h = leak v + gain x`, a spike where `h` reaches the threshold.
///
/// With a leak and a gain of a half, as SpikeGPT has them, `h = v + (x - v) / 2`: what its training code computes, to the
/// bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neuron {
    /// Share of the potential that is left after a token.
    pub leak: f32,
    /// Factor of the input.
    pub gain: f32,
    /// What a soft reset subtracts.
    pub threshold: f32,
    /// The smallest sum that fires.
    pub fires_at: f32,
    /// What becomes of a potential that fired.
    pub reset: Reset,
    /// The potential before the first token.
    pub initial: f32,
}

impl Neuron {
    /// SpikeGPT's (docs/model.md, The network).
    pub const SPIKEGPT: Self =
        Self { leak: 0.5, gain: 0.5, threshold: 1.0, fires_at: 1.0, reset: Reset::Hard, initial: 0.0 };

    /// The neuron of a population with this leak and threshold, whatever else it has.
    pub fn new(of: &qslm_common::network::Neuron, leak: f32, threshold: f32) -> Self {
        let fires_at = match of.comparison {
            Comparison::AtLeast => threshold,
            Comparison::Above => threshold.next_up(),
        };
        let (gain, initial) = (of.gain.value(), of.initial.value());
        Self { leak, gain, threshold, fires_at, reset: of.reset, initial }
    }

    /// The neuron of a population that learned nothing.
    pub fn fixed(of: &qslm_common::network::Neuron) -> Option<Self> {
        Some(Self::new(of, of.leak.fixed()?, of.threshold.fixed()?))
    }

    /// True if its sum is computed as the mean of potential and input.
    #[inline(always)]
    pub(crate) fn is_mean(&self) -> bool {
        self.leak == Constant::HALF.value() && self.gain == Constant::HALF.value()
    }

    /// The sum `h` of a potential and an input.
    #[inline(always)]
    pub(crate) fn charge(&self, v: f32, x: f32) -> f32 {
        if self.is_mean() { v + (x - v) / 2.0 } else { self.leak * v + self.gain * x }
    }
}

/// Scans `input` through a population of neurons and adds their spikes to `out`.
///
/// Per channel and step, with the potential `v`: the sum `h` as [`Neuron`] has it, `s = step(h - threshold)`, then the reset
/// where it fired, `v = h` elsewhere.
///
/// - `input`, `out`: `[time, channel]`.
/// - `potential`: `[channel]`, carried from piece to piece; the initial ones at the start of a sequence.
/// - `membrane`: the scheme that the potential carried on is rounded to; `None` for float.
///
/// Returns the number of spikes.
///
/// # Panics
/// If `out` and `input` differ in length or are not a multiple of the channels.
pub fn scan(
    neuron: &Neuron,
    input: &[f32],
    potential: &mut [f32],
    out: &mut [f32],
    membrane: Option<Membrane>,
) -> u64 {
    assert_eq!(input.len(), out.len());
    assert_eq!(input.len() % potential.len(), 0);
    match membrane {
        None => scan_rows(neuron, input, potential, out),
        Some(grid) => scan_fixed(neuron, input, potential, out, grid.step(), grid.min(), grid.max()),
    }
}

/// The sums `h` that a [`scan`] of the same arguments compares with the threshold, `[time, channel]`.
pub fn potentials(neuron: &Neuron, input: &[f32], potential: &[f32], membrane: Option<Membrane>) -> Vec<f32> {
    let (mut v, mut unused) = (potential.to_vec(), vec![0.0; potential.len()]);
    let mut all = Vec::with_capacity(input.len());
    for row in input.chunks_exact(potential.len()) {
        all.extend(v.iter().zip(row).map(|(v, x)| neuron.charge(*v, *x)));
        scan(neuron, row, &mut v, &mut unused, membrane);
    }
    all
}

per_instruction_set! {
    fn scan_rows(neuron: &Neuron, input: &[f32], potential: &mut [f32], out: &mut [f32]) -> u64 {
        scan_keeping(neuron, input, potential, out, |h| h)
    }
}

per_instruction_set! {
    /// Scan of rows, with the potentials that are carried on rounded to a multiple of `step`, a power of two,
    /// and clamped.
    fn scan_fixed(
        neuron: &Neuron,
        input: &[f32],
        potential: &mut [f32],
        out: &mut [f32],
        step: f32,
        min: f32,
        max: f32,
    ) -> u64 {
        scan_keeping(neuron, input, potential, out, |h| {
            let kept = (h / step).round_ties_even() * step;
            // Comparisons that NaN passes through.
            let kept = if kept < min { min } else { kept };
            if kept > max { max } else { kept }
        })
    }
}

/// The scan, compiled for each way to charge and to reset; `keep` says what is remembered of a potential.
#[inline(always)]
fn scan_keeping(
    neuron: &Neuron,
    input: &[f32],
    potential: &mut [f32],
    out: &mut [f32],
    keep: impl Fn(f32) -> f32,
) -> u64 {
    let Neuron { leak, gain, threshold, fires_at, reset, .. } = *neuron;
    let mean = |v: f32, x: f32| v + (x - v) / 2.0;
    let sum = |v: f32, x: f32| leak * v + gain * x;
    let hard = |_: f32| 0.0;
    let soft = |h: f32| keep(h - threshold);
    let none = |h: f32| keep(h);
    match (neuron.is_mean(), reset) {
        (true, Reset::Hard) => scan_with(input, potential, out, fires_at, mean, &keep, hard),
        (true, Reset::Soft) => scan_with(input, potential, out, fires_at, mean, &keep, soft),
        (true, Reset::None) => scan_with(input, potential, out, fires_at, mean, &keep, none),
        (false, Reset::Hard) => scan_with(input, potential, out, fires_at, sum, &keep, hard),
        (false, Reset::Soft) => scan_with(input, potential, out, fires_at, sum, &keep, soft),
        (false, Reset::None) => scan_with(input, potential, out, fires_at, sum, &keep, none),
    }
}

#[inline(always)]
fn scan_with(
    input: &[f32],
    potential: &mut [f32],
    out: &mut [f32],
    fires_at: f32,
    charge: impl Fn(f32, f32) -> f32,
    keep: impl Fn(f32) -> f32,
    reset: impl Fn(f32) -> f32,
) -> u64 {
    let channels = potential.len();
    let mut spikes = 0;
    for (x, out) in input.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let mut row_spikes = 0u32;
        for ((x, v), out) in x.iter().zip(potential.iter_mut()).zip(out.iter_mut()) {
            let h = charge(*v, *x);
            let fires = h >= fires_at;
            *v = if fires { reset(h) } else { keep(h) };
            *out += if fires { 1.0 } else { 0.0 };
            row_spikes += u32::from(fires);
        }
        spikes += u64::from(row_spikes);
    }
    spikes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIF: Neuron = Neuron::SPIKEGPT;

    /// Potentials before the reset, and spikes, of one neuron under constant input.
    fn constant(x: f32, steps: usize) -> Vec<bool> {
        let mut residual = vec![0.0; steps];
        scan(&LIF, &vec![x; steps], &mut [0.0], &mut residual, None);
        residual.iter().map(|spike| *spike == 1.0).collect()
    }

    #[test]
    fn the_potential_follows_the_closed_form_until_the_first_spike() {
        for x in [0.25f32, 0.75, 0.999] {
            let mut v = [0.0];
            for t in 1..=20 {
                scan(&LIF, &[x], &mut v, &mut [0.0], None);
                let expected = f64::from(x) * (1.0 - 0.5f64.powi(t));
                assert!((f64::from(v[0]) - expected).abs() < 1e-6, "x {x} t {t}");
            }
        }
    }

    #[test]
    fn a_neuron_below_threshold_never_fires() {
        for x in [-3.0, 0.0, 0.5, 0.9999] {
            assert!(constant(x, 1000).iter().all(|fires| !fires), "x {x}");
        }
    }

    #[test]
    fn the_first_spike_comes_at_the_closed_form_step() {
        for x in [2.0f32, 1.5, 1.1, 1.01, 3.0, 100.0] {
            let expected = (f64::from(x) / (f64::from(x) - 1.0)).log2().ceil().max(1.0) as usize;
            let first = constant(x, 64).iter().position(|fires| *fires).unwrap() + 1;
            assert_eq!(first, expected, "x {x}");
        }
        assert!(constant(2.0, 5).iter().all(|fires| *fires), "x = 2 fires at every step");
    }

    #[test]
    fn a_sequence_cut_anywhere_gives_the_same_bits() {
        let input: Vec<f32> = (0..60).map(|i| (i as f32 * 0.7).sin() * 2.0 + 0.4).collect();
        for membrane in [None, "fixed6:1".parse().ok()] {
            let mut whole = vec![0.0; 60];
            let spikes = scan(&LIF, &input, &mut [0.0; 4], &mut whole, membrane);
            for cut in 0..=15 {
                let (mut v, mut pieces) = ([0.0; 4], vec![0.0; 60]);
                let (head, tail) = pieces.split_at_mut(cut * 4);
                let sum = scan(&LIF, &input[..cut * 4], &mut v, head, membrane)
                    + scan(&LIF, &input[cut * 4..], &mut v, tail, membrane);
                assert_eq!((sum, &pieces), (spikes, &whole));
            }
        }
    }

    #[test]
    fn a_fixed_point_potential_stays_on_its_grid() {
        let input: Vec<f32> = (0..400).map(|i| (i as f32 * 0.37).sin() * 3.0 - 1.0).collect();
        for (bits, integer) in [(2, 0), (4, 1), (8, 1), (8, 3), (16, 2)] {
            let grid = Membrane::new(bits, integer).unwrap();
            let mut v = [0.0; 4];
            for row in input.chunks(4) {
                scan(&LIF, row, &mut v, &mut [0.0; 4], Some(grid));
                for v in v {
                    assert_eq!(v % grid.step(), 0.0, "{grid}: {v}");
                    assert!((grid.min()..=grid.max()).contains(&v), "{grid}: {v}");
                }
            }
        }
    }

    #[test]
    fn a_fine_grid_fires_as_floats_do() {
        // Sixteen bits leave 2^-13 of the threshold: inputs that do not come that close to it fire alike.
        let input: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let run = |membrane| {
            let mut residual = vec![0.0; 4000];
            scan(&LIF, &input, &mut [0.0; 4], &mut residual, membrane);
            residual
        };
        let float = run(None);
        let differ = |bits| {
            let fixed = run(Membrane::new(bits, 2).ok());
            fixed.iter().zip(&float).filter(|(a, b)| a != b).count()
        };
        assert_eq!(differ(16), 0);
        assert!(differ(3) > 0);
    }

    #[test]
    fn the_potentials_shown_are_those_that_fire() {
        let input: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for membrane in [None, "fixed5:2".parse().ok()] {
            let mut residual = vec![0.0; 40];
            let shown = potentials(&LIF, &input, &[0.25; 4], membrane);
            scan(&LIF, &input, &mut [0.25; 4], &mut residual, membrane);
            assert!(shown.iter().zip(&residual).all(|(h, spike)| (*h >= LIF.fires_at) == (*spike == 1.0)));
        }
    }

    /// A neuron by its definition, one step at a time.
    fn definition(neuron: &Neuron, input: &[f32]) -> Vec<bool> {
        let mut v = 0.0f32;
        let step = |x: &f32| {
            let h = if neuron.is_mean() { v + (x - v) / 2.0 } else { neuron.leak * v + neuron.gain * x };
            let fires = h >= neuron.fires_at;
            v = match neuron.reset {
                Reset::Hard if fires => 0.0,
                Reset::Soft if fires => h - neuron.threshold,
                _ => h,
            };
            fires
        };
        input.iter().map(step).collect()
    }

    #[test]
    fn neurons_of_every_kind_fire_as_they_are_defined() {
        let input: Vec<f32> = (0..500).map(|i| (i as f32 * 0.37).sin() * 3.0 + 0.5).collect();
        for reset in [Reset::Hard, Reset::Soft, Reset::None] {
            for (leak, gain) in [(0.5, 0.5), (0.5, 1.0), (0.75, 0.25), (0.0, 1.0), (1.0, 0.1)] {
                let neuron = Neuron { leak, gain, threshold: 0.7, fires_at: 0.7, reset, initial: 0.0 };
                let expected = definition(&neuron, &input);
                let mut out = vec![0.0; input.len()];
                let spikes = scan(&neuron, &input, &mut [0.0], &mut out, None);
                let found: Vec<bool> = out.iter().map(|spike| *spike == 1.0).collect();
                assert_eq!(found, expected, "{neuron:?}");
                assert_eq!(spikes, expected.iter().filter(|fires| **fires).count() as u64);
                let shown = potentials(&neuron, &input, &[0.0], None);
                assert!(shown.iter().zip(&expected).all(|(h, fires)| (*h >= neuron.fires_at) == *fires));
            }
        }
    }

    #[test]
    fn a_soft_reset_leaves_what_is_above_the_threshold() {
        let neuron = Neuron { leak: 1.0, gain: 1.0, reset: Reset::Soft, ..LIF };
        let mut v = [0.0];
        assert_eq!(scan(&neuron, &[2.5, 0.0, 0.0], &mut v, &mut [0.0; 3], None), 2);
        assert_eq!(v, [0.5]);
        let kept = Neuron { reset: Reset::None, ..neuron };
        let mut v = [0.0];
        assert_eq!(scan(&kept, &[2.5, 0.0, 0.0], &mut v, &mut [0.0; 3], None), 3);
        assert_eq!(v, [2.5]);
    }

    #[test]
    fn a_neuron_that_has_to_be_above_its_threshold_does_not_fire_at_it() {
        let of = |comparison| {
            let neuron = qslm_common::network::Neuron {
                comparison,
                gain: Constant::ONE,
                ..qslm_common::network::Neuron::SPIKEGPT
            };
            Neuron::fixed(&neuron).unwrap()
        };
        let fires = |comparison, x| scan(&of(comparison), &[x], &mut [0.0], &mut [0.0], None) == 1;
        assert!(fires(Comparison::AtLeast, 1.0) && !fires(Comparison::Above, 1.0));
        assert!(
            fires(Comparison::Above, 1.0f32.next_up()) && !fires(Comparison::AtLeast, 1.0f32.next_down())
        );
        assert_eq!(Neuron::fixed(&qslm_common::network::Neuron::SPIKEGPT), Some(LIF));
    }
}
