//! A worker: leases shards of trials from a coordinator, measures them, and reports.
//!
//! The [`agent`] talks to the coordinator, the [`cache`] holds files, the [`spool`] results that cannot be delivered,
//! and the [`evaluator`] runs the engine.

pub mod agent;
mod backoff;
pub mod cache;
pub mod capabilities;
pub mod evaluator;
mod lease;
pub mod memo;
pub mod memory;
pub mod monitor;
pub mod program;
pub mod settings;
pub mod spool;
mod traced;

pub use agent::Agent;
pub use cache::ArtifactCache;
pub use evaluator::Evaluator;
pub use spool::Spool;
