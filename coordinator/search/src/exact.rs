//! Exact functions: logarithms of `+ - * /` alone, so that a search takes the same path on every platform. Those of the
//! standard library are the platform's, which differ in last bits.

/// `ln(1 + x)` for `x >= 0`, the same bits everywhere: `2 artanh(x / (2 + x))` as a series.
pub(crate) fn ln_1p(x: f64) -> f64 {
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

    #[test]
    fn it_is_the_logarithm_of_bounds_that_make_sense() {
        for x in [0.0, 1e-12, 0.001, 0.03, 0.5, 1.0, 3.0, 10.0] {
            assert!((ln_1p(x) - f64::ln_1p(x)).abs() <= 1e-12 * (1.0 + x), "{x}");
        }
    }
}
