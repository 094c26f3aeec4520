//! What can be wrong with an experiment.

use crate::ENGINE_VERSION;

/// Reasons why an experiment cannot be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidExperiment {
    /// Not the canonical text of an experiment.
    #[error("not an experiment: {0}")]
    Text(String),
    /// A name that cannot be part of an id.
    #[error("name = {0:?}: expected 1 to 64 of a-z, 0-9, '-', '_' and '.'")]
    Name(String),
    /// An experiment of another engine version.
    #[error("engine version {given}: this is version {ENGINE_VERSION}, whose numbers may differ")]
    Engine {
        /// The version it was resolved for.
        given: u32,
    },
    /// See [`crate::cost::InvalidDevice`].
    #[error("device.{0}")]
    Device(#[from] crate::cost::InvalidDevice),
    /// A trade-off over something that the spec does not describe.
    #[error("trade_off.cost: {0}")]
    TradeOffCost(crate::objective::InvalidObjective),
    /// A race without a finish.
    #[error("racing: needs a bound on quality: constraints.max_perplexity_increase or max_accuracy_drop")]
    RacingWithoutBound,
    /// See [`crate::recovery::InvalidRecovery`].
    #[error("recovery.{0}")]
    Recovery(#[from] crate::recovery::InvalidRecovery),
    /// See [`crate::recovery::CannotTrainOn`].
    #[error("recovery.{0}")]
    RecoveryBackend(#[from] crate::recovery::CannotTrainOn),
    /// A search that may propose nothing.
    #[error("max_candidates = 0: expected at least 1")]
    NoCandidates,
    /// A classifier, and a trainer that has none of their sentences.
    #[error("recovery.trainer: this checkpoint classifies, and qat alone trains classifiers")]
    RecoveryOfClassifier,
    /// A network without a backward pass.
    #[error("recovery: {0}")]
    NotTrained(#[from] crate::network::NotTrained),
    /// Something of spikes, and a network that has none.
    #[error("{0}: this network has no spikes")]
    NoSpikes(&'static str),
    /// See [`crate::network::InvalidNetwork`].
    #[error("network: {0}")]
    Network(#[from] crate::network::InvalidNetwork),
    /// See [`crate::task::InvalidTask`].
    #[error("task.{0}")]
    Task(#[from] crate::task::InvalidTask),
    /// The checkpoint does not do this task.
    #[error("task: {0}")]
    WrongModel(&'static str),
    /// A search that would learn from hits alone.
    #[error(
        "task.kind = choice: multiple choice is for further tasks ([tasks.NAME]); searches learn from a text"
    )]
    OwnChoice,
    /// See [`crate::space::InvalidSpace`].
    #[error("space.{0}")]
    Space(#[from] crate::space::InvalidSpace),
    /// See [`crate::objective::InvalidObjective`].
    #[error("constraints: {0}")]
    Constraints(crate::objective::InvalidObjective),
    /// See [`crate::objective::InvalidObjective`].
    #[error("objectives: {0}")]
    Objectives(crate::objective::InvalidObjective),
    /// See [`crate::tasks::InvalidTasks`].
    #[error("{0}")]
    Tasks(#[from] crate::tasks::InvalidTasks),
    /// See [`crate::trade_off::InvalidTradeOff`].
    #[error("trade_off: {0}")]
    TradeOff(#[from] crate::trade_off::InvalidTradeOff),
}

impl InvalidExperiment {
    /// Key path of the value to change in a spec, such as `space.bits`; `None` if it is about no key.
    pub fn key(&self) -> Option<String> {
        let within = |table: &str, key: Option<String>| match key {
            Some(key) => format!("{table}.{key}"),
            None => table.to_owned(),
        };
        Some(match self {
            Self::Text(_) | Self::Engine { .. } | Self::Network(_) => return None,
            Self::Name(_) => "name".to_owned(),
            Self::Device(invalid) => within("device", Some(invalid.key())),
            Self::TradeOffCost(_) => "trade_off.cost".to_owned(),
            Self::RacingWithoutBound => "racing".to_owned(),
            Self::NoCandidates => "max_candidates".to_owned(),
            Self::Recovery(invalid) => within("recovery", Some(invalid.key.to_owned())),
            Self::RecoveryBackend(_) => "recovery.backend".to_owned(),
            Self::RecoveryOfClassifier => "recovery.trainer".to_owned(),
            Self::NotTrained(_) => "recovery".to_owned(),
            Self::NoSpikes(key) => key.split(':').next().unwrap_or(key).to_owned(),
            Self::Tasks(invalid) => invalid.key(),
            Self::Task(invalid) => within("task", Some(invalid.key().to_owned())),
            Self::WrongModel(_) => "task".to_owned(),
            Self::OwnChoice => "task.kind".to_owned(),
            Self::Space(invalid) => within("space", Some(invalid.key())),
            Self::Constraints(invalid) => within("constraints", invalid.key()),
            Self::Objectives(_) => "objectives".to_owned(),
            Self::TradeOff(invalid) => within("trade_off", invalid.key().map(str::to_owned)),
        })
    }
}
