//! One body, several instruction sets.
//!
//! `per_instruction_set!` compiles a function for the baseline, AVX2 and AVX-512, and calls the best one that
//! the processor has. Rust never contracts `a * b + c` into one rounding, and the loops keep their order of
//! sums, so the results are the same bits.

/// An instruction set that a kernel can be computed with.
pub(crate) trait Choice: Copy + 'static {
    /// Instruction sets, the fastest first; the last is there on every processor.
    const ALL: &'static [Self];

    /// True if the processor has it.
    fn is_here(self) -> bool;

    /// Instruction sets that the processor has, the fastest first.
    fn here() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|set| set.is_here())
    }
}

/// Registers of 256 bits, and multiplication and addition at once.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Registers of 512 bits for numbers of any size.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512bw")
}

/// Wraps a function so that it is compiled per instruction set and dispatched at run time.
macro_rules! per_instruction_set {
    ($(#[$doc:meta])* $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)?(
        $($arg:ident: $type:ty),* $(,)?
    ) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$generic: $bound>)?($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$generic: $bound>)?($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $(<$generic: $bound>)?($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(<$generic: $bound>)?($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                if $crate::kernels::simd::has_avx512() {
                    // SAFETY: the processor has every feature that the function was compiled for.
                    #[allow(unsafe_code)]
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature that the function was compiled for.
                    #[allow(unsafe_code)]
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use per_instruction_set;
