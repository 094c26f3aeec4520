//! Peak arithmetic of the processor: fused multiply-adds on registers alone, to compare products with.
//!
//! They are those of the products, so that no compiler has a choice: one that adds numbers one by one here
//! would let products seem to reach many times the peak.
#![expect(
    unsafe_code,
    reason = "what is compiled for an instruction set is called where the processor has it"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::product::{InstructionSet, register::Register};
use super::simd::Choice;

/// Independent sums, enough to hide how long an addition takes, and few enough for the registers.
const SUMS: usize = 12;
/// Steps between two looks at the clock.
const STEPS: usize = 1 << 14;

/// Floating-point operations (a fused multiply-add is two) per second of one core in 32 bits, measured for
/// about `time` with what the products are computed with: the most of several looks, because whatever comes
/// between makes it less.
pub fn flops(time: Duration) -> f64 {
    InstructionSet::here().next().map_or(0.0, |set| flops_of(set, time))
}

fn flops_of(set: InstructionSet, time: Duration) -> f64 {
    const LOOKS: u32 = 8;
    let look = || {
        let (started, mut operations) = (Instant::now(), 0);
        loop {
            operations += run(set);
            let passed = started.elapsed();
            if passed >= time / LOOKS {
                return operations as f64 / passed.as_secs_f64();
            }
        }
    };
    (0..LOOKS).map(|_| look()).fold(0.0, f64::max)
}

/// Multiplies and adds for a while; how many operations that were.
fn run(set: InstructionSet) -> usize {
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever calls asks for a set that the processor has.
        InstructionSet::Avx512 => unsafe { avx512() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { avx2() },
        // SAFETY: it needs no instruction set beyond what the program was compiled for.
        InstructionSet::Portable => unsafe { body::<[f32; 4]>() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512() -> usize {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { body::<std::arch::x86_64::__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2() -> usize {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { body::<std::arch::x86_64::__m256>() }
}

/// Multiplies and adds on registers; the number of operations.
///
/// # Safety
/// The processor has the instruction set of `V`, and the caller is compiled for it.
#[inline(always)]
unsafe fn body<V: Register>() -> usize {
    // Unknown to the compiler and all different, so that no sum stands for another.
    let numbers: [f32; SUMS + 2] = black_box(std::array::from_fn(|i| 1.0 - i as f32 * 1e-6));
    // SAFETY: the instruction set is the caller's promise; nothing is read or written but a register's own
    // numbers.
    let last = unsafe {
        let (factor, more) = (V::splat(numbers[SUMS]), V::splat(numbers[SUMS + 1]));
        let mut sums: [V; SUMS] = std::array::from_fn(|i| V::splat(numbers[i]));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.multiply_add(factor, more);
            }
        }
        sums
    };
    black_box(last);
    2 * SUMS * V::LANES * STEPS
}

#[cfg(test)]
mod tests {
    use super::super::product::Packed;
    use super::*;

    /// Operations per second of a product whose numbers stay in the nearest caches.
    fn product(set: InstructionSet, time: Duration) -> f64 {
        let (inputs, outputs, rows) = (64, set.panel() * 2, 48);
        let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.37).sin() + 1.5).collect::<Vec<_>>();
        let packed = Packed::for_set(&wave(inputs * outputs), inputs, set);
        let (x, mut out) = (wave(rows * inputs), vec![0.0; rows * outputs]);
        let (started, mut operations) = (Instant::now(), 0);
        while started.elapsed() < time {
            packed.multiply(&x, 0..outputs, black_box(&mut out));
            operations += 2 * inputs * outputs * rows;
        }
        operations as f64 / started.elapsed().as_secs_f64()
    }

    /// Found on a processor with AVX-512: the compiler added one by one, and products reached 25 to 70 times
    /// the peak.
    #[test]
    fn no_product_reaches_more_than_the_peak() {
        // What any processor can do is one function for both, which is called for every number, where there
        // is more.
        let more = |set: &InstructionSet| *set != InstructionSet::Portable;
        for set in InstructionSet::here().filter(more) {
            let time = Duration::from_millis(16);
            // Whatever else runs takes time from both; of several looks at each the best are compared.
            let peak = (0..3).map(|_| flops_of(set, time)).fold(0.0, f64::max);
            let most = (0..3).map(|_| product(set, time)).fold(0.0, f64::max);
            assert!(most.is_finite() && most > 0.0);
            assert!(
                peak > most,
                "{set:?}: a product of {most:.3e} operations per second, a peak of {peak:.3e}"
            );
        }
    }
}
