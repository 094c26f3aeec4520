//! Draft of an experiment: a spec's values before anything is made for it, and everything that is wrong with them.
//!
//! Where a file is missing, the values are checked all the same: against several networks that stand in for that of the
//! checkpoint. What is wrong for all of them alike is no matter of the network.

use std::collections::BTreeMap;
use std::path::Path;

use qslm_common::ENGINE_VERSION;
use qslm_common::candidate::Candidate;
use qslm_common::cost::Cost;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::network::{Dynamics, Network};
use qslm_common::objective::Objective;
use qslm_common::space::Space;
use qslm_common::task::{Data, MAX_SHARDS, Task};
use qslm_common::tasks::{FurtherTask, TaskName};
use qslm_engine::checkpoint::Checkpoint;
use qslm_search::{AnyStrategy, List};

use super::calibration::draft;
use super::space::SpaceSpec;
use super::written::{Spec, WrittenStrategy};
use super::{KeyProblem, Ranking, Refused, strategy, table, with_codes_of};
use crate::member::Base;

/// What of an experiment is not in the text of its spec.
pub(super) struct Found<'a> {
    pub(super) network: Network,
    pub(super) checkpoint: ContentHash,
    pub(super) data: Data,
    pub(super) task: Task,
    pub(super) tasks: BTreeMap<TaskName, FurtherTask>,
    /// Candidates of a list.
    pub(super) listed: &'a [Candidate],
    /// What people call them.
    pub(super) names: Vec<String>,
}

/// Experiment of a spec before anything is made for it.
pub(super) struct Draft {
    /// The space without what calibration adds to it.
    pub(super) space: Space,
    pub(super) experiment: Experiment,
    pub(super) strategy: AnyStrategy,
    pub(super) ranking: Option<Ranking>,
}

impl Draft {
    /// Draft of a spec with this space.
    pub(super) fn new(spec: &Spec, space: &SpaceSpec, found: Found<'_>) -> Self {
        let Found { network, checkpoint, data, task, tasks, listed, names } = found;
        let space = space.resolve(network.binary_embedding, &network);
        let drafted = draft(&space, &network);
        let listed = List::new(with_codes_of(listed, &drafted, true), names);
        let (strategy, ranking) = strategy(&spec.strategy, listed, &drafted, &network);
        let usual = || vec![Objective::quality_of(&task), Objective::Cost(Cost::Footprint)];
        let experiment = Experiment {
            name: spec.name.clone(),
            engine_version: ENGINE_VERSION,
            backend: spec.backend,
            checkpoint,
            network,
            data,
            space: drafted,
            constraints: spec.constraints.clone(),
            objectives: spec.objectives.clone().unwrap_or_else(usual),
            trade_off: spec.trade_off,
            strategy: strategy.spec(),
            device: spec.device.clone(),
            racing: spec.racing,
            recovery: None,
            max_candidates: spec.max_candidates,
            tasks,
            task,
        };
        Self { space, experiment, strategy, ranking }
    }

    /// Everything that is wrong with the values.
    pub(super) fn problems(&mut self, spec: &Spec) -> Vec<KeyProblem> {
        let of_losses = table::problem(&self.strategy);
        table::draft(&mut self.strategy, &self.experiment);
        self.experiment.strategy = self.strategy.spec();
        let mut problems: Vec<KeyProblem> =
            qslm_search::problems(&self.experiment).into_iter().map(Into::into).collect();
        problems.extend(of_losses);
        let shards = spec.run.shards;
        if !(1..=MAX_SHARDS).contains(&shards) {
            let words = format!("run.shards = {shards}: expected 1 to {MAX_SHARDS}");
            problems.push(KeyProblem::new("run.shards", words));
        }
        let of_demands = spec.run.workers.validate().err();
        problems
            .extend(of_demands.map(|error| KeyProblem::new("run.workers", format!("run.workers.{error}"))));
        let network = &self.experiment.network;
        problems.extend(self.ranking.iter().flat_map(|ranking| ranking.problems(network)));
        problems
    }
}

/// Problems of the values of a spec of which a file cannot be read: those that any network would have, or that of its
/// checkpoint, if that is there.
pub(super) fn problems(path: &Path, spec: &Spec) -> Vec<KeyProblem> {
    let networks = known_network(path, spec).map_or_else(|| stand_ins().to_vec(), |network| vec![network]);
    let mut of_each = networks.iter().map(|network| of_network(spec, *network));
    let first = of_each.next().unwrap_or_default();
    of_each.fold(first, |mut all, others| {
        all.retain(|one| others.contains(one));
        all
    })
}

/// The network of the checkpoint, if it can be told.
fn known_network(path: &Path, spec: &Spec) -> Option<Network> {
    let file = path.parent().unwrap_or(Path::new("")).join(spec.checkpoint.path.as_ref()?);
    let base = Base::said(&file, spec.checkpoint.family).ok()?;
    let member = spec.checkpoint.member(base).ok()?;
    Checkpoint::inspect(&file, member).ok().map(|inspected| inspected.network)
}

/// Networks that have little in common: large and small, of texts and of classes, with spikes and without.
fn stand_ins() -> [Network; 4] {
    let large = Network {
        vocabulary: 65_536,
        channels: 1536,
        hidden: 6144,
        blocks: 48,
        outputs: 65_536,
        binary_embedding: true,
        dynamics: Dynamics::SPIKEGPT,
    };
    let small = Network { vocabulary: 96, channels: 48, hidden: 192, blocks: 2, outputs: 96, ..large };
    let classifier = Network { outputs: 2, binary_embedding: false, ..large };
    [large, small, classifier, Network { dynamics: Dynamics::NO_SPIKES, ..large }]
}

fn of_network(spec: &Spec, network: Network) -> Vec<KeyProblem> {
    let nothing = ContentHash::of(b"");
    let float = [Candidate::float(&network)];
    let is_list = matches!(spec.strategy, Some(WrittenStrategy::List(_)));
    let tasks = spec.tasks.iter().map(|(name, task)| {
        let further = FurtherTask { text: ContentHash::of(name.to_string().as_bytes()), task: task.task() };
        (*name, further)
    });
    let found = Found {
        network,
        checkpoint: nothing,
        data: Data { text: nothing, tokenizer: nothing },
        task: spec.task.task(),
        tasks: tasks.collect(),
        listed: if is_list { &float } else { &[] },
        names: Vec::new(),
    };
    let Err(Refused::Spec(mut problems)) = spec.space.problems() else {
        return Draft::new(spec, &spec.space, found).problems(spec);
    };
    // What follows of such a space is no problem of its own.
    let others = Draft::new(spec, &SpaceSpec::default(), found).problems(spec);
    let follows = |key: &str| ["space", "strategy", "trade_off"].iter().any(|table| key.starts_with(table));
    problems.extend(others.into_iter().filter(|one| !one.key.as_deref().is_some_and(follows)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_stand_in_are_networks_and_differ() {
        let networks = stand_ins();
        assert!(networks.iter().all(|network| network.validate().is_ok()));
        assert_eq!(networks.iter().filter(|network| network.is_classifier()).count(), 1);
        assert_eq!(networks.iter().filter(|network| network.is_spiking()).count(), 3);
    }
}
