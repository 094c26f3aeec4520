//! The leaky integrate-and-fire neuron, scanned over time, and the residual it adds to.

use qslm_common::scheme::Membrane;

use super::simd::per_instruction_set;

/// The threshold at which a neuron fires.
pub const THRESHOLD: f32 = 1.0;

/// Scans `input` through a population of LIF neurons and adds their spikes to `residual`.
///
/// Per channel and step, with the potential `v` (tau = 2, hard reset to 0; docs/model.md, The network):
/// `h = v + (x - v) / 2`, `s = step(h - 1)`, `v = (1 - s) h`.
///
/// - `input`, `residual`: `[time, channel]`.
/// - `potential`: `[channel]`, carried from piece to piece; zeros at the start of a sequence.
/// - `membrane`: the scheme that the potential carried on is rounded to; `None` for float.
///
/// Returns the number of spikes.
///
/// # Panics
/// If `residual` and `input` differ in length or are not a multiple of the channels.
pub fn scan(input: &[f32], potential: &mut [f32], residual: &mut [f32], membrane: Option<Membrane>) -> u64 {
    assert_eq!(input.len(), residual.len());
    assert_eq!(input.len() % potential.len(), 0);
    match membrane {
        None => scan_rows(input, potential, residual),
        Some(grid) => scan_fixed(input, potential, residual, grid.step(), grid.min(), grid.max()),
    }
}

/// The sums `h` that a [`scan`] of the same arguments compares with the threshold, `[time, channel]`.
pub fn potentials(input: &[f32], potential: &[f32], membrane: Option<Membrane>) -> Vec<f32> {
    let (mut v, mut unused) = (potential.to_vec(), vec![0.0; potential.len()]);
    let mut all = Vec::with_capacity(input.len());
    for row in input.chunks_exact(potential.len()) {
        all.extend(v.iter().zip(row).map(|(v, x)| v + (x - v) / 2.0));
        scan(row, &mut v, &mut unused, membrane);
    }
    all
}

per_instruction_set! {
    fn scan_rows(input: &[f32], potential: &mut [f32], residual: &mut [f32]) -> u64 {
        scan_keeping(input, potential, residual, |h| h)
    }
}

per_instruction_set! {
    /// Scan of rows, with the potentials that are carried on rounded to a multiple of `step`, a power of two,
    /// and clamped.
    fn scan_fixed(
        input: &[f32],
        potential: &mut [f32],
        residual: &mut [f32],
        step: f32,
        min: f32,
        max: f32,
    ) -> u64 {
        scan_keeping(input, potential, residual, |h| {
            let kept = (h / step).round_ties_even() * step;
            // Comparisons that NaN passes through.
            let kept = if kept < min { min } else { kept };
            if kept > max { max } else { kept }
        })
    }
}

/// The scan; `keep` says what a neuron that does not fire remembers of the sum that it compared.
#[inline(always)]
fn scan_keeping(
    input: &[f32],
    potential: &mut [f32],
    residual: &mut [f32],
    keep: impl Fn(f32) -> f32,
) -> u64 {
    let channels = potential.len();
    let mut spikes = 0;
    for (x, out) in input.chunks_exact(channels).zip(residual.chunks_exact_mut(channels)) {
        let mut row_spikes = 0u32;
        for ((x, v), out) in x.iter().zip(potential.iter_mut()).zip(out.iter_mut()) {
            let h = *v + (*x - *v) / 2.0;
            let fires = h >= THRESHOLD;
            *v = if fires { 0.0 } else { keep(h) };
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

    /// Potentials before the reset, and spikes, of one neuron under constant input.
    fn constant(x: f32, steps: usize) -> Vec<bool> {
        let mut residual = vec![0.0; steps];
        scan(&vec![x; steps], &mut [0.0], &mut residual, None);
        residual.iter().map(|spike| *spike == 1.0).collect()
    }

    #[test]
    fn the_potential_follows_the_closed_form_until_the_first_spike() {
        for x in [0.25f32, 0.75, 0.999] {
            let mut v = [0.0];
            for t in 1..=20 {
                scan(&[x], &mut v, &mut [0.0], None);
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
            let spikes = scan(&input, &mut [0.0; 4], &mut whole, membrane);
            for cut in 0..=15 {
                let (mut v, mut pieces) = ([0.0; 4], vec![0.0; 60]);
                let (head, tail) = pieces.split_at_mut(cut * 4);
                let sum = scan(&input[..cut * 4], &mut v, head, membrane)
                    + scan(&input[cut * 4..], &mut v, tail, membrane);
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
                scan(row, &mut v, &mut [0.0; 4], Some(grid));
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
            scan(&input, &mut [0.0; 4], &mut residual, membrane);
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
            let shown = potentials(&input, &[0.25; 4], membrane);
            scan(&input, &mut [0.25; 4], &mut residual, membrane);
            assert!(shown.iter().zip(&residual).all(|(h, spike)| (*h >= THRESHOLD) == (*spike == 1.0)));
        }
    }
}
