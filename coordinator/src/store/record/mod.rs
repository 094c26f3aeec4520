//! Records: how values are written. One version byte, then the value; a new version keeps the old readers.
//!
//! Each record is a type of the store's own, whatever the domain, the wire and the reports call the same thing: those may
//! change, and what is in people's stores may not.

mod counts;
mod event;
mod made;
mod shown;
mod tell;

use qslm_common::demands::Demands;
use qslm_common::experiment::Experiment;
use qslm_common::origins::Origins;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use counts::{decode_counts, encode_counts};
pub use event::Event;
pub(super) use event::{decode_event, encode_event};
pub(super) use made::{decode_made, encode_made};
pub(super) use shown::{decode_comparison, decode_sample, encode_comparison, encode_sample};
pub(super) use tell::{decode_tell, encode_tell};

const EXPERIMENT_V1: u8 = 1;

/// An experiment as it was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRecord {
    /// Position in the order of submission, from 0.
    pub order: u64,
    /// Shards per trial.
    pub shards: u32,
    /// True if a person ended it.
    pub cancelled: bool,
    /// True while a person holds it up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// True if its search is known to have come to its end. After a restart it is read last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
    /// Experiments of a higher one are worked on first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Demands on the workers that evaluate it.
    #[serde(default, skip_serializing_if = "Demands::is_empty")]
    pub demands: Demands,
    /// Addresses that its files were fetched from, as far as they are known.
    #[serde(default, skip_serializing_if = "Origins::is_empty")]
    pub origins: Origins,
    /// The experiment itself, whose hash is in its id.
    pub experiment: Experiment,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ExperimentRecord {
    /// An experiment as it is submitted: neither cancelled nor paused.
    pub fn new(order: u64, shards: u32, priority: i32, experiment: Experiment) -> Self {
        Self {
            order,
            shards,
            cancelled: false,
            paused: false,
            finished: false,
            priority,
            demands: Demands::default(),
            origins: Origins::default(),
            experiment,
        }
    }

    /// Takes over what another store says of the same experiment. The order of joining leaves no trace.
    pub(super) fn join(&mut self, other: Self) {
        // Every field by name, so that the next one is not forgotten. What the experiment is its id says.
        let Self { order, shards, cancelled, paused, finished, priority, demands, origins, experiment: _ } =
            other;
        self.order = self.order.min(order);
        self.shards = self.shards.max(shards);
        // Cancelled in one place, wanted in another.
        self.cancelled &= cancelled;
        self.paused &= paused;
        // A hint, which the next start checks.
        self.finished &= finished;
        self.priority = self.priority.max(priority);
        self.demands.join(demands);
        self.origins.join(origins);
    }
}

/// Bytes of a record that mean nothing to this version.
#[derive(Debug, thiserror::Error)]
#[error("{what} record of version {version:?} cannot be read: {reason}")]
pub struct UnreadableRecord {
    what: &'static str,
    version: Option<u8>,
    #[source]
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("unknown version")]
    Version,
    #[error("it is cut short")]
    CutShort,
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

fn unreadable(what: &'static str, bytes: &[u8], reason: impl Into<Reason>) -> UnreadableRecord {
    UnreadableRecord { what, version: bytes.first().copied(), reason: reason.into() }
}

pub(super) fn encode_experiment(record: &ExperimentRecord) -> Vec<u8> {
    encode_json(EXPERIMENT_V1, record)
}

pub(super) fn decode_experiment(bytes: &[u8]) -> Result<ExperimentRecord, UnreadableRecord> {
    decode_json("experiment", EXPERIMENT_V1, bytes)
}

/// Reasons of failures, as text: the table that they stand in has no versions.
pub(super) fn encode_reasons(reasons: &[String]) -> String {
    // Each is one line: what a worker says has no control characters.
    reasons.join("\n")
}

pub(super) fn decode_reasons(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn encode_json(version: u8, value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![version];
    serde_json::to_writer(&mut bytes, value).expect("the keys of every map of a record are text");
    bytes
}

fn decode_json<T: DeserializeOwned>(
    what: &'static str,
    version: u8,
    bytes: &[u8],
) -> Result<T, UnreadableRecord> {
    match bytes.split_first() {
        Some((found, body)) if *found == version => {
            serde_json::from_slice(body).map_err(|error| unreadable(what, bytes, error))
        }
        _ => Err(unreadable(what, bytes, Reason::Version)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::ENGINE_VERSION;
    use qslm_common::experiment::InvalidExperiment;
    use qslm_search::Tiered;

    use super::*;
    use qslm_testing::experiment;

    #[test]
    fn experiments_of_version_1_stay_readable() {
        // As the first release wrote it, before there were activations, devices and costs. It never changes: a new
        // field of an experiment has a default that is not written.
        const FIXTURE: &str = concat!(
            r#"{"order":3,"shards":4,"cancelled":true,"experiment":{"name":"formula","engine_version":1,"#,
            r#""backend":"flex","#,
            r#""checkpoint":"63741c69a919dad18d61f2f5a91477ac370eb1b3c70ee6bb45d842185eb6e5b3","#,
            r#""network":{"vocabulary":64,"channels":16,"hidden":64,"blocks":2,"outputs":64,"#,
            r#""binary_embedding":true},"#,
            r#""data":{"text":"831c6831fdc9a309a4c66cc3cb2fa3740a100da8b86d6fe86e9ba40deb50aa19","#,
            r#""tokenizer":"dcd7fa975da818f1df39519759ef71e4e911241d2ad561e1118fcb9bcf7bcc21"},"#,
            r#""task":{"kind":"perplexity","window":8,"stride":8,"windows":null},"space":{"bits":[8,6,4,3,"#,
            r#"2],"symmetry":"symmetric","granularity":"tensor","rounding":"nearest","range":"minmax","#,
            r#""embedding":"sign"},"constraints":{"max_perplexity_increase":0.03,"max_accuracy_drop":null,"#,
            r#""max_footprint_bytes":null,"min_saving":null},"objectives":["perplexity","footprint"],"#,
            r#""trade_off":{"kind":"weighted_sum","mu":1.0},"strategy":{"kind":"qslm","#,
            r#""sensitivity_bits":null}}}"#,
        );
        let fixture = [&[1], FIXTURE.as_bytes()].concat();
        let record = decode_experiment(&fixture).unwrap();
        // It may be read, not run: its engine gave other numbers.
        assert_eq!(record.experiment.validate(), Err(InvalidExperiment::Engine { given: 1 }));
        let experiment = Experiment { engine_version: ENGINE_VERSION, ..record.experiment.clone() };
        assert_eq!(experiment.validate(), Ok(()));
        assert_eq!(record.experiment.id(), "formula-1da11e556ec0");
        assert_eq!(String::from_utf8_lossy(&encode_experiment(&record)), String::from_utf8_lossy(&fixture));
    }

    #[test]
    fn an_experiment_survives_its_record() {
        let experiment = experiment(Tiered::default());
        let record = ExperimentRecord { paused: true, ..ExperimentRecord::new(3, 4, -5, experiment) };
        assert_eq!(decode_experiment(&encode_experiment(&record)).unwrap(), record);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_counts(&bytes);
            let _ = decode_experiment(&bytes);
            let _ = decode_sample(&bytes);
            let _ = decode_comparison(&bytes);
            let _ = decode_tell(&bytes);
            let _ = decode_event(1, &bytes);
        }
    }
}
