//! One module per command, or per family of small ones.

pub mod apply;
pub mod backup;
pub mod bench;
pub mod compare;
pub mod completions;
pub mod config;
pub mod eval;
pub mod export;
pub mod generate;
pub mod import;
pub mod init;
pub mod inspect;
pub mod manage;
mod plan;
pub mod recover;
pub mod reference;
pub mod report;
pub mod run;
pub mod sensitivity;
pub mod stores;
pub mod submit;
pub(crate) mod target;
pub mod tell;
pub mod validate;
pub mod version;
pub mod watch;
