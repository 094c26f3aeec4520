//! See `qslm_fuzz::tokenizer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qslm_fuzz::tokenizer(data));
