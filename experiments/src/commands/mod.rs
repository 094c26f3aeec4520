//! One module per command, or per family of small ones.

pub mod eval;
pub mod manage;
pub mod run;
mod target;
pub mod watch;
