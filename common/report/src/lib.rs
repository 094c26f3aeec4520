//! What there is to see of an experiment.
//!
//! A coordinator makes a [`ReportDocument`], a document that has everything a page shows and nothing that grows with the number
//! of candidates: those are aggregated in a [`Cloud`] as they come in. [`plots`] draws it and [`page`] puts the plots
//! on a page; the file that `qslm report` writes and the live view of a coordinator are the same page.

mod cloud;
mod document;
mod field;
pub mod page;
pub mod plots;
#[cfg(test)]
mod testing;
pub mod words;

pub use cloud::{Cloud, Spot, badness};
pub use document::{
    Comparison, EngineShare, FORMAT, Lifecycle, Reference, ReportDocument, Sample, Sensitivity, Stage,
    worked_ms,
};
pub use field::{Field, Point};
