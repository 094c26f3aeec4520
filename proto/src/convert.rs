//! Wire messages to domain values and back.
//!
//! Outwards a conversion cannot fail. Inwards it is the border: sizes, hashes, texts and enums are checked
//! here, and [`Invalid`] names the field.

mod network;

use std::sync::Arc;

use qslm_common::candidate::Candidate;
use qslm_common::demands::{Capabilities, Demands};
use qslm_common::hash::{ContentHash, InvalidHash};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::origins::Origins;
use qslm_common::spread::Spread;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trial::{Protocol, Trial};

use crate::v1;

/// Characters of a reason.
const LONGEST: usize = 1000;

/// A message that means nothing in the domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    field: &'static str,
    reason: String,
}

impl Invalid {
    /// A field and what is wrong with it. A reason may quote what came, of which only the beginning travels back: a status
    /// is a header, and those have a bound.
    pub fn new(field: &'static str, reason: impl ToString) -> Self {
        Self { field, reason: reason.to_string().chars().take(LONGEST).collect() }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// A hash from its 32 bytes.
///
/// # Errors
/// [`Invalid`] for any other number of bytes.
pub fn hash(field: &'static str, bytes: &[u8]) -> Result<ContentHash, Invalid> {
    let bytes = <[u8; 32]>::try_from(bytes);
    bytes.map(ContentHash::from_bytes).map_err(|_| Invalid::new(field, "a content hash has 32 bytes"))
}

/// A shard from its index and count.
///
/// # Errors
/// [`Invalid`] unless `index < of <= 4096`.
pub fn shard(index: u32, of: u32) -> Result<Shard, Invalid> {
    let shard = Shard { index, of };
    if shard.is_valid() { Ok(shard) } else { Err(Invalid::new("shard", format!("{index} of {of}"))) }
}

impl From<(f64, f64)> for v1::Interval {
    fn from((low, high): (f64, f64)) -> Self {
        Self { low, high }
    }
}

impl From<v1::Interval> for (f64, f64) {
    fn from(v1::Interval { low, high }: v1::Interval) -> Self {
        (low, high)
    }
}

/// Counts with their spread, as a message; of one task.
pub fn write_counts(counts: &Counts, spread: Option<Spread>) -> v1::Counts {
    v1::Counts {
        nll: counts.nll.0,
        tokens: counts.scored_tokens,
        hits: counts.hits,
        sentences: counts.sentences,
        positions: counts.processed_tokens,
        spikes: counts.spikes.clone(),
        spread: spread.map(|Spread { sequences, squares }| v1::Spread { sequences, squares }),
        kl: counts.kl.map(|Nll(kl)| kl),
    }
}

/// Counts of a message, with their spread if whoever counted told it.
pub fn read_counts(counts: v1::Counts) -> (Counts, Option<Spread>) {
    let spread = counts.spread.map(|v1::Spread { sequences, squares }| Spread { sequences, squares });
    let counts = Counts {
        nll: Nll(counts.nll),
        scored_tokens: counts.tokens,
        hits: counts.hits,
        sentences: counts.sentences,
        processed_tokens: counts.positions,
        spikes: counts.spikes,
        kl: counts.kl.map(Nll),
        ..Counts::default()
    };
    (counts, spread)
}

impl From<Capabilities> for v1::Capabilities {
    fn from(capabilities: Capabilities) -> Self {
        let Capabilities { backends, cpu_features, memory_bytes, labels, jobs } = capabilities;
        Self {
            backends: backends.into_iter().collect(),
            cpu_features: cpu_features.into_iter().collect(),
            memory_bytes,
            labels: labels.into_iter().collect(),
            jobs: jobs.into_iter().collect(),
        }
    }
}

impl TryFrom<v1::Capabilities> for Capabilities {
    type Error = Invalid;

    fn try_from(capabilities: v1::Capabilities) -> Result<Self, Invalid> {
        let v1::Capabilities { backends, cpu_features, memory_bytes, labels, jobs } = capabilities;
        let capabilities = Self {
            backends: backends.into_iter().collect(),
            cpu_features: cpu_features.into_iter().collect(),
            memory_bytes,
            labels: labels.into_iter().collect(),
            jobs: jobs.into_iter().collect(),
        };
        capabilities.validate().map_err(|error| Invalid::new("capabilities", error))?;
        Ok(capabilities)
    }
}

impl From<Demands> for v1::Demands {
    fn from(demands: Demands) -> Self {
        let Demands { cpu_features, memory_bytes, labels } = demands;
        Self {
            cpu_features: cpu_features.into_iter().collect(),
            memory_bytes,
            labels: labels.into_iter().collect(),
        }
    }
}

impl TryFrom<v1::Demands> for Demands {
    type Error = Invalid;

    fn try_from(demands: v1::Demands) -> Result<Self, Invalid> {
        let v1::Demands { cpu_features, memory_bytes, labels } = demands;
        let demands = Self {
            cpu_features: cpu_features.into_iter().collect(),
            memory_bytes,
            labels: labels.into_iter().collect(),
        };
        demands.validate().map_err(|error| Invalid::new("demands", error))?;
        Ok(demands)
    }
}

/// Origins of files, by content hash.
///
/// # Errors
/// Names the field where a hash or an address is none.
pub fn origins(origins: impl IntoIterator<Item = (String, String)>) -> Result<Origins, Invalid> {
    let origin = |(hash, address): (String, String)| Ok((hash.parse::<ContentHash>()?, address));
    let read = origins.into_iter().map(origin).collect::<Result<Vec<_>, InvalidHash>>();
    Origins::new(read.map_err(|error| Invalid::new("origins", error))?)
        .map_err(|error| Invalid::new("origins", error))
}

/// A task, and whether the divergence from the float model is counted, as a message.
fn write_task(task: &Task, kl: bool) -> v1::Task {
    use v1::task::Kind;
    let kind = match *task {
        Task::Perplexity { window, stride, windows } => {
            let task = v1::Perplexity { window, stride, windows };
            if kl { Kind::PerplexityAndKl(task) } else { Kind::Perplexity(task) }
        }
        Task::Accuracy { sentences } => {
            let task = v1::Accuracy { sentences };
            if kl { Kind::AccuracyAndKl(task) } else { Kind::Accuracy(task) }
        }
        Task::Choice { questions, per_byte } => {
            let task = v1::Choice { questions, per_byte };
            if kl { Kind::ChoiceAndKl(task) } else { Kind::Choice(task) }
        }
    };
    v1::Task { kind: Some(kind) }
}

/// The task of a message, and whether the divergence from the float model is counted.
fn read_task(task: v1::Task) -> Result<(Task, bool), Invalid> {
    use v1::task::Kind;
    let kind = task.kind.ok_or_else(|| Invalid::new("task", "of no kind that this program knows"))?;
    let kl = matches!(kind, Kind::PerplexityAndKl(_) | Kind::AccuracyAndKl(_) | Kind::ChoiceAndKl(_));
    let task = match kind {
        Kind::Perplexity(task) | Kind::PerplexityAndKl(task) => {
            Task::Perplexity { window: task.window, stride: task.stride, windows: task.windows }
        }
        Kind::Accuracy(task) | Kind::AccuracyAndKl(task) => Task::Accuracy { sentences: task.sentences },
        Kind::Choice(v1::Choice { questions, per_byte })
        | Kind::ChoiceAndKl(v1::Choice { questions, per_byte }) => Task::Choice { questions, per_byte },
    };
    task.validate().map_err(|error| Invalid::new("task", error))?;
    Ok((task, kl))
}

impl From<&Trial> for v1::Trial {
    fn from(trial: &Trial) -> Self {
        let protocol = &trial.protocol;
        Self {
            engine_version: protocol.engine_version,
            backend: protocol.backend.to_string(),
            checkpoint: protocol.checkpoint.as_bytes().to_vec(),
            network: network::plain(&protocol.network),
            member: network::member(&protocol.network),
            text: protocol.data.text.as_bytes().to_vec(),
            tokenizer: protocol.data.tokenizer.as_bytes().to_vec(),
            task: Some(write_task(&protocol.task, protocol.kl)),
            candidate: trial.candidate.encode(),
        }
    }
}

impl TryFrom<v1::Trial> for Trial {
    type Error = Invalid;

    fn try_from(trial: v1::Trial) -> Result<Self, Invalid> {
        let missing = |field| move || Invalid::new(field, "missing");
        let network = network::read(trial.network, trial.member)?;
        let candidate =
            Candidate::decode(&trial.candidate).map_err(|error| Invalid::new("candidate", error))?;
        candidate.validate(&network).map_err(|error| Invalid::new("candidate", error))?;
        let (task, kl) = read_task(trial.task.ok_or_else(missing("task"))?)?;
        let protocol = Protocol {
            engine_version: trial.engine_version,
            backend: trial.backend.parse().map_err(|error| Invalid::new("backend", error))?,
            checkpoint: hash("checkpoint", &trial.checkpoint)?,
            network,
            data: Data { text: hash("text", &trial.text)?, tokenizer: hash("tokenizer", &trial.tokenizer)? },
            task,
            kl,
        };
        Ok(Self { protocol: Arc::new(protocol), candidate })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use qslm_common::backend::Backend;
    use qslm_common::network::{Dynamics, Family, Network};

    use super::*;

    fn trial() -> Trial {
        let network = Network {
            vocabulary: 9,
            channels: 4,
            hidden: 16,
            blocks: 1,
            outputs: 9,
            binary_embedding: true,
            dynamics: Dynamics::SPIKEGPT,
        };
        let protocol = Protocol {
            engine_version: 1,
            backend: Backend::Ndarray,
            checkpoint: ContentHash::of(b"c"),
            network,
            data: Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") },
            task: Task::Perplexity { window: 8, stride: 4, windows: Some(2) },
            kl: false,
        };
        Arc::new(protocol).trial(Candidate::float(&network))
    }

    #[test]
    fn a_trial_survives_the_wire() {
        let trial = trial();
        assert_eq!(Trial::try_from(v1::Trial::from(&trial)), Ok(trial));
    }

    #[test]
    fn a_trial_that_asks_for_the_divergence_is_none_that_earlier_workers_can_read() {
        for task in [
            trial().protocol.task.clone(),
            Task::Accuracy { sentences: Some(3) },
            Task::Choice { questions: None, per_byte: true },
        ] {
            let protocol = Arc::new(Protocol { kl: true, task, ..Protocol::clone(&trial().protocol) });
            let trial = protocol.trial(trial().candidate);
            let message = v1::Trial::from(&trial);
            assert_eq!(Trial::try_from(message.clone()), Ok(trial));
            // They know the first two fields of the kind, and see none.
            let bytes = message.task.unwrap().encode_to_vec();
            assert!([3 << 3 | 2, 4 << 3 | 2, 6 << 3 | 2].contains(&bytes[0]), "{bytes:?}");
        }
    }

    #[test]
    fn a_trial_of_another_member_is_none_that_earlier_workers_can_read() {
        for (family, _) in Family::all().filter(|(family, _)| *family != Family::SpikeGpt) {
            let dynamics = family.member().dynamics;
            let network = Network { dynamics, ..trial().protocol.network };
            let protocol = Arc::new(Protocol { network, ..Protocol::clone(&trial().protocol) });
            let trial = protocol.trial(trial().candidate);
            let message = v1::Trial::from(&trial);
            assert_eq!(message.network, None, "they find no network");
            assert_eq!(Trial::try_from(message), Ok(trial), "{family}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_by_field() {
        let refused = |change: fn(&mut v1::Trial)| {
            let mut message = v1::Trial::from(&trial());
            change(&mut message);
            Trial::try_from(message).unwrap_err().to_string()
        };
        assert_eq!(refused(|t| t.checkpoint.truncate(3)), "checkpoint: a content hash has 32 bytes");
        assert_eq!(refused(|t| t.network = None), "network: missing");
        assert!(refused(|t| t.backend = "gpu".to_owned()).starts_with("backend: "));
        assert!(refused(|t| t.candidate = "qslm candidate 1\n".to_owned()).contains("has no scheme"));
        assert!(refused(|t| t.task = Some(v1::Task { kind: None })).starts_with("task: "));
        assert!(refused(|t| t.network.as_mut().unwrap().blocks = 1 << 30).starts_with("network: blocks"));
        assert!(shard(3, 3).is_err() && shard(0, 1 << 20).is_err() && shard(2, 3).is_ok());
    }

    #[test]
    fn counts_survive_the_wire() {
        let counts = Counts {
            nll: Nll(7),
            scored_tokens: 3,
            processed_tokens: 4,
            spikes: vec![1, 2],
            ..Counts::zero(0)
        };
        for spread in [None, Some(Spread { sequences: 5, squares: 6 })] {
            assert_eq!(read_counts(write_counts(&counts, spread)), (counts.clone(), spread));
        }
        let diverging = Counts { kl: Some(Nll(0)), ..counts };
        assert_eq!(read_counts(write_counts(&diverging, None)), (diverging, None), "none is not nothing");
    }
}
