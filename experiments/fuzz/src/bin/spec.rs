//! See `qslm_fuzz::spec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qslm_fuzz::spec(data));
