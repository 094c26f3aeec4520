//! See `qslm_fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qslm_fuzz::wire(data));
