//! A worker: leases shards of trials from a coordinator, measures them, and reports.
//!
//! One idea: a worker carries nothing. It may be killed at any time, and another one measures the same shard to the same
//! counts; so it keeps only what is found again by its hash.
//!
//! The way through: the [`Agent`] holds one report under way, by which it delivers results, is heard of, and gets leases
//! (long polling). A lease goes through `lease`: its files from the [`ArtifactCache`], which fetches, checks and bounds them;
//! its counts from the [`Evaluator`], which runs the engine and shares checkpoints, data and models between evaluations
//! ([`qslm_engine::memo`]), or `job` makes an artifact and puts it, and on the way `checkpoints` from which another worker
//! goes on; whatever happens becomes a report, also a failure ([`failure`]: whose fault, which cause). While the
//! coordinator is away, results wait in the [`Spool`]. [`capabilities`] and [`memory`] describe the machine, [`resources`] says what a
//! network needs of one, [`monitor`]
//! counts, [`settings`] and [`program`] make the program `qslm-worker` of it.

pub mod agent;
mod backoff;
pub mod cache;
pub mod capabilities;
mod checkpoints;
mod crash;
pub mod evaluator;
pub mod failure;
mod fetch;
mod job;
mod lease;
pub mod memory;
pub mod monitor;
pub mod program;
pub mod put;
pub mod resources;
pub mod settings;
pub mod spool;
mod traced;

pub use agent::Agent;
pub use cache::ArtifactCache;
pub use checkpoints::CHECKPOINT_EVERY;
pub use crash::{CrashPlan, CrashPoint};
pub use evaluator::Evaluator;
pub use resources::Resources;
pub use spool::Spool;
