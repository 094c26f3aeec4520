//! The kernels of the engine that choose an instruction set, for `run`.

pub mod kernels;
