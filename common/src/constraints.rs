//! Constraints: what is good enough. They compare a candidate with the float model measured under the same protocol.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bytes;
use crate::cost::{Cost, Device};
use crate::footprint;
use crate::measurement::Counts;
use crate::network::Network;
use crate::objective::{InvalidObjective, Measured, quality_loss};
use crate::quality::Quality;
use crate::space::Space;
use crate::spread::Spread;
use crate::task::Task;
use crate::tasks::{FurtherTask, TaskName};

/// Bounds that the chosen setting has to meet. All absent: the trade-off alone decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Largest `perplexity / float perplexity - 1`; 0.03 allows 3 %.
    pub max_perplexity_increase: Option<f64>,
    /// Largest `float accuracy - accuracy`, as a fraction of all sentences; 0.01 is one point.
    pub max_accuracy_drop: Option<f64>,
    /// Largest divergence from the float model, in nats per scored token or sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl: Option<f64>,
    /// Largest footprint in bytes.
    #[serde(deserialize_with = "bytes::optional")]
    pub max_footprint_bytes: Option<u64>,
    /// Smallest `1 - footprint / float bytes`, below 1.
    pub min_saving: Option<f64>,
    /// Largest value of any cost, by its name and in its unit.
    #[serde(deserialize_with = "bounds", skip_serializing_if = "BTreeMap::is_empty")]
    pub max: BTreeMap<Cost, f64>,
    /// Largest loss of quality on further tasks, by name: of perplexity relative to the float model's, of accuracy as a
    /// fraction of all items.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<TaskName, f64>,
    /// True if the upper end of a loss's 95 % interval has to be within its bound, not the loss alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub confident: bool,
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
        within("max_kl", self.max_kl, finite_positive, "a number of at least 0");
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
        if self.confident && !self.bounds_loss() {
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

    /// Checks the bounds on further tasks.
    pub fn task_problems(&self, tasks: &BTreeMap<TaskName, FurtherTask>) -> Vec<InvalidObjective> {
        let problem = |(name, value): (&TaskName, &f64)| {
            let Some(of) = tasks.get(name) else { return Some(InvalidObjective::UnknownTask(*name)) };
            let (most, bound) = match of.task.quality() {
                Quality::Perplexity => (f64::MAX, "a number of at least 0"),
                Quality::Accuracy => (1.0, "0 to 1"),
            };
            let wrong = !(0.0..=most).contains(value);
            wrong.then_some(InvalidObjective::TaskBound { name: *name, value: *value, bound })
        };
        self.tasks.iter().filter_map(problem).collect()
    }

    /// Largest loss of a quality against the float model, if it is bounded.
    pub fn largest_loss(&self, quality: Quality) -> Option<f64> {
        match quality {
            Quality::Perplexity => self.max_perplexity_increase,
            Quality::Accuracy => self.max_accuracy_drop,
        }
    }

    /// True if a loss of quality is bounded, on the own task or a further one.
    fn bounds_loss(&self) -> bool {
        Quality::ALL.into_iter().any(|quality| self.largest_loss(quality).is_some()) || !self.tasks.is_empty()
    }

    /// True if anything is bounded of what quality is lost: the loss, or the divergence.
    pub fn bounds_quality(&self) -> bool {
        self.bounds_loss() || self.max_kl.is_some()
    }

    /// True if `counts` diverge no more from the float model than allowed. Where that was not counted, nobody is.
    pub fn allow_kl(&self, counts: &Counts) -> bool {
        self.max_kl.is_none_or(|most| counts.mean_kl().is_some_and(|kl| kl <= most))
    }

    /// True if bytes or costs are bounded at all.
    pub fn bounds_size(&self) -> bool {
        self.max_footprint_bytes.is_some() || self.min_saving.is_some() || !self.max.is_empty()
    }

    /// True if `counts` lose no more quality against `float` than allowed.
    pub fn allow_quality(&self, float: &Counts, counts: &Counts) -> bool {
        self.allow_kl(counts) && self.allow_mean_loss(float, counts)
    }

    fn allow_mean_loss(&self, float: &Counts, counts: &Counts) -> bool {
        let within = |most: f64| quality_loss(float, counts) <= most;
        Quality::ALL.into_iter().filter_map(|quality| self.largest_loss(quality)).all(within)
            && self
                .tasks
                .iter()
                .all(|(name, most)| task_loss(*name, float, counts).is_some_and(|loss| loss <= *most))
    }

    /// True if a measured candidate loses no more quality against `float` than allowed: by the loss, or with
    /// [`Self::confident`] by the upper end of its interval. Where that is not known, nobody is. A divergence has no
    /// interval, and is judged as it is.
    pub fn allow_loss(&self, float: &Counts, measured: Measured<'_>) -> bool {
        if !self.confident {
            return self.allow_quality(float, measured.counts);
        }
        let interval = measured.spread.and_then(|spread| spread.loss_interval(float, measured.counts));
        let within = |most: f64| interval.is_some_and(|(_, high)| high <= most);
        let on_task = |(name, most): (&TaskName, &f64)| {
            task_interval(*name, float, measured).is_some_and(|(_, high)| high <= *most)
        };
        self.allow_kl(measured.counts)
            && Quality::ALL.into_iter().filter_map(|quality| self.largest_loss(quality)).all(within)
            && self.tasks.iter().all(on_task)
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

/// Loss of quality on a further task against the float model; `None` where either was not measured on it.
pub fn task_loss(name: TaskName, float: &Counts, counts: &Counts) -> Option<f64> {
    let (float, counts) = (float.tasks.get(&name)?, counts.tasks.get(&name)?);
    Some(quality_loss(float, counts))
}

/// 95 % interval of the loss on a further task; `None` where that is not known.
pub fn task_interval(name: TaskName, float: &Counts, measured: Measured<'_>) -> Option<(f64, f64)> {
    let (float, counts) = (float.tasks.get(&name)?, measured.counts.tasks.get(&name)?);
    measured.task_spreads.get(&name).and_then(|spread: &Spread| spread.loss_interval(float, counts))
}

/// Reads bounds on costs; one that is counted in bytes may be text with a unit.
fn bounds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Cost, f64>, D::Error> {
    let read = BTreeMap::<Cost, bytes::Number>::deserialize(deserializer)?;
    let bound = |(cost, number): (Cost, bytes::Number)| match number.is_text() && cost.unit() != "bytes" {
        true => Err(D::Error::custom(format!("max.{cost}: expected a number ({})", cost.unit()))),
        false => Ok((cost, number.as_f64())),
    };
    read.into_iter().map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Costs;
    use crate::measurement::Nll;
    use crate::network::tests::PUBLISHED;
    use crate::scheme::{Granularity, Width};
    use crate::space::Embedding;
    use crate::spread::Spread;

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
    fn a_divergence_is_bounded_beside_a_loss_or_alone() {
        let at = |kl: Option<f64>| Counts {
            kl: kl.and_then(Nll::from_nats),
            nll: Nll::from_nats(30.0).unwrap(),
            scored_tokens: 10,
            ..Default::default()
        };
        let alone = Constraints { max_kl: Some(0.05), ..Default::default() };
        let float = at(Some(0.0));
        assert!(
            alone.bounds_quality()
                && alone.problems(&ACCURACY, &space(), &PUBLISHED, &Device::default()).is_empty()
        );
        let judged = [Some(0.5), Some(0.51), None].map(|kl| alone.allow_quality(&float, &at(kl)));
        assert_eq!(judged, [true, false, false], "what was not counted is not within");
        let both = Constraints { max_perplexity_increase: Some(0.0), ..alone.clone() };
        assert!(both.allow_quality(&float, &at(Some(0.5))) && !both.allow_quality(&float, &at(Some(0.6))));
        let confident = Constraints { confident: true, ..alone };
        assert_eq!(refused(confident, &PERPLEXITY), "confident needs a bound on the quality that is lost");
        let negative = Constraints { max_kl: Some(-1.0), ..Default::default() };
        assert_eq!(refused(negative, &PERPLEXITY), "max_kl = -1: expected a number of at least 0");
        assert!(!serde_json::to_string(&Constraints::default()).unwrap().contains("kl"));
    }

    #[test]
    fn further_tasks_are_bounded_by_name() {
        let name: TaskName = "books".parse().unwrap();
        let hits = |hits| Counts { hits, sentences: 100, ..Default::default() };
        let of = |own, on_task: Option<u64>| Counts {
            tasks: on_task.map(|on_task| (name, hits(on_task))).into_iter().collect(),
            ..hits(own)
        };
        let float = of(80, Some(60));
        let bound = |most| Constraints { tasks: [(name, most)].into(), ..Default::default() };
        assert!(bound(0.025).bounds_quality() && !Constraints::default().bounds_quality());
        let judged = [Some(59), Some(58), Some(57), None]
            .map(|on_task| bound(0.025).allow_quality(&float, &of(10, on_task)));
        assert_eq!(judged, [true, true, false, false], "what was not measured is not within");
        // 100 items of which the candidate gets 2 wrong that the float model gets right.
        let (costs, counts) = (Costs::new(), of(80, Some(58)));
        let allowed = |most, spreads: &BTreeMap<TaskName, Spread>| {
            let spread = Some(Spread { sequences: 100, squares: 0 });
            let measured = Measured {
                counts: &counts,
                spread,
                task_spreads: spreads,
                footprint_bytes: 0,
                costs: &costs,
            };
            Constraints { confident: true, ..bound(most) }.allow_loss(&float, measured)
        };
        let known = [(name, Spread { sequences: 100, squares: 2 })].into();
        assert!(allowed(0.05, &known) && !allowed(0.03, &known) && !allowed(0.05, &BTreeMap::new()));

        let tasks =
            |task| [(name, FurtherTask { text: crate::hash::ContentHash::of(b"books"), task })].into();
        let problems = |constraints: Constraints, task| {
            let problems = constraints.task_problems(&tasks(task));
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(problems(bound(0.5), ACCURACY), "");
        assert_eq!(problems(bound(1.5), ACCURACY), "tasks.books = 1.5: expected 0 to 1");
        assert_eq!(
            problems(bound(f64::NAN), PERPLEXITY),
            "tasks.books = NaN: expected a number of at least 0"
        );
        let other = Constraints { tasks: [("x".parse().unwrap(), 0.1)].into(), ..Default::default() };
        assert_eq!(problems(other, ACCURACY), "x: there is no such further task under [tasks]");
        assert!(!serde_json::to_string(&Constraints::default()).unwrap().contains("tasks"));
    }

    #[test]
    fn any_cost_that_is_modelled_can_be_bounded() {
        let bound = |cost, value| Constraints { max: [(cost, value)].into(), ..Default::default() };
        assert!(
            refused(bound(Cost::SplitLatency, 1.0), &PERPLEXITY).contains("split_latency cannot be modelled")
        );
        assert!(refused(bound(Cost::Energy, -1.0), &PERPLEXITY).contains("max.energy = -1"));
        let (float, costs) = (Counts::default(), Costs::from([(Cost::Energy, 2.0)]));
        let task_spreads = &BTreeMap::new();
        let measured =
            Measured { counts: &float, spread: None, task_spreads, footprint_bytes: 0, costs: &costs };
        assert!(bound(Cost::Energy, 2.0).allow(&PUBLISHED, &float, measured));
        assert!(!bound(Cost::Energy, 1.9).allow(&PUBLISHED, &float, measured));
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
        let task_spreads = &BTreeMap::new();
        let measured = Measured { counts: &more, spread, task_spreads, footprint_bytes: 0, costs: &costs };
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

    #[test]
    fn bytes_may_be_text_with_a_unit_and_are_written_as_numbers() {
        let read = |text: &str| serde_json::from_str::<Constraints>(text);
        let text = r#"{"max_footprint_bytes": "600 kB", "max": {"resident": "2 MiB", "energy": 1e-4}}"#;
        let constraints = read(text).unwrap();
        assert_eq!(constraints.max_footprint_bytes, Some(600_000));
        assert_eq!(constraints.max, [(Cost::Resident, 2_097_152.0), (Cost::Energy, 1e-4)].into());
        assert!(serde_json::to_string(&constraints).unwrap().contains("\"max_footprint_bytes\":600000,"));
        let refused = |text| read(text).unwrap_err().to_string();
        let words = refused(r#"{"max": {"energy": "2 MB"}}"#);
        assert!(words.starts_with("max.energy: expected a number (J per token)"), "{words}");
        let words = refused(r#"{"max_footprint_bytes": "six"}"#);
        assert!(words.starts_with("\"six\": expected bytes"), "{words}");
    }
}
