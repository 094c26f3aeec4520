//! Fitness of measured candidates: the objectives of the experiment, and how far outside its constraints a candidate is.
//!
//! Quality is compared as mean loss, in nats per token or as a share of sentences: that orders candidates as perplexity
//! does, and takes no exponential, which platforms round in their own ways.

use qslm_common::archive::Entry;
use qslm_common::constraints::task_interval;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::measurement::Counts;
use qslm_common::objective::{Measured, Objective};
use qslm_common::quality::Quality;
use qslm_common::tasks::TaskName;

use crate::nsga2::Fitness;

/// Fitness of a candidate, beside the float model's entry.
pub(crate) fn fitness(experiment: &Experiment, float: &Entry, entry: &Entry) -> Fitness {
    let measured = entry.measured();
    let objective = |objective: &Objective| match objective {
        Objective::Perplexity | Objective::Error => mean_loss(entry),
        Objective::Task(name) => mean_loss_on(*name, entry).unwrap_or(f64::MAX),
        other => other.loss(&experiment.network, measured),
    };
    let violation = excess_of_loss(experiment, lost(experiment, float, entry))
        + excess_of_kl(experiment, kl(entry))
        + excess_on_tasks(experiment, |name| lost_on(experiment, name, float, entry), |bound| bound)
        + excess_of_costs(experiment, measured);
    Fitness { violation, losses: experiment.objectives.iter().map(objective).collect() }
}

/// How far the costs of a candidate are above their bounds, the bytes included; 0 within them.
pub(crate) fn excess_of_costs(experiment: &Experiment, measured: Measured<'_>) -> f64 {
    let cost = |cost| measured.cost(cost).unwrap_or(f64::MAX);
    let of_costs = experiment.constraints.max.iter().map(|(of, most)| excess(cost(*of), *most));
    excess_of_bytes(experiment, measured.footprint_bytes) + of_costs.sum::<f64>()
}

/// How far bytes are above their bounds.
pub(crate) fn excess_of_bytes(experiment: &Experiment, bytes: u64) -> f64 {
    let constraints = &experiment.constraints;
    let of_bytes = constraints.max_footprint_bytes.map(|most| excess(bytes as f64, most as f64));
    let left = 1.0 - saving(&experiment.network, bytes);
    let of_saving = constraints.min_saving.map(|least| excess(left, 1.0 - least));
    of_bytes.into_iter().chain(of_saving).sum()
}

/// How far a mean loss against the float model is above the bounds on quality.
pub(crate) fn excess_of_loss(experiment: &Experiment, lost: f64) -> f64 {
    bounds(experiment).map(|most| excess(lost, most)).sum()
}

/// How far a divergence from the float model is above its bound.
pub(crate) fn excess_of_kl(experiment: &Experiment, kl: f64) -> f64 {
    experiment.constraints.max_kl.map_or(0.0, |most| excess(kl, most))
}

/// How far losses on further tasks, which `lost` gives, are above their bounds, on the scale of `scaled`.
pub(crate) fn excess_on_tasks(
    experiment: &Experiment,
    lost: impl Fn(TaskName) -> f64,
    scaled: fn(f64) -> f64,
) -> f64 {
    let bound =
        |name, most| experiment.tasks.get(name).map_or(most, |of| of.task.quality().difference_of(most));
    experiment
        .constraints
        .tasks
        .iter()
        .map(|(name, most)| excess(lost(*name), scaled(bound(name, *most))))
        .sum()
}

/// Divergence from the float model in nats per scored token or sentence; the largest number where it was not counted.
pub(crate) fn kl(entry: &Entry) -> f64 {
    entry.counts.mean_kl().unwrap_or(f64::MAX)
}

/// Bounds on the mean loss against the float model.
pub(crate) fn bounds(experiment: &Experiment) -> impl Iterator<Item = f64> {
    let of = |quality: Quality| Some(quality.difference_of(experiment.constraints.largest_loss(quality)?));
    Quality::ALL.into_iter().filter_map(of)
}

/// Mean loss against the float model that the bounds are held to: with `constraints.confident` the upper end of its
/// interval, which is infinite where it is not known.
pub(crate) fn lost(experiment: &Experiment, float: &Entry, entry: &Entry) -> f64 {
    if !experiment.constraints.confident {
        return mean_loss(entry) - mean_loss(float);
    }
    let quality = float.counts.quality();
    entry.loss_interval(float).map_or(f64::INFINITY, |(_, high)| quality.difference_of(high))
}

/// Mean loss on a further task against the float model, as [`lost`]; infinite where it was not measured on it.
pub(crate) fn lost_on(experiment: &Experiment, name: TaskName, float: &Entry, entry: &Entry) -> f64 {
    let Some((before, after)) = mean_loss_on(name, float).zip(mean_loss_on(name, entry)) else {
        return f64::INFINITY;
    };
    if !experiment.constraints.confident {
        return after - before;
    }
    let quality = float.counts.tasks.get(&name).map_or(Quality::Accuracy, Counts::quality);
    let interval = task_interval(name, &float.counts, entry.measured());
    interval.map_or(f64::INFINITY, |(_, high)| quality.difference_of(high))
}

/// Mean loss on a further task, in nats per token or as the share of wrong answers; `None` where it was not measured on it.
pub(crate) fn mean_loss_on(name: TaskName, entry: &Entry) -> Option<f64> {
    entry.counts.tasks.get(&name).map(|counts| counts.quality().mean_loss(counts))
}

/// Mean loss in nats per token, or the share of wrong sentences.
pub(crate) fn mean_loss(entry: &Entry) -> f64 {
    entry.counts.quality().mean_loss(&entry.counts)
}

/// How far a value is above its bound, as a share of it.
pub(crate) fn excess(value: f64, bound: f64) -> f64 {
    if bound > 0.0 { (value / bound - 1.0).max(0.0) } else { (value - bound).max(0.0) }
}

#[cfg(test)]
mod tests {
    use qslm_common::archive::Archive;
    use qslm_common::candidate::Candidate;
    use qslm_common::constraints::Constraints;
    use qslm_common::cost::Cost;
    use qslm_common::hash::ContentHash;
    use qslm_common::measurement::Nll;
    use qslm_common::space::Tier;
    use qslm_common::spread::Spread;
    use qslm_common::task::Task;
    use qslm_common::tasks::FurtherTask;
    use qslm_testing::{experiment, measure};

    use super::*;
    use crate::Grid;

    #[test]
    fn a_candidate_is_outside_exactly_if_the_constraints_do_not_allow_it() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        let mut archive = Archive::default();
        let uniform = |level| experiment.space.uniform(&experiment.network, level);
        let candidates: Vec<Candidate> =
            (0..5).map(uniform).chain([Candidate::float(&experiment.network)]).collect();
        for candidate in &candidates {
            archive.insert(&experiment, candidate, measure(candidate));
        }
        experiment.constraints.max_footprint_bytes = Some(experiment.footprint(&candidates[2]));
        let float = archive.float(&experiment).unwrap();
        let mut within = 0;
        for candidate in &candidates {
            let entry = archive.get(&candidate.id()).unwrap();
            let allowed = experiment.constraints.allow(&experiment.network, &float.counts, entry.measured());
            let fitness = fitness(&experiment, float, entry);
            assert_eq!(fitness.violation == 0.0, allowed, "{fitness:?}");
            within += usize::from(allowed);
        }
        assert!((1..candidates.len()).contains(&within));
    }

    #[test]
    fn a_further_task_is_an_objective_and_a_bound() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        let name: TaskName = "books".parse().unwrap();
        let task = Task::Accuracy { sentences: None };
        experiment.tasks.insert(name, FurtherTask { text: ContentHash::of(b"books"), task });
        experiment.objectives = vec![Objective::Task(name), Objective::Cost(Cost::Footprint)];
        experiment.constraints = Constraints { tasks: [(name, 0.1)].into(), ..Constraints::default() };
        let candidate = experiment.space.uniform(&experiment.network, 1);
        let float = Candidate::float(&experiment.network);
        let mut archive = Archive::default();
        for (candidate, hits) in [(&float, Some(80)), (&candidate, Some(65))] {
            let on_task = |hits| (name, Counts { hits, sentences: 100, ..Counts::zero(0) });
            let tasks = hits.map(on_task).into_iter().collect();
            archive.insert(&experiment, candidate, Counts { tasks, ..measure(candidate) });
        }
        let entry = |candidate: &Candidate| archive.get(&candidate.id()).unwrap();
        let of = fitness(&experiment, entry(&float), entry(&candidate));
        assert!((of.losses[0] - 0.35).abs() < 1e-12 && (of.violation - 0.5).abs() < 1e-12, "{of:?}");
        experiment.constraints.confident = true;
        assert!(
            fitness(&experiment, entry(&float), entry(&candidate)).violation.is_infinite(),
            "nobody knows"
        );
    }

    #[test]
    fn a_divergence_is_an_objective_and_a_bound_as_it_was_counted() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        experiment.objectives = vec![Objective::Kl, Objective::Cost(Cost::Footprint)];
        experiment.constraints = Constraints { max_kl: Some(0.01), ..Constraints::default() };
        let diverging =
            |candidate: &Candidate, nats: f64| Counts { kl: Nll::from_nats(nats), ..measure(candidate) };
        let (near, far) = (
            experiment.space.uniform(&experiment.network, 1),
            experiment.space.uniform(&experiment.network, 3),
        );
        let float = Candidate::float(&experiment.network);
        let mut archive = Archive::default();
        for (candidate, nats) in [(&float, 0.0), (&near, 0.5), (&far, 4.0)] {
            archive.insert(&experiment, candidate, diverging(candidate, nats));
        }
        let of = |candidate: &Candidate| {
            let entry = |candidate: &Candidate| archive.get(&candidate.id()).unwrap();
            fitness(&experiment, entry(&float), entry(candidate))
        };
        assert_eq!((of(&near).losses[0], of(&near).violation), (0.005, 0.0), "100 tokens");
        assert_eq!((of(&far).losses[0], of(&far).violation), (0.04, 3.0));
    }

    #[test]
    fn who_has_to_be_confident_is_held_to_the_end_of_the_interval() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        let candidate = experiment.space.uniform(&experiment.network, 1);
        let mut archive = Archive::default();
        for one in [&candidate, &Candidate::float(&experiment.network)] {
            archive.insert(&experiment, one, measure(one));
        }
        let float = archive.float(&experiment).unwrap();
        let mut entry = archive.get(&candidate.id()).unwrap().clone();
        assert_eq!(fitness(&experiment, float, &entry).violation, 0.0);
        experiment.constraints.confident = true;
        assert!(fitness(&experiment, float, &entry).violation.is_infinite(), "nobody knows");
        // 10 windows that differ by 2 nats: an error of more than 3 % of 100 tokens.
        entry.spread = Some(Spread { sequences: 10, squares: (10 * 4) << 24 });
        let violation = fitness(&experiment, float, &entry).violation;
        assert!(violation > 0.0 && violation.is_finite(), "{violation}");
    }
}
