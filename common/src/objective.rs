//! Objectives: what is better. Each turns counts and costs into one number to minimise; a front lives in the space of these.
//! What is good enough is said by [`crate::constraints`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cost::{Cost, Costs, Device, UnknownCost};
use crate::measurement::Counts;
use crate::network::Network;
use crate::quality::Quality;
use crate::spread::Spread;
use crate::task::Task;
use crate::tasks::{FurtherTask, InvalidTaskName, TaskName};

/// A measured candidate as objectives, constraints and trade-offs see it.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// Counts over the whole data.
    pub counts: &'a Counts,
    /// Spread around the float model's losses; `None` where it is not known.
    pub spread: Option<Spread>,
    /// Spreads on further tasks, where they are known.
    pub task_spreads: &'a BTreeMap<TaskName, Spread>,
    /// Bytes as the exported file stores them.
    pub footprint_bytes: u64,
    /// Costs by all models that are asked for. The footprint need not be among them.
    pub costs: &'a Costs,
}

impl Measured<'_> {
    /// Cost of the candidate; `None` for one that was not asked for.
    pub fn cost(&self, cost: Cost) -> Option<f64> {
        match cost {
            Cost::Footprint => Some(self.footprint_bytes as f64),
            other => self.costs.get(&other).copied(),
        }
    }
}

/// One number to minimise: `perplexity`, `error`, `kl`, `firing_rate`, a further task as `tasks.NAME`, or a cost by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Objective {
    /// Perplexity of a language model, 1 to infinity.
    Perplexity,
    /// Share of sentences classified wrongly, 0 to 1: `1 - accuracy`.
    Error,
    /// Divergence of the predictions from the float model's, mean KL(float || candidate) in nats per scored token or
    /// sentence, 0 to infinity. Small changes show in it that cancel out in a loss.
    Kl,
    /// Spikes per neuron and token, 0 to 1: what event-driven hardware pays for.
    FiringRate,
    /// Perplexity, or the share of what is answered wrongly, on a further task.
    Task(TaskName),
    /// A cost of the device.
    Cost(Cost),
}

/// A constraint or objective that cannot be used with the rest of the experiment.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidObjective {
    /// A bound that is no number, or outside its range.
    #[error("{name} = {value}: expected {bound}")]
    Bound {
        /// The key.
        name: &'static str,
        /// The value that was given.
        value: f64,
        /// The range that it has to be in.
        bound: &'static str,
    },
    /// No candidate of the space is that small.
    #[error(
        "{name} = {value} cannot be met: the smallest candidate of this space takes {smallest} bytes \
         (a saving of {saving:.4})"
    )]
    Impossible {
        /// The key.
        name: &'static str,
        /// The value that was given.
        value: f64,
        /// Bytes of the smallest candidate.
        smallest: u64,
        /// Saving of the smallest candidate.
        saving: f64,
    },
    /// A perplexity bound on a classifier or the reverse.
    #[error("{0} does not go with this task")]
    OtherTask(String),
    /// A cost of something that the spec does not describe.
    #[error("{0} cannot be modelled: describe what it is about under [device]")]
    NotDescribed(Cost),
    /// A bound on a cost that is no number.
    #[error("max.{cost} = {value}: expected a number of at least 0")]
    Max {
        /// The cost.
        cost: Cost,
        /// The bound that was given.
        value: f64,
    },
    /// Nothing to be confident of.
    #[error("confident needs a bound on the quality that is lost")]
    Unbounded,
    /// A further task that there is none of.
    #[error("{0}: there is no such further task under [tasks]")]
    UnknownTask(TaskName),
    /// A bound on a further task that is no number, or outside its range.
    #[error("tasks.{name} = {value}: expected {bound}")]
    TaskBound {
        /// The task.
        name: TaskName,
        /// The bound that was given.
        value: f64,
        /// The range that it has to be in.
        bound: &'static str,
    },
    /// The front has two or three axes.
    #[error("{0} objectives: a front has 2 or 3 different ones")]
    Count(usize),
}

impl InvalidObjective {
    /// Key within `[constraints]`; `None` if it is about no key of it.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Bound { name, .. } | Self::Impossible { name, .. } => Some((*name).to_owned()),
            Self::OtherTask(name) => Some(name.clone()),
            Self::NotDescribed(cost) | Self::Max { cost, .. } => Some(format!("max.{cost}")),
            Self::Unbounded => Some("confident".to_owned()),
            Self::UnknownTask(name) | Self::TaskBound { name, .. } => Some(format!("tasks.{name}")),
            Self::Count(_) => None,
        }
    }
}

impl Objective {
    /// The loss of a measured candidate: finite, smaller is better. 0 if it was not measured by this task.
    pub fn loss(self, network: &Network, measured: Measured<'_>) -> f64 {
        match self {
            Self::Perplexity => Quality::Perplexity.to_minimise(measured.counts),
            Self::Error => Quality::Accuracy.to_minimise(measured.counts),
            Self::Kl => measured.counts.mean_kl().unwrap_or(0.0),
            Self::FiringRate => measured.counts.mean_firing_rate(network.channels).unwrap_or_default(),
            Self::Task(name) => {
                measured.counts.tasks.get(&name).map_or(0.0, |counts| counts.quality().to_minimise(counts))
            }
            Self::Cost(cost) => measured.cost(cost).unwrap_or(0.0),
        }
    }

    /// The loss beyond which a candidate adds nothing to the hypervolume: twice the float perplexity and the nats that this
    /// is, every sentence wrong, every neuron firing at every token, the float model's cost. Always above 0.
    pub fn reference(self, float: Measured<'_>) -> f64 {
        match self {
            Self::Perplexity => 2.0 * float.counts.perplexity().unwrap_or(1.0),
            Self::Kl => std::f64::consts::LN_2,
            Self::Error | Self::FiringRate => 1.0,
            Self::Task(name) => {
                let perplexity = float.counts.tasks.get(&name).and_then(Counts::perplexity);
                perplexity.map_or(1.0, |perplexity| 2.0 * perplexity)
            }
            Self::Cost(cost) => float.cost(cost).filter(|value| *value > 0.0).unwrap_or(1.0),
        }
    }

    /// The quality objective of a task.
    pub fn quality_of(task: &Task) -> Self {
        match task.quality() {
            Quality::Perplexity => Self::Perplexity,
            Quality::Accuracy => Self::Error,
        }
    }

    /// The quality that it is about, if it is about one.
    fn quality(self) -> Option<Quality> {
        match self {
            Self::Perplexity => Some(Quality::Perplexity),
            Self::Error => Some(Quality::Accuracy),
            Self::Kl | Self::FiringRate | Self::Task(_) | Self::Cost(_) => None,
        }
    }
}

/// Checks a list of objectives: two or three, different, measured by `task` or one of `tasks`, and modelled of `device`.
///
/// # Errors
/// [`InvalidObjective`] says which does not fit.
pub fn validate_objectives(
    objectives: &[Objective],
    task: &Task,
    tasks: &BTreeMap<TaskName, FurtherTask>,
    device: &Device,
) -> Result<(), InvalidObjective> {
    let mut distinct = objectives.to_vec();
    distinct.sort();
    distinct.dedup();
    if distinct.len() != objectives.len() || !(2..=3).contains(&objectives.len()) {
        return Err(InvalidObjective::Count(distinct.len()));
    }
    let unknown = |objective: &Objective| match *objective {
        Objective::Cost(cost) => (!device.models(cost)).then_some(InvalidObjective::NotDescribed(cost)),
        Objective::Task(name) => (!tasks.contains_key(&name)).then_some(InvalidObjective::UnknownTask(name)),
        _ => None,
    };
    if let Some(unknown) = objectives.iter().find_map(unknown) {
        return Err(unknown);
    }
    let of_other_task =
        |objective: &&Objective| objective.quality().is_some_and(|quality| quality != task.quality());
    match distinct.iter().find(of_other_task) {
        Some(objective) => Err(InvalidObjective::OtherTask(format!("objective {objective}"))),
        None => Ok(()),
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Perplexity => f.write_str("perplexity"),
            Self::Error => f.write_str("error"),
            Self::Kl => f.write_str("kl"),
            Self::FiringRate => f.write_str("firing_rate"),
            Self::Task(name) => write!(f, "{OF_TASK}{name}"),
            Self::Cost(cost) => cost.fmt(f),
        }
    }
}

/// Beginning of the name of an objective that is a further task.
const OF_TASK: &str = "tasks.";

/// A name that is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownObjective {
    /// None at all.
    #[error("objective perplexity, error, kl, firing_rate, tasks.NAME or a cost: {0}")]
    Cost(#[from] UnknownCost),
    /// Of a task with an impossible name.
    #[error("objective: {0}")]
    Task(#[from] InvalidTaskName),
}

impl FromStr for Objective {
    type Err = UnknownObjective;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "perplexity" => Ok(Self::Perplexity),
            "error" => Ok(Self::Error),
            "kl" => Ok(Self::Kl),
            "firing_rate" => Ok(Self::FiringRate),
            other => match other.strip_prefix(OF_TASK) {
                Some(name) => Ok(Self::Task(name.parse()?)),
                None => Ok(Self::Cost(other.parse()?)),
            },
        }
    }
}

impl TryFrom<String> for Objective {
    type Error = UnknownObjective;

    fn try_from(text: String) -> Result<Self, UnknownObjective> {
        text.parse()
    }
}

impl From<Objective> for String {
    fn from(objective: Objective) -> Self {
        objective.to_string()
    }
}

/// The loss of quality against the float model; see [`Quality::loss_against`].
pub fn quality_loss(float: &Counts, counts: &Counts) -> f64 {
    float.quality().loss_against(float, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERPLEXITY: Task = Task::Perplexity { window: 8, stride: 8, windows: None };
    const ACCURACY: Task = Task::Accuracy { sentences: None };

    #[test]
    fn a_front_has_two_or_three_different_axes_of_the_task() {
        use Objective::{Error, FiringRate, Kl, Perplexity};
        let footprint = Objective::Cost(Cost::Footprint);
        let check = |objectives: &[Objective], task| {
            validate_objectives(objectives, task, &BTreeMap::new(), &Device::default())
        };
        assert_eq!(check(&[Perplexity, footprint], &PERPLEXITY), Ok(()));
        assert_eq!(check(&[Error, footprint, FiringRate], &ACCURACY), Ok(()));
        assert_eq!(check(&[Kl, footprint], &PERPLEXITY), Ok(()));
        assert_eq!(check(&[Error, Kl], &ACCURACY), Ok(()));
        assert!(check(&[footprint], &PERPLEXITY).is_err());
        assert!(check(&[footprint, footprint], &PERPLEXITY).is_err());
        assert!(check(&[Error, footprint], &PERPLEXITY).is_err());
        let energy = Objective::Cost(Cost::Energy);
        assert_eq!(check(&[Perplexity, energy], &PERPLEXITY), Ok(()));
        let latency = Objective::Cost(Cost::Latency);
        assert_eq!(
            check(&[Perplexity, latency], &PERPLEXITY),
            Err(InvalidObjective::NotDescribed(Cost::Latency))
        );
    }

    #[test]
    fn objectives_go_by_name() {
        for name in ["perplexity", "error", "kl", "firing_rate", "tasks.books", "footprint", "split_latency"]
        {
            assert_eq!(name.parse::<Objective>().unwrap().to_string(), name);
        }
        assert!("speed".parse::<Objective>().unwrap_err().to_string().contains("\"speed\" is no cost"));
        assert!(
            "tasks.A".parse::<Objective>().unwrap_err().to_string().contains("task \"A\": expected a name")
        );
    }
}
