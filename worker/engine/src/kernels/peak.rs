//! What the processor could do at most: fused multiply-adds on registers alone, to compare products with.

use std::time::{Duration, Instant};

/// Independent sums, enough to hide how long an addition takes, and lanes of the widest register.
const SUMS: usize = 12;
const LANES: usize = 16;
/// Steps between two looks at the clock.
const STEPS: usize = 1 << 16;

/// Floating-point operations (a fused multiply-add is two) per second of one core in 32 bits, measured for about `time`.
pub fn flops(time: Duration) -> f64 {
    let started = Instant::now();
    let mut steps = 0;
    while started.elapsed() < time {
        std::hint::black_box(run(std::hint::black_box(1.0 - 1e-7)));
        steps += STEPS;
    }
    (2 * SUMS * LANES * steps) as f64 / started.elapsed().as_secs_f64()
}

fn run(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature that the function was compiled for.
            #[allow(unsafe_code)]
            return unsafe { avx512(factor) };
        }
        if super::simd::has_avx2() {
            // SAFETY: the processor has the features that the function was compiled for.
            #[allow(unsafe_code)]
            return unsafe { avx2(factor) };
        }
    }
    body::<LANES>(factor, |a, b, c| a * b + c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512(factor: f32) -> f32 {
    body::<LANES>(factor, f32::mul_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(factor: f32) -> f32 {
    // Twice, with half as many lanes, so that the sums fit the registers.
    [factor, factor + 1e-7].into_iter().map(|factor| body::<{ LANES / 2 }>(factor, f32::mul_add)).sum()
}

#[inline(always)]
fn body<const WIDE: usize>(factor: f32, multiply_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [[1.0f32; WIDE]; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for lane in sum {
                *lane = multiply_add(*lane, factor, 1e-7);
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_does_something() {
        let flops = flops(Duration::from_millis(5));
        assert!(flops.is_finite() && flops > 0.0);
        assert!(run(0.5).is_finite());
    }
}
