//! KL divergence of two softmax distributions, in 64 bits: what one network's predictions lack of another's.
//!
//! Small divergences are what is left of large numbers, so 32 bits are not enough. With logits p and q shifted by their
//! largest, `KL = sum w (p - q) + ln Zq - ln Zp` with `w = e^p / Zp`, which is exactly 0 for equal rows.

use qslm_common::elementary::ln;

use super::simd::per_instruction_set;

/// Lanes of partial sums: fixed, so that the order of additions does not depend on the processor.
const LANES: usize = 8;

/// KL(p || q) of the softmax of two rows of logits, in nats: 0 or more, but for rounding. NaN if a logit is no finite number.
///
/// # Panics
/// If the rows differ in length.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    assert_eq!(p.len(), q.len(), "rows of the same outputs");
    let tops = [largest(p), largest(q)];
    let [sum_p, sum_q, weighted] = sums(p, q, tops);
    weighted / sum_p + ln(sum_q) - ln(sum_p)
}

fn largest(logits: &[f32]) -> f64 {
    f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

per_instruction_set! {
    /// `sum e^p`, `sum e^q` and `sum e^p (p - q)`, of logits less their largest.
    fn sums(p: &[f32], q: &[f32], tops: [f64; 2]) -> [f64; 3] {
        let mut lanes = [[0.0f64; LANES]; 3];
        let (whole_p, whole_q) = (p.chunks_exact(LANES), q.chunks_exact(LANES));
        let rest = whole_p.remainder().iter().zip(whole_q.remainder());
        for (p, q) in whole_p.zip(whole_q) {
            for lane in 0..LANES {
                let (p, q) = (f64::from(p[lane]) - tops[0], f64::from(q[lane]) - tops[1]);
                let weight = exp(p);
                lanes[0][lane] += weight;
                lanes[1][lane] += exp(q);
                lanes[2][lane] += weight * (p - q);
            }
        }
        let mut sums = lanes.map(|lanes| lanes.iter().sum::<f64>());
        for (p, q) in rest {
            let (p, q) = (f64::from(*p) - tops[0], f64::from(*q) - tops[1]);
            let weight = exp(p);
            sums[0] += weight;
            sums[1] += exp(q);
            sums[2] += weight * (p - q);
        }
        sums
    }
}

/// Below this `e^x` is as good as none.
const LEAST: f64 = -700.0;

/// `e^x` for x of 0 or less, with a relative error of some 1e-16, in the same bits on every machine, which a library's
/// exponential does not promise.
///
/// Source: Cody and Waite range reduction, `e^x = 2^n e^r` with `|r| <= ln 2 / 2`, and the series of `e^r`.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// Adding and taking away 1.5 * 2^52 rounds to the nearest integer.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// `1 / k!` from k = 13 down to 0.
    const SERIES: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let clamped = if x < LEAST { LEAST } else { x };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut mantissa = SERIES[0];
    for factor in &SERIES[1..] {
        mantissa = mantissa * r + factor;
    }
    // n stands in the last bits of what was rounded.
    let scale = f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    mantissa * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library_but_for_the_last_bits() {
        for step in 0..=700_000 {
            let x = f64::from(step) * -1e-3;
            let (own, truth) = (exp(x), x.exp());
            assert!((own / truth - 1.0).abs() < 1e-15, "e^{x} = {own}, not {truth}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::NEG_INFINITY) < 1e-300 && exp(f64::NAN).is_nan());
    }

    #[test]
    fn the_divergence_is_that_of_two_coins_and_none_of_equal_rows() {
        let p = [0.75f64.ln() as f32, 0.25f64.ln() as f32];
        let q = [0.5f64.ln() as f32 + 3.0, 0.5f64.ln() as f32 + 3.0];
        let expected = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-7);
        let row: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        assert_eq!(divergence(&row, &row), 0.0);
    }

    #[test]
    fn rows_of_any_length_have_the_divergence_that_its_formula_gives() {
        for width in [1, 2, 7, 8, 9, 1000, 5000] {
            let p: Vec<f32> = (0..width).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let q: Vec<f32> = p.iter().enumerate().map(|(i, p)| p + (i as f32 * 0.91).sin() * 0.01).collect();
            let logs = |row: &[f32]| {
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                row.iter().map(|x| f64::from(*x) - sum.ln()).collect::<Vec<f64>>()
            };
            let expected: f64 = logs(&p).iter().zip(logs(&q)).map(|(p, q)| p.exp() * (p - q)).sum();
            assert!((divergence(&p, &q) - expected).abs() < 1e-12, "width {width}");
        }
    }

    #[test]
    fn a_logit_that_is_no_number_shows() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 16] {
                let good = [0.5f32; 17];
                let mut row = good;
                row[at] = bad;
                assert!(!divergence(&row, &good).is_finite(), "{bad} at {at} of p");
                assert!(!divergence(&good, &row).is_finite(), "{bad} at {at} of q");
            }
        }
    }
}
