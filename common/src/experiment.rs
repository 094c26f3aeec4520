//! An experiment: everything that decides its result, and nothing else.
//!
//! Two specs that resolve to the same [`Experiment`] are the same experiment, so its id is the hash of its
//! canonical text. How many workers, shards or hosts take part is not in here: the result does not depend
//! on them.

mod invalid;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use invalid::InvalidExperiment;

use serde::{Deserialize, Serialize};

use crate::ENGINE_VERSION;
use crate::backend::Backend;
use crate::candidate::Candidate;
use crate::constraints::Constraints;
use crate::cost::{Cost, Costs, Device, Subject};
use crate::footprint::file_bytes;
use crate::hash::ContentHash;
use crate::measurement::Counts;
use crate::network::Network;
use crate::objective::{InvalidObjective, Objective, validate_objectives};
use crate::racing::Racing;
use crate::recovery::{Recovery, Trainer};
use crate::space::{Group, Space, Tier};
use crate::strategy::StrategySpec;
use crate::task::{Data, Task};
use crate::tasks::{FurtherTask, InvalidTasks, MOST_TASKS, TaskName};
use crate::trade_off::TradeOff;
use crate::trial::{Protocol, Trial};

/// A resolved experiment. Files are named by content, so it means the same on every machine.
// A canonical text: one field for each thing that decides the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name that people give it: 1 to 64 of `a-z 0-9 - _ .`.
    pub name: String,
    /// [`ENGINE_VERSION`] of the program that resolved it.
    pub engine_version: u32,
    /// Backend of the matrix products; the last bits depend on it.
    pub backend: Backend,
    /// The checkpoint file.
    pub checkpoint: ContentHash,
    /// The shape that the checkpoint has.
    pub network: Network,
    /// The data files.
    pub data: Data,
    /// The protocol.
    pub task: Task,
    /// Search space.
    pub space: Space,
    /// Constraints on costs and quality loss.
    pub constraints: Constraints,
    /// Objectives: the losses that the front weighs.
    pub objectives: Vec<Objective>,
    /// Trade-off: picks one candidate of the front.
    pub trade_off: TradeOff,
    /// Strategy, which proposes candidates.
    pub strategy: StrategySpec,
    /// Device of which costs are modelled.
    #[serde(default, skip_serializing_if = "Device::is_default")]
    pub device: Device,
    /// Racing: when candidates that lose too much quality are pruned; `None` measures all of them to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub racing: Option<Racing>,
    /// Training of the smallest candidates when the search is over; `None` trains none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Most candidates that the search proposes, the float model included; `None` leaves that to the strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_candidates: Option<u64>,
    /// Further tasks that every candidate is measured on, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<TaskName, FurtherTask>,
}

/// The highest priority of an experiment; the lowest is its negative.
pub const MAX_PRIORITY: i32 = 1000;

impl Experiment {
    /// The canonical text: JSON with the fields in the order of the struct.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("an experiment has no maps with keys that are not text")
    }

    /// Reads a canonical text back and checks everything but the strategy.
    ///
    /// # Errors
    /// [`InvalidExperiment`] names what does not fit.
    pub fn decode(text: &str) -> Result<Self, InvalidExperiment> {
        let experiment: Self =
            serde_json::from_str(text).map_err(|error| InvalidExperiment::Text(error.to_string()))?;
        experiment.validate()?;
        Ok(experiment)
    }

    /// `NAME-` and 12 digits of the hash of the canonical text.
    pub fn id(&self) -> String {
        format!("{}-{}", self.name, ContentHash::of(self.encode().as_bytes()).short())
    }

    /// The trial that measures `candidate`. Constraints, strategy and name are not in it, so experiments
    /// share measurements.
    pub fn trial(&self, candidate: Candidate) -> Trial {
        self.protocol().trial(candidate)
    }

    /// The protocol on all of the data; its trials share it.
    pub fn protocol(&self) -> Arc<Protocol> {
        // The fields stand in the experiment one by one, because its canonical text does.
        Arc::new(Protocol {
            engine_version: self.engine_version,
            backend: self.backend,
            checkpoint: self.checkpoint,
            network: self.network,
            data: self.data.clone(),
            task: self.task.clone(),
            kl: self.asks_for_kl(),
        })
    }

    /// The protocols of the further tasks, on all of their data. A divergence is counted on the own task alone.
    pub fn task_protocols(&self) -> impl Iterator<Item = (TaskName, Arc<Protocol>)> {
        let own = self.protocol();
        self.tasks.iter().map(move |(name, FurtherTask { text, task })| {
            let data = Data { text: *text, ..own.data.clone() };
            (*name, Arc::new(Protocol { data, task: task.clone(), kl: false, ..Protocol::clone(&own) }))
        })
    }

    /// True if whoever runs it again gets the same bytes: if neither its measurements nor what it trains are made by
    /// graphics cards.
    pub fn is_reproducible(&self) -> bool {
        let trains_on = self.recovery.as_ref().map(|recovery| recovery.backend);
        [Some(self.backend), trains_on].into_iter().flatten().all(|backend| !backend.is_gpu())
    }

    /// True if an objective or a bound looks at the divergence from the float model. Nobody else pays for counting it.
    pub fn asks_for_kl(&self) -> bool {
        self.objectives.contains(&Objective::Kl) || self.constraints.max_kl.is_some()
    }

    /// The files that workers need: checkpoint, texts, tokenizer, calibrated codes, and the text that is trained on, each once.
    pub fn artifacts(&self) -> BTreeSet<ContentHash> {
        let files = [self.checkpoint, self.data.text, self.data.tokenizer];
        let trained_on = self.recovery.as_ref().map(|recovery| recovery.text);
        let texts = self.tasks.values().map(|further| further.text);
        files.into_iter().chain(self.space.codes.values().copied()).chain(trained_on).chain(texts).collect()
    }

    /// The constraints that a candidate has to meet to be of any use: with the bounds on quality as far away as candidates
    /// that are trained may be.
    pub fn within_reach(&self) -> Cow<'_, Constraints> {
        let Some(Recovery { reach, .. }) = self.recovery else { return Cow::Borrowed(&self.constraints) };
        let mut constraints = self.constraints.clone();
        let Constraints { max_perplexity_increase, max_accuracy_drop, max_kl, tasks, .. } = &mut constraints;
        let bounds = [max_perplexity_increase, max_accuracy_drop, max_kl];
        bounds.into_iter().flatten().chain(tasks.values_mut()).for_each(|bound| *bound *= reach);
        Cow::Owned(constraints)
    }

    /// Checks that everything but the strategy fits; see `qslm_search::problems` for that.
    ///
    /// # Errors
    /// The first of the [`Experiment::problems`].
    pub fn validate(&self) -> Result<(), InvalidExperiment> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All problems of the experiment. What builds on a value that is wrong itself is left out.
    pub fn problems(&self) -> Vec<InvalidExperiment> {
        let mut problems = Vec::new();
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            problems.push(InvalidExperiment::Name(self.name.chars().take(80).collect()));
        }
        if self.engine_version != ENGINE_VERSION {
            problems.push(InvalidExperiment::Engine { given: self.engine_version });
        }
        problems.extend(self.task.validate().err().map(Into::into));
        if let Err(error) = self.network.validate() {
            problems.push(error.into());
            return problems;
        }
        problems.extend(check_model(&self.network, &self.task).err());
        problems.extend(matches!(self.task, Task::Choice { .. }).then_some(InvalidExperiment::OwnChoice));
        problems.extend(self.device.problems(&self.network).into_iter().map(Into::into));
        match self.space.validate(&self.network) {
            Err(error) => problems.push(error.into()),
            Ok(()) => {
                let bounds = self.constraints.problems(&self.task, &self.space, &self.network, &self.device);
                problems.extend(bounds.into_iter().map(InvalidExperiment::Constraints));
            }
        }
        problems.extend(self.task_problems().into_iter().map(Into::into));
        let bounds = self.constraints.task_problems(&self.tasks);
        problems.extend(bounds.into_iter().map(InvalidExperiment::Constraints));
        let objectives = validate_objectives(&self.objectives, &self.task, &self.tasks, &self.device);
        problems.extend(objectives.err().map(InvalidExperiment::Objectives));
        problems.extend(self.trade_off.validate(self.constraints.bounds_quality()).err().map(Into::into));
        if !self.device.models(self.trade_off.cost()) {
            let not_described = InvalidObjective::NotDescribed(self.trade_off.cost());
            problems.push(InvalidExperiment::TradeOffCost(not_described));
        }
        if self.racing.is_some() && self.constraints.largest_loss(self.task.quality()).is_none() {
            problems.push(InvalidExperiment::RacingWithoutBound);
        }
        problems.extend((self.max_candidates == Some(0)).then_some(InvalidExperiment::NoCandidates));
        problems.extend(
            self.recovery.iter().flat_map(|recovery| recovery.problems(&self.network)).map(Into::into),
        );
        let backend = self.recovery.as_ref().and_then(|recovery| recovery.check_backend().err());
        problems.extend(backend.map(Into::into));
        let trainer = self.recovery.as_ref().map(|recovery| &recovery.plan.trainer);
        if self.network.is_classifier() && trainer.is_some_and(|trainer| *trainer != Trainer::Qat) {
            problems.push(InvalidExperiment::RecoveryOfClassifier);
        }
        if self.recovery.is_some() {
            problems.extend(self.network.dynamics.trainable().err().map(Into::into));
        }
        if !self.network.is_spiking() {
            let firing_rate =
                self.objectives.contains(&Objective::FiringRate).then_some("objectives: firing_rate");
            let membranes = self.space.membranes.is_some().then_some("space.membranes");
            problems.extend(firing_rate.into_iter().chain(membranes).map(InvalidExperiment::NoSpikes));
        }
        problems
    }

    /// Problems of the further tasks.
    fn task_problems(&self) -> Vec<InvalidTasks> {
        let mut problems = Vec::new();
        problems.extend((self.tasks.len() > MOST_TASKS).then_some(InvalidTasks::TooMany(self.tasks.len())));
        let mut known = vec![("the experiment's own task".to_owned(), (self.data.text, &self.task))];
        for (name, FurtherTask { text, task }) in &self.tasks {
            problems.extend(task.validate().err().map(|error| InvalidTasks::Task(*name, error)));
            problems
                .extend(wrong_model(&self.network, task).map(|words| InvalidTasks::WrongModel(*name, words)));
            let same = known.iter().find(|(_, measured)| *measured == (*text, task));
            problems.extend(same.map(|(other, _)| InvalidTasks::Twice(*name, other.clone())));
            known.push((format!("tasks.{name}"), (*text, task)));
        }
        problems.extend((self.racing.is_some() && !self.tasks.is_empty()).then_some(InvalidTasks::Racing));
        problems
    }

    /// Bytes of a candidate's file.
    pub fn footprint(&self, candidate: &Candidate) -> u64 {
        file_bytes(&self.network, candidate, &self.space.coded.of(candidate))
    }

    /// Costs of a candidate that was measured as `counts`.
    pub fn costs(&self, candidate: &Candidate, counts: &Counts) -> Costs {
        let subject = Subject::new(&self.device, &self.network, candidate, counts);
        self.device.costs_of(&subject.stored(&self.space.coded.of(candidate)))
    }

    /// The costs that objectives, bounds and the trade-off look at.
    pub fn deciding_costs(&self) -> BTreeSet<Cost> {
        let objectives = self.objectives.iter().filter_map(|objective| match objective {
            Objective::Cost(cost) => Some(*cost),
            _ => None,
        });
        objectives.chain(self.constraints.max.keys().copied()).chain([self.trade_off.cost()]).collect()
    }

    /// Groups that the space lets move at a tier: weights, then activations, then membranes.
    pub fn moving(&self, tier: Tier) -> Vec<Group> {
        let groups = |axis| self.space.groups(&self.network, axis, tier);
        self.space.axes().into_iter().flat_map(groups).collect()
    }

    /// Number of candidates that the groups of `tier` allow, `u64::MAX` if more than that.
    pub fn combinations(&self, tier: Tier) -> u64 {
        let levels = self.moving(tier).into_iter().map(|group| group.levels as u64);
        levels.fold(1, u64::saturating_mul)
    }
}

/// Checks that a checkpoint of this shape can do the task.
///
/// # Errors
/// [`InvalidExperiment::WrongModel`] says what it is instead.
pub fn check_model(network: &Network, task: &Task) -> Result<(), InvalidExperiment> {
    wrong_model(network, task).map_or(Ok(()), |words| Err(InvalidExperiment::WrongModel(words)))
}

/// Reason why a checkpoint of this shape cannot do a task.
fn wrong_model(network: &Network, task: &Task) -> Option<&'static str> {
    match (task, network.is_classifier()) {
        (Task::Perplexity { .. }, true) => {
            Some("perplexity needs a language model, this checkpoint classifies")
        }
        (Task::Choice { .. }, true) => {
            Some("multiple choice needs a language model, this checkpoint classifies")
        }
        (Task::Accuracy { .. }, false) => {
            Some("accuracy needs a classifier, this checkpoint models language")
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::network::Dynamics;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::scheme::Width;
    use crate::space::Embedding;

    pub(crate) fn experiment() -> Experiment {
        Experiment {
            name: "tiny".to_owned(),
            engine_version: ENGINE_VERSION,
            backend: Backend::Native,
            checkpoint: ContentHash::of(b"checkpoint"),
            network: Network {
                vocabulary: 96,
                channels: 48,
                hidden: 192,
                blocks: 2,
                outputs: 96,
                binary_embedding: true,
                dynamics: Dynamics::SPIKEGPT,
            },
            data: Data { text: ContentHash::of(b"text"), tokenizer: ContentHash::of(b"tokenizer") },
            task: Task::Perplexity { window: 128, stride: 128, windows: None },
            space: Space::of([8, 4, 2].map(|bits| Width::try_from(bits).unwrap()).to_vec(), Embedding::Sign),
            constraints: Constraints { max_perplexity_increase: Some(0.03), ..Default::default() },
            objectives: vec![Objective::Perplexity, Objective::Cost(Cost::Footprint)],
            trade_off: TradeOff::default(),
            strategy: serde_json::from_str(r#"{"kind":"qslm","sensitivity_bits":null}"#).unwrap(),
            device: Device::default(),
            racing: None,
            recovery: None,
            max_candidates: None,
            tasks: BTreeMap::new(),
        }
    }

    #[test]
    fn an_experiment_survives_its_text() {
        let experiment = experiment();
        assert_eq!(Experiment::decode(&experiment.encode()), Ok(experiment));
    }

    proptest! {
        #[test]
        fn every_bound_survives_the_text_to_the_bit(increase in 0.0f64..1.0, saving in -1.0f64..0.8, mu in 0.0f64..1000.0) {
            let constraints = Constraints {
                max_perplexity_increase: Some(increase),
                min_saving: Some(saving),
                ..Constraints::default()
            };
            let trade_off = TradeOff::WeightedSum { mu, cost: Cost::Footprint };
            let experiment = Experiment { constraints, trade_off, ..experiment() };
            let read = Experiment::decode(&experiment.encode()).unwrap();
            prop_assert_eq!(read.id(), experiment.id());
            prop_assert_eq!(read, experiment);
        }
    }

    #[test]
    fn a_trial_is_shared_by_experiments_that_measure_the_same() {
        let one = experiment();
        let other =
            Experiment { name: "other".to_owned(), constraints: Constraints::default(), ..one.clone() };
        let float = Candidate::float(&one.network);
        assert_ne!(one.id(), other.id());
        let key = |experiment: &Experiment, candidate: &Candidate| experiment.trial(candidate.clone()).key();
        assert_eq!(key(&one, &float), key(&other, &float));
        let windows = Task::Perplexity { window: 128, stride: 64, windows: None };
        assert_ne!(key(&one, &float), key(&Experiment { task: windows, ..one.clone() }, &float));
        let backend = Experiment { backend: Backend::Ndarray, ..one.clone() };
        assert_ne!(key(&one, &float), key(&backend, &float));
        assert_ne!(key(&one, &float), key(&one, &one.space.uniform(&one.network, 0)));
        // Whoever asks for the divergence measures something else; an objective more asks for nothing else.
        let mut asks = one.clone();
        asks.objectives.push(Objective::FiringRate);
        assert_eq!(key(&one, &float), key(&asks, &float));
        asks.objectives.push(Objective::Kl);
        assert_ne!(key(&one, &float), key(&asks, &float));
        let constraints = Constraints { max_kl: Some(0.1), ..one.constraints.clone() };
        assert_eq!(key(&asks, &float), key(&Experiment { constraints, ..one.clone() }, &float));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |change: fn(&mut Experiment)| {
            let mut experiment = experiment();
            change(&mut experiment);
            experiment.validate().unwrap_err().to_string()
        };
        assert!(refused(|e| e.name = "a/../b".to_owned()).starts_with("name = \"a/../b\""));
        assert!(refused(|e| e.engine_version = 99).starts_with("engine version 99"));
        assert!(refused(|e| e.task = Task::Accuracy { sentences: None }).contains("models language"));
        assert!(refused(|e| e.network.outputs = 2).contains("classifies"));
    }

    #[test]
    fn what_a_graphics_card_takes_part_in_is_not_reproducible() {
        let recovery = r#"{"text":"HASH","candidates":1,"reach":2.0,"plan":{"window":8,"batch":1,"steps":1,"rate":0.1,
            "distillation":1.0,"seed":0}}"#;
        let recovery = recovery.replace("HASH", &ContentHash::of(b"train").to_string());
        let mut trains = Experiment { recovery: serde_json::from_str(&recovery).ok(), ..experiment() };
        assert!(experiment().is_reproducible() && trains.recovery.is_some() && trains.is_reproducible());
        assert!(!Experiment { backend: Backend::Wgpu, ..experiment() }.is_reproducible());
        assert!(!trains.encode().contains("\"backend\":\"cuda\""));
        trains.recovery.iter_mut().for_each(|recovery| recovery.backend = Backend::Cuda);
        assert!(!trains.is_reproducible() && trains.validate().is_ok());
        assert_eq!(Experiment::decode(&trains.encode()), Ok(trains.clone()));
        trains.recovery.iter_mut().for_each(|recovery| recovery.backend = Backend::Integer);
        let words = trains.validate().unwrap_err().to_string();
        assert_eq!(words, "recovery.backend = integer: expected native, cuda or wgpu");
    }

    #[test]
    fn what_is_not_asked_for_leaves_no_trace_in_the_text() {
        // Old experiments keep their ids: new keys appear only where they are used.
        let text = experiment().encode();
        for key in
            ["device", "activations", "membranes", "kl", "\"max\"", "\"cost\"", "max_candidates", "tasks"]
        {
            assert!(!text.contains(key), "{key}: {text}");
        }
    }

    #[test]
    fn further_tasks_are_checked_and_measured_by_protocols_of_their_own() {
        let further = |text: &[u8], task| FurtherTask { text: ContentHash::of(text), task };
        let windows = Task::Perplexity { window: 64, stride: 64, windows: Some(8) };
        let mut of = experiment();
        let name: TaskName = "books".parse().unwrap();
        of.tasks.insert(name, further(b"books", windows.clone()));
        of.objectives = vec![Objective::Perplexity, Objective::Task(name), Objective::Cost(Cost::Footprint)];
        of.constraints.tasks.insert(name, 0.05);
        assert_eq!(of.problems(), []);
        assert_eq!(Experiment::decode(&of.encode()), Ok(of.clone()));
        assert!(of.artifacts().contains(&ContentHash::of(b"books")));
        let protocols: Vec<_> = of.task_protocols().collect();
        assert_eq!((protocols.len(), protocols[0].0, &protocols[0].1.task), (1, name, &windows));
        assert_eq!(protocols[0].1.data.tokenizer, of.data.tokenizer);
        let mut wrong = of.clone();
        wrong.tasks.insert("again".parse().unwrap(), further(b"text", wrong.task.clone()));
        wrong.tasks.insert("class".parse().unwrap(), further(b"sst", Task::Accuracy { sentences: Some(0) }));
        wrong.racing = Some(Racing::Proof);
        wrong.objectives[1] = Objective::Task("none".parse().unwrap());
        let words: Vec<String> = wrong.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "tasks.again measures what the experiment's own task measures",
                "tasks.class.sentences = 0: expected 1 to 4294967295",
                "tasks.class: accuracy needs a classifier, this checkpoint models language",
                "racing: not with further tasks: a pruned candidate would be measured on some of them",
                "objectives: none: there is no such further task under [tasks]",
            ]
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut wrong = experiment();
        wrong.name = "A".to_owned();
        wrong.constraints.max_accuracy_drop = Some(2.0);
        wrong.constraints.min_saving = Some(0.99);
        wrong.trade_off = TradeOff::Product { k: -1.0, cost: Cost::Footprint };
        wrong.objectives = vec![];
        let problems: Vec<_> = wrong.problems().iter().map(ToString::to_string).collect();
        for words in
            ["name", "max_accuracy_drop = 2", "does not go with", "min_saving = 0.99", "objectives", "k = -1"]
        {
            assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = experiment().encode().replacen("{\"name\"", "{\"nmae\":1,\"name\"", 1);
        assert!(Experiment::decode(&text).unwrap_err().to_string().contains("nmae"));
    }
}
