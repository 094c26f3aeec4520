//! Search: which candidates are worth measuring, given what was measured.
//!
//! The one idea: a search is a pure function of its experiment and of results. A *strategy* proposes candidates in
//! *generations*, sees the archive once all of a generation is settled, and proposes the next. It never sees who measured
//! what when, so its path is the same on one worker and on fifty; and since it keeps no state that the archive does not
//! imply, an interrupted search resumes by proposing from the start again, with every stored result answered at once.
//!
//! The way through:
//! - [`Strategy`] is what one kind of search has in one file: parameters, checks, start, caption, keys of the spec. Each
//!   file of `strategies/` has one, and `strategies/mod.rs` one line for each.
//! - [`Search`] is a strategy under way; it answers [`Step`]s, which hold [`Generation`]s of [`Candidates`].
//! - A search whose candidates come from outside is handed [`Tell`]s, and waits ([`Step::Wait`]) while there is none.
//! - [`Playback`] drives a search, from live results or from a store: it draws a generation, files what is known, decides
//!   races ([`qslm_common::racing`]) and failures, and keeps the archive. The driver of a coordinator, the export of
//!   every candidate and `qslm submit --dry-run` all go through it.
//!
//! Nothing here waits, stores, or reads a clock.

mod budget;
mod candidates;
mod cursor;
mod ddpg;
mod fitness;
mod knapsack;
mod least_squares;
mod limited;
mod nsga2;
mod parallel;
mod playback;
mod prediction;
mod race;
mod rbf;
mod recovery;
mod strategies;
mod strategy;
mod told;
mod valid;
pub mod written;

pub use candidates::Candidates;
pub use limited::stages_within_limit;
pub use playback::{Drawn, Fate, OnRecord, Playback};
pub use prediction::Prediction;
pub use recovery::stage_of_recovery;
pub use strategies::{
    Allocate, AnyStrategy, Beam, Evolve, External, Fit, Grid, Haq, List, MemoryDriven, PER_NAT, Random,
    Ranked, StrategyEntry, Surrogate, Table, Tiered, list, registry, warm,
};
pub use strategy::{Generation, Key, Probe, Probed, Problem, Search, StagePlan, Step, Strategy, Subset};
pub use told::{InvalidTell, MAX_TOLD_BYTES, Tell};
pub use valid::{Invalid, decode, problems};

#[cfg(test)]
mod testing;
