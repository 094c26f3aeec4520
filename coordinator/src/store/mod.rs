//! Everything that has to outlive the coordinator: results in one redb file, input files beside it.
//!
//! `FILE` holds experiments, measurements, settled shards of open trials, failures, and conflicts between stores
//! that were joined. `FILE.artifacts/`
//! holds checkpoints and data by content hash. Results are content-addressed, so experiments share them.

mod artifacts;
mod audit;
mod contents;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
mod database;
#[cfg(test)]
pub(crate) mod disk;
mod hashed;
mod place;
mod record;
mod view;

pub use artifacts::{ArtifactError, ArtifactWriter, Artifacts};
pub use audit::{Audit, Condition, Found};
pub use contents::Contents;
pub use database::{Store, StoreError, Stored, Write};
pub use place::Lost;
pub use record::ExperimentRecord;
