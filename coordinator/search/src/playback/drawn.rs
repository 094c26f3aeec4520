//! Drawn candidates: the trials of a generation with what is on record of them.

use std::collections::BTreeMap;

use qslm_common::archive::Measurement;
use qslm_common::evidence::{Backing, Engines, Evidence};
use qslm_common::experiment::Experiment;
use qslm_common::task::Shard;
use qslm_common::trial::Addressed;

/// Record of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum OnRecord {
    /// Result of the whole trial.
    Measured(Evidence),
    /// Results of the shards that are settled; none at first.
    Shards(BTreeMap<Shard, Evidence>),
}

/// A candidate that was drawn, with what is on record of it.
pub struct Drawn {
    /// The trial that measures it.
    pub trial: Addressed,
    pub(super) record: Record,
}

/// What a playback makes of the record of a trial.
pub(super) enum Record {
    Measured(Measurement, Engines),
    /// On a subset of the data, or on one task of several.
    Part(Evidence),
    Shards(BTreeMap<Shard, Evidence>),
}

impl Drawn {
    pub(super) fn new(
        experiment: &Experiment,
        is_whole: bool,
        trial: Addressed,
        on_record: OnRecord,
    ) -> Self {
        let record = match on_record {
            OnRecord::Measured(evidence) if !is_whole => Record::Part(evidence),
            OnRecord::Measured(Evidence { counts, backing: Backing { engines, spread } }) => {
                let candidate = &trial.trial.candidate;
                let measurement = Measurement::new(experiment, trial.candidate, candidate, counts, spread);
                Record::Measured(measurement, engines)
            }
            OnRecord::Shards(settled) => Record::Shards(settled),
        };
        Self { trial, record }
    }

    /// True if it is measured.
    pub fn is_measured(&self) -> bool {
        matches!(self.record, Record::Measured(..) | Record::Part(_))
    }
}
