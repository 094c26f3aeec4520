//! Strategy and search: the seam that one more kind of search is written against.

use std::fmt;
use std::sync::Arc;

use qslm_common::archive::Archive;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::job::Job;
use qslm_common::space::Axis;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Candidates, Tell};

/// Strategy: one kind of search with its parameters. `serde` reads and writes the parameters as they stand in an
/// experiment; their order decides the experiment's id, so it never changes.
pub trait Strategy: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned {
    /// Kind, as specs and experiments name it.
    const KIND: &'static str;
    /// Description in a sentence.
    const ABOUT: &'static str;
    /// Keys of the spec's `[strategy]` table beside `kind`. The reference and `qslm init` read this.
    const KEYS: &'static [Key];

    /// Parameters that do not fit the experiment, whose network and space are valid.
    fn problems(&self, experiment: &Experiment) -> Vec<Problem>;

    /// The search at its start.
    fn start(&self, experiment: &Experiment) -> Box<dyn Search>;

    /// Caption of a report, without a full stop.
    fn caption(&self) -> String {
        Self::KIND.to_owned()
    }

    /// Stages of the search with the most candidates that each proposes; `first` is how many the first generation has.
    fn outline(&self, _experiment: &Experiment, first: u64) -> Vec<StagePlan> {
        vec![StagePlan { stage: Self::KIND.to_owned(), groups: 1, candidates_at_most: first }]
    }

    /// The part of the search that is measured on a subset of the data, if there is one.
    fn subset(&self, _experiment: &Experiment) -> Option<Subset> {
        None
    }

    /// The key of the spec that asks for a subset, and its sequences, fitting or not.
    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        None
    }

    /// Writes out what a spec may leave out and means as it is usual today; an experiment that leaves it out means what was
    /// usual when there was no such parameter.
    fn write_out(&mut self) {}

    /// Leaves the subset out where it is all of the data, which has so many sequences: it is no subset then.
    fn fit(&mut self, _sequences: u64) {}
}

/// A key of the `[strategy]` table of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Name of the key.
    pub name: &'static str,
    /// Values that it takes.
    pub takes: &'static str,
    /// Value without the key, or `required`.
    pub default: &'static str,
    /// Meaning of the key.
    pub means: &'static str,
}

/// Problem: a parameter of a strategy that does not fit its experiment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Problem {
    /// The key of the spec to change, such as `strategy.sensitivity_bits`.
    pub key: &'static str,
    /// Description of the problem, with the key, the value and the bound.
    pub words: String,
}

impl Problem {
    /// A problem of `key`.
    pub fn new(key: &'static str, words: impl Into<String>) -> Self {
        Self { key, words: words.into() }
    }
}

/// Stage of a search, before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    /// Name of the stage, as a status shows it.
    pub stage: String,
    /// Groups that move.
    pub groups: usize,
    /// Candidates that it proposes at most.
    pub candidates_at_most: u64,
}

/// Subset: the first sequences of the data, on which some of the candidates are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    /// Sequences of the subset.
    pub sequences: u32,
    /// Candidates that are measured on it.
    pub candidates: u64,
}

/// Step: the answer of a search that was asked what to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Measure these; some may be measured already, or be named twice.
    Measure(Generation),
    /// Make these; some may be made already. One that reads what another makes comes after it.
    Make(Vec<Job>),
    /// Wait: nothing before the next tell.
    Wait,
    /// Again: not known yet; to be asked again with the same archive. What takes long is done in slices, so that whoever asks
    /// can serve others between them.
    Again,
    /// Nothing more.
    Finished,
}

/// Generation: candidates that are measured together.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Stage, as shown to people: `sensitivity`, `global`, `block`, `module`, `matrix`, ...
    pub stage: &'static str,
    /// Candidates to measure.
    pub candidates: Candidates,
    /// Subset: the first so many sequences of the data to measure them on, in place of all.
    pub subset: Option<u32>,
    /// True if a race may prune those that lose too much; see [`qslm_common::racing`].
    pub may_race: bool,
}

/// Probe candidate: quantizes one site alone, to learn how sensitive it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Axis of the site.
    pub axis: Axis,
    /// The unit or population.
    pub name: String,
    /// Candidate that quantizes the site alone.
    pub candidate: Candidate,
}

/// Probe candidate with what it loses.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// The probe.
    pub probe: Probe,
    /// Loss of quality; `None` where it is not measured.
    pub loss: Option<f64>,
    /// 95 % interval of the loss; `None` where the spread is not known.
    pub interval: Option<(f64, f64)>,
}

impl Probe {
    /// Scheme that the site alone has, in words.
    pub fn scheme(&self) -> String {
        let of = |scheme: Option<String>| scheme.unwrap_or_default();
        match self.axis {
            Axis::Weights => self.candidate.scheme(&self.name).to_string(),
            Axis::Vectors => self.candidate.vectors().to_string(),
            Axis::Activations => {
                let mut all = self.candidate.activations();
                of(all.find(|(name, _)| *name == self.name).map(|(_, scheme)| scheme.to_string()))
            }
            Axis::Membranes => {
                let mut all = self.candidate.membranes();
                of(all.find(|(name, _)| *name == self.name).map(|(_, scheme)| scheme.to_string()))
            }
        }
    }
}

/// Search: a strategy under way.
pub trait Search: Send {
    /// Next step of the search. Called with the archive once every candidate proposed so far is settled, and every job. A
    /// candidate that is not in the archive failed, or was pruned; a job whose artifact is not there failed.
    fn next(&mut self, archive: &Archive) -> Step;

    /// Next step of the search that is not [`Step::Again`], for who has nobody to serve meanwhile.
    fn next_at_last(&mut self, archive: &Archive) -> Step {
        loop {
            match self.next(archive) {
                Step::Again => {}
                step => return step,
            }
        }
    }

    /// Takes a tell: a generation for a search whose candidates come from outside. All that were told are handed in again,
    /// in their order, to a search that starts over.
    fn told(&mut self, _tell: &Arc<Tell>) {}

    /// The most candidates that may still be proposed after the generation under way, if that can be told.
    fn remaining_at_most(&self) -> Option<u64>;

    /// Probe candidates of the sensitivity stage. Empty if the strategy has none.
    fn probes(&self) -> Vec<Probe> {
        Vec::new()
    }

    /// Losses that were predicted of candidates when they were proposed, in nats per token or sentence more than the float
    /// model. Empty if the strategy predicts none.
    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        Vec::new()
    }
}
