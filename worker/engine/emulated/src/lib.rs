//! The kernels of the engine that choose an instruction set, for `run`.

// Kernels name the package that has the exponentials; here these are a file beside them.
extern crate self as qslm_common;

#[path = "../../../../common/src/elementary.rs"]
pub mod elementary;
pub mod kernels;
