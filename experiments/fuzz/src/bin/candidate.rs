//! See `qslm_fuzz::candidate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qslm_fuzz::candidate(data));
