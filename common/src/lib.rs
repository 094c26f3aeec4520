//! The domain of qslm: what is searched, what is measured, and what makes one result better.
//!
//! Everything here is a value or a pure function. There is no IO, no clock, no async, no wire format
//! and no tensor library, so that the coordinator and the workers can share it and tests need nothing.
//! Start at [`experiment::Experiment`], which holds one of everything else.

pub mod archive;
pub mod backend;
pub mod candidate;
pub mod cost;
pub mod demands;
pub mod evidence;
pub mod experiment;
pub mod footprint;
pub mod hash;
pub mod measurement;
pub mod network;
pub mod objective;
pub mod origin;
pub mod pareto;
pub mod racing;
pub mod scheme;
pub mod space;
pub mod strategy;
pub mod task;
pub mod trade_off;
pub mod trial;

/// Changes whenever an evaluation could give other numbers for the same candidate, checkpoint, data
/// and protocol. Part of every trial's content address, so old results are never taken for new ones.
pub const ENGINE_VERSION: u32 = 3;
