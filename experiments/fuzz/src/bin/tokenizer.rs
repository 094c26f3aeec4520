//! See `qslm_fuzz::tokenizer`.
#![no_main]

// `TokenizerFile::load` catches what its reader panics on, so what is caught is no finding: without this, every panic ends
// the process where it happens. One that nobody catches still does.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |data: &[u8]| qslm_fuzz::tokenizer(data));
