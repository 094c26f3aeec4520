//! Formats and weights that the quantizers' tests share.

use qslm_common::scheme::{Format, Scheme};

/// The format that a scheme's text names.
pub fn format_of(text: &str) -> Format {
    match text.parse() {
        Ok(Scheme::Integer { format, .. }) => format,
        other => panic!("{text}: {other:?}"),
    }
}

/// Numbers that look random: about a normal variable.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
