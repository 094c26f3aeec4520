//! See `qslm_fuzz::checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qslm_fuzz::checkpoint(data));
