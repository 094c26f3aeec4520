//! The search of an experiment, for tests of strategies.

use qslm_common::experiment::Experiment;

use crate::{AnyStrategy, Search};

/// The search of an experiment at its start.
pub(crate) fn start(experiment: &Experiment) -> Box<dyn Search> {
    AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment)
}
