//! Objectives and constraints: what is better, and what is good enough.
//!
//! An objective turns counts and costs into one number to minimise; a front lives in the space of these.
//! Constraints compare a candidate with the float model measured under the same protocol.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cost::{Cost, Costs, Device, UnknownCost};
use crate::footprint;
use crate::measurement::Counts;
use crate::network::Network;
use crate::quality::Quality;
use crate::space::Space;
use crate::spread::Spread;
use crate::task::Task;

/// A measured candidate as objectives, constraints and trade-offs see it.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// Counts over the whole data.
    pub counts: &'a Counts,
    /// Spread around the float model's losses; `None` where it is not known.
    pub spread: Option<Spread>,
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

/// One number to minimise: `perplexity`, `error`, `firing_rate`, or a cost by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Objective {
    /// Perplexity of a language model, 1 to infinity.
    Perplexity,
    /// Share of sentences classified wrongly, 0 to 1: `1 - accuracy`.
    Error,
    /// Spikes per neuron and token, 0 to 1: what event-driven hardware pays for.
    FiringRate,
    /// A cost of the device.
    Cost(Cost),
}

/// Bounds that the chosen setting has to meet. All absent: the trade-off alone decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Largest `perplexity / float perplexity - 1`; 0.03 allows 3 %.
    pub max_perplexity_increase: Option<f64>,
    /// Largest `float accuracy - accuracy`, as a fraction of all sentences; 0.01 is one point.
    pub max_accuracy_drop: Option<f64>,
    /// Largest footprint in bytes.
    pub max_footprint_bytes: Option<u64>,
    /// Smallest `1 - footprint / float bytes`, below 1.
    pub min_saving: Option<f64>,
    /// Largest value of any cost, by its name and in its unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub max: BTreeMap<Cost, f64>,
    /// True if the upper end of a loss's 95 % interval has to be within its bound, not the loss alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub confident: bool,
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
            Self::Count(_) => None,
        }
    }
}

impl Objective {
    /// The loss of a measured candidate: finite, smaller is better. 0 if it was not measured by this task.
    pub fn loss(self, network: &Network, measured: Measured<'_>) -> f64 {
        match self {
            Self::Perplexity => measured.counts.perplexity().unwrap_or(0.0),
            Self::Error => 1.0 - measured.counts.accuracy().unwrap_or(1.0),
            Self::FiringRate => measured.counts.mean_firing_rate(network.channels),
            Self::Cost(cost) => measured.cost(cost).unwrap_or(0.0),
        }
    }

    /// The loss beyond which a candidate adds nothing to the hypervolume: twice the float perplexity, every
    /// sentence wrong, every neuron firing at every token, the float model's cost. Always above 0.
    pub fn reference(self, float: Measured<'_>) -> f64 {
        match self {
            Self::Perplexity => 2.0 * float.counts.perplexity().unwrap_or(1.0),
            Self::Error | Self::FiringRate => 1.0,
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
            Self::FiringRate | Self::Cost(_) => None,
        }
    }
}

/// Checks a list of objectives: two or three, different, measured by `task` and modelled of `device`.
///
/// # Errors
/// [`InvalidObjective`] says which does not fit.
pub fn validate_objectives(
    objectives: &[Objective],
    task: &Task,
    device: &Device,
) -> Result<(), InvalidObjective> {
    let mut distinct = objectives.to_vec();
    distinct.sort();
    distinct.dedup();
    if distinct.len() != objectives.len() || !(2..=3).contains(&objectives.len()) {
        return Err(InvalidObjective::Count(distinct.len()));
    }
    let unknown = |objective: &Objective| match objective {
        Objective::Cost(cost) => (!device.models(*cost)).then_some(*cost),
        _ => None,
    };
    if let Some(cost) = objectives.iter().find_map(unknown) {
        return Err(InvalidObjective::NotDescribed(cost));
    }
    let of_other_task =
        |objective: &&Objective| objective.quality().is_some_and(|quality| quality != task.quality());
    match distinct.iter().find(of_other_task) {
        Some(objective) => Err(InvalidObjective::OtherTask(format!("objective {objective}"))),
        None => Ok(()),
    }
}

impl Constraints {
    /// Checks every bound against its range, the task, the device, and what the (valid) space can reach.
    pub fn problems(
        &self,
        task: &Task,
        space: &Space,
        network: &Network,
        device: &Device,
    ) -> Vec<InvalidObjective> {
        let mut problems = Vec::new();
        let mut within = |name, value: Option<f64>, ok: fn(f64) -> bool, bound| match value {
            Some(value) if !ok(value) => problems.push(InvalidObjective::Bound { name, value, bound }),
            _ => {}
        };
        let increase = self.max_perplexity_increase;
        let finite_positive = |x: f64| x.is_finite() && x >= 0.0;
        within("max_perplexity_increase", increase, finite_positive, "a number of at least 0");
        within("max_accuracy_drop", self.max_accuracy_drop, |x| (0.0..=1.0).contains(&x), "0 to 1");
        within("min_saving", self.min_saving, |x| x.is_finite() && x < 1.0, "a number below 1");
        let others = Quality::ALL.into_iter().filter(|quality| *quality != task.quality());
        let others = others.filter(|quality| self.largest_loss(*quality).is_some());
        problems.extend(others.map(|quality| InvalidObjective::OtherTask(quality.bound_name().to_owned())));
        let smallest = space.smallest_footprint(network);
        let saving = footprint::saving(network, smallest);
        let mut impossible =
            |name, value| problems.push(InvalidObjective::Impossible { name, value, smallest, saving });
        if let Some(most) = self.max_footprint_bytes.filter(|most| *most < smallest) {
            impossible("max_footprint_bytes", most as f64);
        }
        if let Some(least) = self.min_saving.filter(|least| *least > saving && *least < 1.0) {
            impossible("min_saving", least);
        }
        if self.confident && !self.bounds_quality() {
            problems.push(InvalidObjective::Unbounded);
        }
        for (cost, value) in &self.max {
            if !device.models(*cost) {
                problems.push(InvalidObjective::NotDescribed(*cost));
            } else if !(value.is_finite() && *value >= 0.0) {
                problems.push(InvalidObjective::Max { cost: *cost, value: *value });
            }
        }
        problems
    }

    /// Largest loss of a quality against the float model, if it is bounded.
    pub fn largest_loss(&self, quality: Quality) -> Option<f64> {
        match quality {
            Quality::Perplexity => self.max_perplexity_increase,
            Quality::Accuracy => self.max_accuracy_drop,
        }
    }

    /// True if a loss of quality is bounded at all.
    pub fn bounds_quality(&self) -> bool {
        Quality::ALL.into_iter().any(|quality| self.largest_loss(quality).is_some())
    }

    /// True if `counts` lose no more quality against `float` than allowed.
    pub fn allow_quality(&self, float: &Counts, counts: &Counts) -> bool {
        let within = |most: f64| quality_loss(float, counts) <= most;
        Quality::ALL.into_iter().filter_map(|quality| self.largest_loss(quality)).all(within)
    }

    /// True if a measured candidate loses no more quality against `float` than allowed: by the loss, or with
    /// [`Self::confident`] by the upper end of its interval. Where that is not known, nobody is.
    pub fn allow_loss(&self, float: &Counts, measured: Measured<'_>) -> bool {
        if !self.confident {
            return self.allow_quality(float, measured.counts);
        }
        let interval = measured.spread.and_then(|spread| spread.loss_interval(float, measured.counts));
        let within = |most: f64| interval.is_some_and(|(_, high)| high <= most);
        Quality::ALL.into_iter().filter_map(|quality| self.largest_loss(quality)).all(within)
    }

    /// True if `bytes` is small enough.
    pub fn allow_footprint(&self, network: &Network, bytes: u64) -> bool {
        self.max_footprint_bytes.is_none_or(|most| bytes <= most)
            && self.min_saving.is_none_or(|least| footprint::saving(network, bytes) >= least)
    }

    /// True if a measured candidate meets every bound.
    pub fn allow(&self, network: &Network, float: &Counts, measured: Measured<'_>) -> bool {
        let within = |(cost, most): (&Cost, &f64)| measured.cost(*cost).is_some_and(|value| value <= *most);
        self.allow_loss(float, measured)
            && self.allow_footprint(network, measured.footprint_bytes)
            && self.max.iter().all(within)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Perplexity => f.write_str("perplexity"),
            Self::Error => f.write_str("error"),
            Self::FiringRate => f.write_str("firing_rate"),
            Self::Cost(cost) => cost.fmt(f),
        }
    }
}

/// A name that is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("objective perplexity, error, firing_rate or a cost: {0}")]
pub struct UnknownObjective(#[from] UnknownCost);

impl FromStr for Objective {
    type Err = UnknownObjective;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "perplexity" => Ok(Self::Perplexity),
            "error" => Ok(Self::Error),
            "firing_rate" => Ok(Self::FiringRate),
            cost => Ok(Self::Cost(cost.parse()?)),
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
    use crate::measurement::Nll;
    use crate::network::tests::PUBLISHED;
    use crate::scheme::{Granularity, Width};
    use crate::space::Embedding;

    const PERPLEXITY: Task = Task::Perplexity { window: 8, stride: 8, windows: None };
    const ACCURACY: Task = Task::Accuracy { sentences: None };

    fn space() -> Space {
        let bits = [8, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec();
        Space { granularity: Granularity::Tensor, ..Space::of(bits, Embedding::Sign) }
    }

    fn refused(constraints: Constraints, task: &Task) -> String {
        let problems = constraints.problems(task, &space(), &PUBLISHED, &Device::default());
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn an_impossible_bound_is_refused_with_what_is_possible() {
        let tight = Constraints { max_footprint_bytes: Some(10), ..Default::default() };
        let error = refused(tight, &PERPLEXITY);
        assert!(error.contains("max_footprint_bytes = 10 cannot be met: the smallest"), "{error}");
        let tight = Constraints { min_saving: Some(0.99), ..Default::default() };
        assert!(refused(tight, &PERPLEXITY).contains("min_saving = 0.99 cannot be met"));
        let fits = Constraints { min_saving: Some(0.88), ..Default::default() };
        assert_eq!(fits.problems(&PERPLEXITY, &space(), &PUBLISHED, &Device::default()), []);
    }

    #[test]
    fn an_absurd_bound_is_refused() {
        let nan = Constraints { max_perplexity_increase: Some(f64::NAN), ..Default::default() };
        assert_eq!(
            refused(nan, &PERPLEXITY),
            "max_perplexity_increase = NaN: expected a number of at least 0"
        );
        let other = Constraints { max_accuracy_drop: Some(0.1), ..Default::default() };
        assert_eq!(refused(other, &PERPLEXITY), "max_accuracy_drop does not go with this task");
        let over = Constraints { max_accuracy_drop: Some(1.5), ..Default::default() };
        assert!(refused(over, &ACCURACY).contains("expected 0 to 1"));
    }

    #[test]
    fn quality_is_lost_relative_to_the_float_model() {
        let at = |nats: f64| Counts {
            nll: Nll::from_nats(nats).unwrap(),
            scored_tokens: 10,
            ..Default::default()
        };
        let (float, worse) = (at(30.0), at(30.2));
        assert!((quality_loss(&float, &worse) - (0.02f64.exp() - 1.0)).abs() < 1e-6);
        let allow = Constraints { max_perplexity_increase: Some(0.021), ..Default::default() };
        assert!(allow.allow_quality(&float, &worse));
        assert!(
            !Constraints { max_perplexity_increase: Some(0.02), ..allow.clone() }
                .allow_quality(&float, &worse)
        );
        let hits = |hits| Counts { hits, sentences: 100, ..Default::default() };
        assert!((quality_loss(&hits(80), &hits(78)) - 0.02).abs() < 1e-12);
    }

    #[test]
    fn a_front_has_two_or_three_different_axes_of_the_task() {
        use Objective::{Error, FiringRate, Perplexity};
        let footprint = Objective::Cost(Cost::Footprint);
        let check =
            |objectives: &[Objective], task| validate_objectives(objectives, task, &Device::default());
        assert_eq!(check(&[Perplexity, footprint], &PERPLEXITY), Ok(()));
        assert_eq!(check(&[Error, footprint, FiringRate], &ACCURACY), Ok(()));
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
    fn any_cost_that_is_modelled_can_be_bounded() {
        let bound = |cost, value| Constraints { max: [(cost, value)].into(), ..Default::default() };
        assert!(
            refused(bound(Cost::SplitLatency, 1.0), &PERPLEXITY).contains("split_latency cannot be modelled")
        );
        assert!(refused(bound(Cost::Energy, -1.0), &PERPLEXITY).contains("max.energy = -1"));
        let (float, costs) = (Counts::default(), Costs::from([(Cost::Energy, 2.0)]));
        let measured = Measured { counts: &float, spread: None, footprint_bytes: 0, costs: &costs };
        assert!(bound(Cost::Energy, 2.0).allow(&PUBLISHED, &float, measured));
        assert!(!bound(Cost::Energy, 1.9).allow(&PUBLISHED, &float, measured));
    }

    #[test]
    fn objectives_go_by_name() {
        for name in ["perplexity", "error", "firing_rate", "footprint", "split_latency"] {
            assert_eq!(name.parse::<Objective>().unwrap().to_string(), name);
        }
        assert!("speed".parse::<Objective>().unwrap_err().to_string().contains("\"speed\" is no cost"));
    }

    #[test]
    fn who_has_to_be_confident_is_judged_by_the_end_of_the_interval() {
        let counts = |nats| Counts {
            nll: Nll::from_nats(nats).unwrap(),
            scored_tokens: 10_000,
            processed_tokens: 10_000,
            ..Counts::zero(0)
        };
        let (float, more) = (counts(30_000.0), counts(30_200.0));
        // 100 windows that each lose 2 nats, give or take 1: an error of 0.1 nats of 100 tokens each.
        let spread = Some(Spread { sequences: 100, squares: (100 * (4 + 1)) << 24 });
        let costs = Costs::new();
        let measured = Measured { counts: &more, spread, footprint_bytes: 0, costs: &costs };
        let bound = |most, confident| Constraints {
            max_perplexity_increase: Some(most),
            confident,
            ..Default::default()
        };
        assert!(bound(0.0205, false).allow_loss(&float, measured));
        assert!(!bound(0.0205, true).allow_loss(&float, measured));
        assert!(bound(0.0223, true).allow_loss(&float, measured));
        let unknown = Measured { spread: None, ..measured };
        assert!(
            !bound(1.0, true).allow_loss(&float, unknown) && bound(1.0, false).allow_loss(&float, unknown)
        );
        // What is not said leaves no trace in an experiment's text.
        assert!(!serde_json::to_string(&bound(0.03, false)).unwrap().contains("confident"));
    }
}
