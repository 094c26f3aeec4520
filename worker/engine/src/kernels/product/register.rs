//! Registers of floats (SIMD vectors), on which the products are written once.
#![expect(unsafe_code, reason = "instructions of one processor, and reads and writes without bounds")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T1, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

/// Numbers that are computed with at once. Whoever calls a function of an implementation promises that the
/// processor has its instruction set.
pub(in crate::kernels) trait Register: Copy {
    const LANES: usize;

    /// # Safety
    /// The processor has the instruction set, and `from` as many numbers as there are lanes.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// The processor has the instruction set.
    unsafe fn splat(x: f32) -> Self;

    /// `self * weights + sums`, rounded once.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self;

    /// Brings a cache line nearer, where the processor can. The pointer need not point to anything.
    fn prefetch(_from: *const f32) {}

    /// # Safety
    /// The processor has the instruction set, and `to` room for as many numbers as there are lanes.
    unsafe fn store(self, to: *mut f32);
}

impl Register for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of floats is aligned as a float is.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(weights[lane], sums[lane]))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to.cast() = self }
    }
}

/// Implements [`Register`] by instructions of the same meaning.
#[cfg(target_arch = "x86_64")]
macro_rules! register {
    ($type:ty, $lanes:literal, $load:ident, $splat:ident, $multiply_add:ident, $store:ident) => {
        impl Register for $type {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller's promise, as it is that of the instruction.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: the caller's promise.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self {
                // SAFETY: the caller's promise.
                unsafe { $multiply_add(self, weights, sums) }
            }

            #[inline(always)]
            fn prefetch(from: *const f32) {
                // SAFETY: it reads nothing that anybody sees, and does not fail wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller's promise, as it is that of the instruction.
                unsafe { $store(to, self) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
register!(__m512, 16, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);
#[cfg(target_arch = "x86_64")]
register!(__m256, 8, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
