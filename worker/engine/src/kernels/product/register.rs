//! Registers of floats, on which the products are written once.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

/// Numbers that are computed with at once.
///
/// # Safety
/// Calls of an implementation for an instruction set need a processor that has it.
#[allow(unsafe_code)]
pub(super) unsafe trait Register: Copy {
    const LANES: usize;

    /// # Safety
    /// `from` has as many numbers as there are lanes.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// See the trait.
    unsafe fn splat(x: f32) -> Self;

    /// `self * weights + sums`, rounded once.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self;

    /// # Safety
    /// `to` has room for as many numbers as there are lanes.
    unsafe fn store(self, to: *mut f32);
}

// SAFETY: it needs no instruction set.
#[allow(unsafe_code)]
unsafe impl Register for [f32; 4] {
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
        // SAFETY: every function is one instruction, under the conditions of the trait.
        #[allow(unsafe_code)]
        unsafe impl Register for $type {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self {
                unsafe { $multiply_add(self, weights, sums) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { $store(to, self) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
register!(__m512, 16, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);
#[cfg(target_arch = "x86_64")]
register!(__m256, 8, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
