//! Everything that has to outlive the coordinator: results in one redb file, input files beside it.
//!
//! `FILE` holds experiments, measurements, settled shards of open trials, shard results that races need, failures, and
//! conflicts between stores that were joined. `FILE.artifacts/` holds checkpoints and data by content hash,
//! `FILE.checkpoints/` what jobs under way left. Results are content-addressed, so experiments share them.
//!
//! The way through: [`Write`] is one change, [`Store::commit`] makes a batch of them durable, [`Store::look_up`] and its like
//! ask, and [`Contents`] is the whole store as one value, which can be joined with another. `tables` names the tables of
//! the file, `record` says how their values are written.

mod artifacts;
mod audit;
mod batch;
mod checkpoints;
mod contents;
mod database;
mod error;
mod file_id;
mod hashed;
mod queries;
mod record;
mod room;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;
mod view;
mod whole;

pub use artifacts::{ArtifactError, ArtifactWriter, Artifacts};
pub use audit::{Audit, Condition, Found};
pub use batch::Write;
pub use checkpoints::{CheckpointRefused, CheckpointWriter, JobCheckpoints};
pub use contents::{Contents, MadeVariants};
pub use database::Store;
pub use error::StoreError;
pub use file_id::Lost;
pub use record::{Event, ExperimentRecord};
pub use room::NoRoom;
pub use snapshot::SnapshotError;
pub use tables::KEPT_EVENTS;
#[cfg(test)]
pub(crate) use tests::disk;
