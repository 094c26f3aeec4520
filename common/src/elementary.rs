//! Exponential and logarithm with the same bits on every platform: the system's differ in the last ones, and what is decided
//! by them (a bound, a choice, the path of a search) would be decided otherwise elsewhere. Only `+ - * /`, rounding down and the bits of a number.
//!
//! Source: Cody and Waite, "Software manual for the elementary functions", 1980: `e^x = 2^n e^r` with `|r| <= ln 2 / 2`;
//! `ln x = e ln 2 + 2 artanh((m - 1) / (m + 1))` with `m` next to 1. Both are series here.

/// `ln 2` in two parts: products of the first with whole numbers below 2^11 are exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Bits of the fraction of a float, and what its exponent is biased by.
const FRACTION_BITS: u32 = 52;
const BIAS: i64 = 1023;
/// Terms that the series of the exponential goes on for: `(ln 2 / 2)^14 / 14!` is below 1e-17.
const EXP_TERMS: u32 = 14;
/// Numbers below this in size are near 0.
const NEAR: f64 = 0.5;
/// Terms of the series of `e^x - 1` near 0: `0.5^19 / 19!` is below 1e-22.
const EXP_M1_TERMS: u32 = 19;
/// Above this the series of `ln(1 + x)` would need more terms, and adding 1 costs `ln` no digits.
const FAR: f64 = 10.0;
/// Last odd power of the series of the logarithm: its argument is below 0.172.
const LAST_ODD: u32 = 25;

/// `e^x`; infinite above the largest number, 0 below the smallest, and no number for none.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.78 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E + 0.5).floor();
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = 1.0;
    for term in (1..EXP_TERMS).rev() {
        sum = 1.0 + r / f64::from(term) * sum;
    }
    // In two steps, because the power of two alone may be too small for a number.
    let half = n as i64 / 2;
    sum * power_of_two(half) * power_of_two(n as i64 - half)
}

/// Natural logarithm of a positive number; negative infinity of 0, and no number below.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    // What has fewer bits than usual is made larger first.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * power_of_two(54), 54) } else { (x, 0) };
    let mut exponent = (x.to_bits() >> FRACTION_BITS) as i64 - BIAS;
    let mut mantissa = x / power_of_two(exponent);
    if mantissa > std::f64::consts::SQRT_2 {
        (mantissa, exponent) = (mantissa / 2.0, exponent + 1);
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let mut sum = 0.0;
    for odd in (1..=LAST_ODD).rev().step_by(2) {
        sum = sum * (z * z) + 1.0 / f64::from(odd);
    }
    let exponent = (exponent - shift) as f64;
    exponent * LN_2_HIGH + (exponent * LN_2_LOW + 2.0 * z * sum)
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// `2^n` for `n` from -1022 to 1023.
fn power_of_two(n: i64) -> f64 {
    f64::from_bits(((n + BIAS) as u64) << FRACTION_BITS)
}

/// `e^x - 1`, exact also where it is next to 0.
pub fn exp_m1(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= NEAR {
        return exp(x) - 1.0;
    }
    let mut sum = 1.0;
    for term in (2..EXP_M1_TERMS).rev() {
        sum = 1.0 + x / f64::from(term) * sum;
    }
    x * sum
}

/// `ln(1 + x)`, exact also where it is next to 0: `2 artanh(x / (2 + x))` as a series.
pub fn ln_1p(x: f64) -> f64 {
    // There the series goes on for too long.
    if !(-NEAR..=FAR).contains(&x) {
        return ln(1.0 + x);
    }
    let z = x / (2.0 + x);
    let mut power = z;
    let mut sum = 0.0;
    for odd in (1..200).step_by(2) {
        sum += power / f64::from(odd);
        power *= z * z;
    }
    2.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest distance from the system's value, relative to it.
    fn worst(values: impl Iterator<Item = f64>, ours: fn(f64) -> f64, theirs: fn(f64) -> f64) -> f64 {
        values.map(|x| ((ours(x) - theirs(x)) / theirs(x)).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn exp_and_ln_are_within_1e_15_of_the_systems() {
        let exponents = (-700_000..=700_000).map(|step| f64::from(step) * 1e-3 + 1.7e-7);
        let error = worst(exponents, exp, f64::exp);
        assert!(error < 1e-15, "{error}");
        let numbers = (1..=400_000).map(|step| f64::from(step) * 1e-4).filter(|x| *x != 1.0);
        let error = worst(numbers, ln, f64::ln);
        assert!(error < 1e-15, "{error}");
        let numbers = (-1000..=1000).map(|n| 1.37 * power_of_two(n));
        let error = worst(numbers, ln, f64::ln);
        assert!(error < 1e-15, "{error}");
    }

    #[test]
    fn ends_and_what_is_no_number_are_told_apart() {
        assert_eq!([exp(0.0), exp(f64::NEG_INFINITY), exp(f64::INFINITY)], [1.0, 0.0, f64::INFINITY]);
        assert!(exp(f64::NAN).is_nan() && exp(709.7).is_finite() && exp(-744.0) > 0.0);
        assert_eq!([ln(1.0), ln(0.0), ln(f64::INFINITY)], [0.0, f64::NEG_INFINITY, f64::INFINITY]);
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
        assert!((ln(f64::from_bits(1)) + 744.440_071_921_381_3).abs() < 1e-12);
        assert_eq!([sigmoid(0.0), sigmoid(800.0), sigmoid(-800.0)], [0.5, 1.0, 0.0]);
    }

    #[test]
    fn the_bits_are_the_same_everywhere() {
        let bits = |values: [f64; 4]| values.map(f64::to_bits);
        assert_eq!(bits([exp(1.0), exp(-0.3), exp(10.1), exp(-700.5)]), PINNED_EXP);
        assert_eq!(bits([ln(2.0), ln(0.3), ln(10.1), ln(1.000_001)]), PINNED_LN);
    }

    const PINNED_EXP: [u64; 4] =
        [4613303445314885482, 4604847916870499333, 4672420569435133298, 55449777393420802];
    const PINNED_LN: [u64; 4] =
        [4604418534313441775, 13831473067500349217, 4612389785636577100, 4517329190746536476];

    #[test]
    fn what_is_next_to_zero_keeps_its_digits() {
        let near = (-100_000..=100_000).map(|step| f64::from(step) * 1e-5 + 1.3e-9);
        let error = worst(near.clone(), exp_m1, f64::exp_m1);
        assert!(error < 1e-14, "{error}");
        let error = worst(near.filter(|x| *x > -0.99), ln_1p, f64::ln_1p);
        assert!(error < 1e-13, "{error}");
        assert_eq!(
            [exp_m1(0.0), exp_m1(f64::NEG_INFINITY), ln_1p(0.0), ln_1p(-1.0)],
            [0.0, -1.0, 0.0, f64::NEG_INFINITY]
        );
        assert!(exp_m1(f64::NAN).is_nan() && ln_1p(f64::NAN).is_nan() && ln_1p(-2.0).is_nan());
        assert_eq!([exp_m1(f64::INFINITY), ln_1p(f64::INFINITY)], [f64::INFINITY; 2]);
        let bits = [exp_m1(0.03), exp_m1(-1.5), ln_1p(0.03), ln_1p(-0.7)].map(f64::to_bits);
        assert_eq!(bits, PINNED_NEAR);
    }

    const PINNED_NEAR: [u64; 4] =
        [4584435143185371177, 13828544677842594041, 4584176966097098340, 13831473067500349216];

    #[test]
    fn it_is_the_logarithm_of_bounds_that_make_sense() {
        for x in [0.0, 1e-12, 0.001, 0.03, 0.5, 1.0, 3.0, 10.0, 20.0, 55.0, 99.0, 101.0] {
            assert!((ln_1p(x) - f64::ln_1p(x)).abs() <= 1e-12 * (1.0 + x), "{x}");
        }
    }
}
