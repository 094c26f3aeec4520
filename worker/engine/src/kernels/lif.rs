//! The leaky integrate-and-fire neuron, scanned over time, and the residual it adds to.

use super::simd::per_instruction_set;

/// The threshold at which a neuron fires.
pub const THRESHOLD: f32 = 1.0;

/// Scans `input` through a population of LIF neurons and adds their spikes to `residual`.
///
/// Per channel and step, with the potential `v` (tau = 2, hard reset to 0, MODEL.md section 1):
/// `h = v + (x - v) / 2`, `s = step(h - 1)`, `v = (1 - s) h`.
///
/// - `input`, `residual`: `[time, channel]`.
/// - `potential`: `[channel]`, carried from piece to piece; zeros at the start of a sequence.
///
/// Returns the number of spikes.
///
/// # Panics
/// If `residual` and `input` differ in length or are not a multiple of the channels.
pub fn scan(input: &[f32], potential: &mut [f32], residual: &mut [f32]) -> u64 {
    assert_eq!(input.len(), residual.len());
    assert_eq!(input.len() % potential.len(), 0);
    scan_rows(input, potential, residual)
}

per_instruction_set! {
    fn scan_rows(input: &[f32], potential: &mut [f32], residual: &mut [f32]) -> u64 {
        let channels = potential.len();
        let mut spikes = 0;
        for (x, out) in input.chunks_exact(channels).zip(residual.chunks_exact_mut(channels)) {
            let mut row_spikes = 0u32;
            for ((x, v), out) in x.iter().zip(potential.iter_mut()).zip(out.iter_mut()) {
                let h = *v + (*x - *v) / 2.0;
                let fires = h >= THRESHOLD;
                *v = if fires { 0.0 } else { h };
                *out += if fires { 1.0 } else { 0.0 };
                row_spikes += u32::from(fires);
            }
            spikes += u64::from(row_spikes);
        }
        spikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Potentials before the reset, and spikes, of one neuron under constant input.
    fn constant(x: f32, steps: usize) -> Vec<bool> {
        let mut residual = vec![0.0; steps];
        scan(&vec![x; steps], &mut [0.0], &mut residual);
        residual.iter().map(|spike| *spike == 1.0).collect()
    }

    #[test]
    fn the_potential_follows_the_closed_form_until_the_first_spike() {
        for x in [0.25f32, 0.75, 0.999] {
            let mut v = [0.0];
            for t in 1..=20 {
                scan(&[x], &mut v, &mut [0.0]);
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
        let mut whole = vec![0.0; 60];
        let spikes = scan(&input, &mut [0.0; 4], &mut whole);
        for cut in 0..=15 {
            let (mut v, mut pieces) = ([0.0; 4], vec![0.0; 60]);
            let (head, tail) = pieces.split_at_mut(cut * 4);
            let sum = scan(&input[..cut * 4], &mut v, head) + scan(&input[cut * 4..], &mut v, tail);
            assert_eq!((sum, &pieces), (spikes, &whole));
        }
    }
}
