//! The domain of qslm: what is searched, what is measured, and what makes one result better.
//!
//! The one idea: everything here is a value or a pure function. There is no IO, no clock, no async, no wire
//! format and no tensor library, so that coordinator, workers and commands share one meaning and tests need
//! nothing else.
//!
//! The way through: an [`experiment::Experiment`] holds one of everything. Its [`network::Network`] is a tree
//! of units; its [`space::Space`] gives them ladders of [`scheme::Scheme`]s; a [`candidate::Candidate`] is
//! one level for each. A [`trial::Trial`] measures a candidate on the data of a [`task::Task`], shard by
//! shard; the [`measurement::Counts`] add up to the same bits whoever counted. Of counts follow the
//! [`quality::Quality`] and, by the table of [`cost`] models, what the candidate costs a device. The
//! [`objective`]s make numbers to minimise of both, [`pareto`] keeps those that nothing beats, and the
//! [`archive::Archive`] holds all of it and says which candidate the [`trade_off`] picks; [`front_document`]
//! is that as a file. What else takes a forward pass, a [`job::Job`] makes; both are [`work::Work`], which is what
//! workers lease.

pub mod archive;
pub mod backend;
pub mod bytes;
pub mod candidate;
pub mod conditions;
pub mod constraints;
pub mod cost;
pub mod demands;
pub mod elementary;
pub mod evidence;
pub mod experiment;
pub mod footprint;
pub mod front_document;
pub mod hash;
pub mod job;
pub mod measurement;
pub mod network;
pub mod objective;
pub mod origin;
pub mod origins;
pub mod pareto;
pub mod quality;
pub mod racing;
pub mod recovery;
pub mod scheme;
pub mod space;
pub mod spread;
pub mod storage;
pub mod strategy;
pub mod task;
pub mod tasks;
pub mod trade_off;
pub mod trial;
pub mod unmet;
pub mod work;

/// Changes whenever an evaluation could give other numbers for the same candidate, checkpoint, data
/// and protocol. Part of every trial's content address, so old results are never taken for new ones.
pub const ENGINE_VERSION: u32 = 3;
