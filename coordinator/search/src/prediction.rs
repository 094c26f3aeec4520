//! Predictions: losses that a strategy expected of candidates when it proposed them, beside those that were measured.

use qslm_common::archive::Archive;
use qslm_common::candidate::CandidateId;
use qslm_common::experiment::Experiment;
use qslm_common::measurement::Counts;

use crate::Search;

/// Prediction of a candidate's loss, in nats per token or sentence more than the float model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Candidate.
    pub candidate: CandidateId,
    /// Loss that was expected when it was proposed.
    pub predicted: f64,
    /// Loss that was measured on all data; `None` where it was not, or not yet.
    pub measured: Option<f64>,
}

/// Predictions of a search, in the order of its proposals. None before the float model is measured.
pub(crate) fn of(search: &dyn Search, experiment: &Experiment, archive: &Archive) -> Vec<Prediction> {
    let Some(float) = archive.float(experiment) else { return Vec::new() };
    let before = nats_per_item(&float.counts);
    let with_measured = |(candidate, predicted)| {
        let measured = archive.get(&candidate).map(|entry| nats_per_item(&entry.counts) - before);
        Prediction { candidate, predicted, measured }
    };
    search.predictions().into_iter().map(with_measured).collect()
}

/// Mean loss of counts in nats per token or sentence.
pub(crate) fn nats_per_item(counts: &Counts) -> f64 {
    counts.nll.nats() / (counts.scored_tokens + counts.sentences).max(1) as f64
}
