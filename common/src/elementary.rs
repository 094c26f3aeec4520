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

/// `e^x` of a 32-bit float, rounded to one: the bits that the libraries of Linux (glibc from 2.28 on, musl) give, so that what
/// was measured with theirs stays, and other systems measure the same.
///
/// Source: Arm optimized routines, `expf`: `e^x = 2^(k / 32) 2^r` with `|r| <= 1 / 64`, the first from a table, the second a
/// cubic, both in 64 bits; off by 0.502 units in the last place at most.
pub fn exp_f32(x: f32) -> f32 {
    /// The cubic of `2^r`, from the third power down to the first; the last term is 1.
    const CUBIC: [f64; 3] = [0.055_503_615_593_415_35, 0.240_228_452_244_572_2, 0.693_147_180_691_620_3];
    if !(-104.0..=88.8).contains(&x) {
        return exp(f64::from(x)) as f32;
    }
    let scaled = f64::from(x) * (std::f64::consts::LOG2_E * 32.0);
    let k = scaled.round_ties_even();
    let r = (scaled - k) / 32.0;
    let power =
        ((CUBIC[0] * r + CUBIC[1]) * (r * r) + (CUBIC[2] * r + 1.0)) * ROOTS[k.rem_euclid(32.0) as usize];
    (power * power_of_two(k.div_euclid(32.0) as i64)) as f32
}

/// `2^(i / 32)`.
#[expect(clippy::approx_constant, reason = "one of a row of roots")]
const ROOTS: [f64; 32] = [
    1.0,
    1.021_897_148_654_116_6,
    1.044_273_782_427_413_8,
    1.067_140_400_676_823_7,
    1.090_507_732_665_257_7,
    1.114_386_742_595_892_4,
    1.138_788_634_756_691_6,
    1.163_724_858_777_577_5,
    1.189_207_115_002_721,
    1.215_247_359_980_469,
    1.241_857_812_073_484,
    1.269_050_957_191_733_2,
    1.296_839_554_651_009_6,
    1.325_236_643_159_741_3,
    1.354_255_546_936_892_7,
    1.383_909_881_963_832,
    1.414_213_562_373_095_1,
    1.445_180_806_977_046_7,
    1.476_826_145_939_499_3,
    1.509_164_427_593_422_8,
    1.542_210_825_407_940_7,
    1.575_980_845_107_886_5,
    1.610_490_331_949_254_3,
    1.645_755_478_153_965,
    1.681_792_830_507_429,
    1.718_619_298_122_478,
    1.756_252_160_373_299_5,
    1.794_709_075_003_107_2,
    1.834_008_086_409_342_4,
    1.874_167_634_110_3,
    1.915_206_561_397_147_4,
    1.957_144_124_175_400_2,
];

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
    fn the_exponential_of_32_bits_is_that_of_linux() {
        let bits = |x: f32| exp_f32(x).to_bits();
        assert_eq!([-5.3f32, -0.7, 0.0, 0.3, 2.9, 80.0, -87.0].map(bits), PINNED_EXP_F32);
        assert_eq!(
            [f32::NEG_INFINITY, f32::INFINITY, 100.0].map(exp_f32),
            [0.0, f32::INFINITY, f32::INFINITY]
        );
        assert!(exp_f32(f32::NAN).is_nan() && exp_f32(-103.0) > 0.0);
        #[cfg(target_os = "linux")]
        for step in -1_000_000..=860_000 {
            let x = step as f32 * 1e-4 + 1.7e-5;
            assert_eq!(bits(x), x.exp().to_bits(), "e^{x}");
        }
    }

    const PINNED_EXP_F32: [u32; 7] =
        [1000575108, 1056850030, 1065353216, 1068288045, 1100047527, 2032843726, 11744903];

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
