//! Report of an experiment: its document, plots and page.
//!
//! The one idea is a document between those who know and those who draw: a coordinator makes a
//! [`ReportDocument`], which has everything that a page shows and nothing that grows with the number of
//! candidates. So a file that `qslm report` writes and the live view of a coordinator are the same page, and
//! neither needs the search.
//!
//! The way through: measured candidates go into a [`Cloud`] as they come in, a bounded number of [`Spot`]s on
//! the plane of saving and quality. A [`Field`] is the part of that plane that a picture shows. [`plots`]
//! draws the document, one file per plot; [`page`] puts the plots, the front and the provenance on a page;
//! [`gain`] and [`unmet`] say what a search bought and why it chose nothing, [`overlay`] lays experiments over each other,
//! [`pace`] says how long it still takes, [`words`] says numbers as people read them, here and in the tables of a terminal.

mod cloud;
pub mod condition;
mod document;
mod field;
pub mod gain;
pub mod overlay;
pub mod pace;
pub mod page;
pub mod plots;
#[cfg(test)]
mod testing;
pub mod unmet;
pub mod words;

pub use cloud::{Cloud, Spot, badness};
pub use document::{
    BestSoFar, Comparison, EngineShare, FORMAT, GivenArtifact, Lifecycle, Reference, ReportDocument, Sample,
    Sensitivity, Stage, worked_ms,
};
pub use field::{Field, Placed, Point};
