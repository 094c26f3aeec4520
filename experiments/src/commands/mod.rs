//! One module per command, or per family of small ones.

pub mod apply;
pub mod bench;
pub mod compare;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod manage;
pub mod run;
pub mod sensitivity;
pub mod stores;
mod target;
pub mod watch;
