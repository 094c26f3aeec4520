//! Aims: which allocations the bounds ask for.
//!
//! | bounds | aims |
//! |---|---|
//! | on bytes or costs | the best at the largest allocation within them, alone; then exchanges between two groups there that may lose less |
//! | on quality | around the bound as it is predicted; then there again, and between what met it and what did not |
//! | both | the same no larger than the one allows; where nothing met the other, at the largest |
//! | none | the convex hull, evenly from the largest to the smallest |
//!
//! Within a budget the program is exact, so what it is asked again for it answered already unless the fit has changed its
//! mind, and every exchange is predicted to lose more than its answer. How far such a prediction is off is known: by a share
//! of what each group changes. An exchange that by that gains next to nothing is not measured.
//!
//! Costs need firing rates, which are measured: of an allocation they are taken to be those of the nearest in bytes that
//! was, or of the float model. Along the front they grow with bytes, nearly.

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::CandidateId;
use qslm_common::measurement::Counts;

use super::AT_A_TIME;
use super::model::{MISFIT, Model, NOISE};
use super::probes::Probes;
use crate::knapsack::{Answer, Choice, Front, hull};
use crate::prediction::nats_per_item;

/// Predicted losses of the first allocations, as multiples of the bound, the most telling first.
const AROUND_THE_BOUND: [f64; 6] = [1.0, 0.85, 1.2, 0.7, 1.5, 0.5];
/// The same once whole allocations were measured.
const AT_THE_BOUND: [f64; 6] = [1.0, 1.03, 0.97, 1.08, 0.93, 1.2];
/// Share of the largest bytes that are allowed from which on they count as used.
const USED_OF_THE_LIMIT: f64 = 0.99;
/// Standard deviations by which a predicted gain may be too small.
const DEVIATIONS: f64 = 2.0;
/// Gain in nats per token or sentence that is worth an evaluation: a tenth of the noise of a measured loss.
const LEAST_GAIN: f64 = NOISE / 10.0;
/// Neighbours that are looked at, at most.
const MOST_MOVED: usize = 64;

/// An allocation that was proposed.
pub(super) struct Tried {
    pub id: CandidateId,
    /// Choices, bytes and loss as they were predicted.
    pub predicted: Answer,
}

/// What is known when a round is asked for.
pub(super) struct Aims<'a> {
    probes: &'a Probes,
    archive: &'a Archive,
    float: &'a Entry,
    model: &'a Model,
    units: &'a [Vec<Choice>],
    front: &'a Front,
    tried: &'a [Tried],
    /// The best that was measured, if it meets every bound.
    winner: Option<&'a Tried>,
    /// The place on the front of the largest allocation within the bounds on bytes and costs; `None` if none is.
    limit: Option<usize>,
}

impl<'a> Aims<'a> {
    /// Aims of a round; `None` where there is no allocation, or no float model to compare with.
    pub(super) fn new(
        probes: &'a Probes,
        archive: &'a Archive,
        model: &'a Model,
        units: &'a [Vec<Choice>],
        front: &'a Front,
        tried: &'a [Tried],
    ) -> Option<Self> {
        let float = archive.float(&probes.experiment)?;
        let winner = winner(probes, archive, tried);
        let mut aims = Self { probes, archive, float, model, units, front, tried, winner, limit: None };
        front.len().checked_sub(1)?;
        let places: Vec<usize> = (0..front.len()).collect();
        aims.limit = places.partition_point(|place| aims.is_within(&front.answer(*place))).checked_sub(1);
        Some(aims)
    }

    /// Allocations that this round asks for, the most wanted first.
    pub(super) fn next(&self, round: usize) -> Vec<Answer> {
        match self.limit {
            // Nothing is within the bounds: the smallest is the nearest.
            None => vec![self.front.answer(0)],
            Some(limit) if self.bounds_quality() && round == 0 => self.around_the_bound(limit),
            Some(limit) if self.bounds_quality() => self.at_the_bound(limit),
            Some(limit) if self.bounds_size() => self.at_the_limit(limit),
            Some(_) => self.spread(),
        }
    }

    /// True if a loss of quality is bounded.
    fn bounds_quality(&self) -> bool {
        self.probes.experiment.constraints.bounds_quality()
    }

    /// True if bytes or costs alone are bounded.
    pub(super) fn is_budget(&self) -> bool {
        is_budget(self.probes)
    }

    /// True if bytes or costs are bounded.
    fn bounds_size(&self) -> bool {
        self.probes.experiment.constraints.bounds_size()
    }

    /// True if the allocation was tried.
    pub(super) fn was_tried(&self, answer: &Answer) -> bool {
        self.tried.iter().any(|tried| tried.predicted.choices == answer.choices)
    }

    /// True unless a bound on bytes or costs rules it out that others are within.
    pub(super) fn may_be_tried(&self, answer: &Answer) -> bool {
        self.limit.is_none() || self.is_within(answer)
    }

    /// True unless it would be chosen for its loss, and by all that is known gains next to nothing over the best that was
    /// measured.
    pub(super) fn may_win(&self, answer: &Answer) -> bool {
        let Some(winner) = self.winner.filter(|_| self.is_budget()) else {
            return true;
        };
        let moved = self.units.iter().zip(winner.predicted.choices.iter().zip(&answer.choices));
        let (gain, squares) = moved.fold((0.0, 0.0), |(gain, squares), (unit, (from, to))| {
            let less = unit[*from].loss - unit[*to].loss;
            (gain + less, squares + less * less)
        });
        gain + DEVIATIONS * MISFIT * squares.sqrt() > LEAST_GAIN
    }

    /// True if an allocation is within the bounds on bytes and, with the firing rates of the nearest, on costs.
    fn is_within(&self, answer: &Answer) -> bool {
        let experiment = &self.probes.experiment;
        let constraints = &experiment.constraints;
        let fits = constraints.allow_footprint(&experiment.network, answer.bytes);
        if !fits || constraints.max.is_empty() {
            return fits;
        }
        let candidate = self.probes.candidate(&self.model.levels(&answer.choices));
        let costs = experiment.costs(&candidate, self.nearest(answer.bytes));
        constraints.max.iter().all(|(cost, most)| costs.get(cost).is_none_or(|value| value <= most))
    }

    /// Allocations that were measured, with their entries.
    fn measured(&self) -> impl Iterator<Item = (&Tried, &Entry)> {
        measured(self.archive, self.tried)
    }

    /// Counts of what was measured nearest to so many bytes.
    fn nearest(&self, bytes: u64) -> &Counts {
        let nearest = self.measured().min_by_key(|(tried, _)| tried.predicted.bytes.abs_diff(bytes));
        nearest.map_or(&self.float.counts, |(_, entry)| &entry.counts)
    }

    /// Around the bound as it is predicted; over the whole front if that cannot be predicted.
    fn around_the_bound(&self, limit: usize) -> Vec<Answer> {
        let mut places: Vec<usize> = self.bounds_size().then_some(limit).into_iter().collect();
        match self.probes.bound() {
            Some(bound) => places.extend(self.losing(&AROUND_THE_BOUND, bound, limit)),
            None => places.extend(self.between(self.front.bytes(0), self.front.bytes(limit))),
        }
        self.filled(places, limit)
    }

    /// The smallest that are predicted to lose these multiples of the bound, no larger than the limit.
    fn losing(&self, times: &[f64], bound: f64, limit: usize) -> Vec<usize> {
        let place = |times: &f64| self.front.losing(times * bound).map_or(limit, |place| place.min(limit));
        times.iter().map(place).collect()
    }

    /// Answers at places; where sizes are bounded, exchanges at the limit after them.
    fn filled(&self, places: Vec<usize>, limit: usize) -> Vec<Answer> {
        let answers = places.into_iter().map(|place| self.front.answer(place));
        let exchanges = self.bounds_size().then(|| self.exchanges_at(limit)).into_iter().flatten();
        answers.chain(exchanges).collect()
    }

    /// At the bound as it is predicted by now, and between what met it and what did not. Where nothing met it, at the
    /// limit: what loses least is there. Nothing if that was tried, and no other can be as good.
    fn at_the_bound(&self, limit: usize) -> Vec<Answer> {
        let good = self.measured().filter(|(_, entry)| is_allowed(self.probes, self.float, entry));
        let good = good.map(|(tried, _)| tried.predicted.bytes).min();
        let high = good.unwrap_or_else(|| self.front.bytes(limit));
        let bad = self.tried.iter().map(|tried| tried.predicted.bytes).filter(|bytes| *bytes < high);
        let low = bad.max().unwrap_or_default();
        if good.is_some() {
            let mut places = Vec::new();
            if let Some(bound) = self.probes.bound() {
                places = self.losing(&AT_THE_BOUND, bound, limit);
                places.retain(|place| self.front.bytes(*place) < high);
            }
            places.extend(self.between(low, high));
            return places.into_iter().map(|place| self.front.answer(place)).collect();
        }
        if self.bounds_size() {
            return self.at_the_limit(limit);
        }
        let top = self.front.answer(limit);
        let is_measured = self.measured().any(|(tried, _)| tried.predicted.choices == top.choices);
        if is_measured {
            return Vec::new();
        }
        let below = self.between(low, high).into_iter().map(|place| self.front.answer(place));
        std::iter::once(top).chain(below).collect()
    }

    /// The best at the limit; once something was measured, whose loss tells what groups lose together, exchanges after it.
    fn at_the_limit(&self, limit: usize) -> Vec<Answer> {
        let exchanges = (!self.tried.is_empty()).then(|| self.exchanges_at(limit));
        std::iter::once(self.front.answer(limit)).chain(exchanges.into_iter().flatten()).collect()
    }

    /// Places evenly between two numbers of bytes, both of which were tried.
    fn between(&self, low: u64, high: u64) -> Vec<usize> {
        let low = low.max(self.front.bytes(0)).min(high);
        let target = |step: usize| high - (high - low) * step as u64 / (AT_A_TIME as u64 + 1);
        (1..=AT_A_TIME).filter_map(|step| self.front.within(target(step))).collect()
    }

    /// Answers on the convex hull, each in the largest gap that those before it leave.
    fn spread(&self) -> Vec<Answer> {
        let mut hull = hull(self.units);
        let mut bytes: Vec<u64> = self.tried.iter().map(|tried| tried.predicted.bytes).collect();
        let mut spread = Vec::new();
        while spread.len() < AT_A_TIME && !hull.is_empty() {
            let gap = |answer: &Answer| bytes.iter().map(|bytes| bytes.abs_diff(answer.bytes)).min();
            // Of equals the first, which is the largest.
            let far = (0..hull.len()).rev().max_by_key(|at| gap(&hull[*at]).unwrap_or(u64::MAX));
            let Some(far) = far else { break };
            let answer = hull.remove(far);
            bytes.push(answer.bytes);
            spread.push(answer);
        }
        spread
    }

    /// Neighbours of the best that was measured: where quality is bounded, those first that save most of what are predicted to
    /// stay within the bound; where bytes or costs alone are, those that are predicted to lose least within them. Without bounds smaller ones at the least price of a byte.
    pub(super) fn neighbours(&self) -> Vec<Answer> {
        let (Some(winner), Some(limit)) = (self.winner, self.limit) else { return Vec::new() };
        let from = self.priced(&winner.predicted.choices);
        if self.bounds_quality() {
            let room = self.room(winner);
            return self.moved(&from, |to| {
                let saved = from.bytes.checked_sub(to.bytes).filter(|saved| *saved > 0)?;
                let excess = room.map(|room| to.loss - from.loss - room);
                Some(match excess {
                    // What is predicted to stay within the bound, by what it saves; then what goes beyond by least.
                    Some(excess) if excess <= 0.0 => -(saved as f64),
                    Some(excess) => excess,
                    None => to.loss,
                })
            });
        }
        if self.bounds_size() {
            return self.exchanges(&from, limit);
        }
        let price = |to: &Moved| {
            let saved = from.bytes.checked_sub(to.bytes).filter(|saved| *saved > 0)?;
            Some((to.loss - from.loss) / saved as f64)
        };
        self.moved(&from, price)
    }

    /// What an allocation may lose beyond what it was measured to, in nats, if it is perplexity that is bounded.
    fn room(&self, tried: &Tried) -> Option<f64> {
        let entry = self.archive.get(&tried.id)?;
        Some(self.probes.bound()? - (nats_per_item(&entry.counts) - nats_per_item(&self.float.counts)))
    }

    /// Neighbours of the best at the limit.
    fn exchanges_at(&self, limit: usize) -> Vec<Answer> {
        self.exchanges(&self.front.answer(limit), limit)
    }

    /// Neighbours within the limit: those first that take nearly all of it, and of these that are predicted to lose least.
    fn exchanges(&self, from: &Answer, limit: usize) -> Vec<Answer> {
        let most = self.front.bytes(limit);
        let is_full = |to: &Moved| to.bytes as f64 >= USED_OF_THE_LIMIT * most as f64;
        let value = |to: &Moved, full: bool| (to.bytes <= most && is_full(to) == full).then_some(to.loss);
        let mut exchanges = self.moved(from, |to| value(to, true));
        exchanges.extend(self.moved(from, |to| value(to, false)));
        exchanges
    }

    /// Choices with their bytes and losses as they are predicted by now.
    fn priced(&self, choices: &[usize]) -> Answer {
        let taken = || self.units.iter().zip(choices).map(|(unit, choice)| unit[*choice]);
        let (bytes, loss) = (taken().map(|one| one.bytes).sum(), taken().map(|one| one.loss).sum());
        Answer { choices: choices.to_vec(), bytes, loss }
    }

    /// Answers with one group a choice larger or smaller, or with one larger and another smaller, by their value. Those
    /// without a value are left out.
    fn moved(&self, from: &Answer, value: impl Fn(&Moved) -> Option<f64>) -> Vec<Answer> {
        let steps: Vec<Moved> = (0..self.units.len()).flat_map(|unit| self.steps(from, unit)).collect();
        let is_larger = |moved: &&Moved| moved.bytes > from.bytes;
        let (larger, smaller): (Vec<_>, Vec<_>) = steps.iter().partition(is_larger);
        let mut all = steps.clone();
        for up in &larger {
            all.extend(smaller.iter().filter(|down| down.to[0].0 != up.to[0].0).map(|down| Moved {
                to: vec![up.to[0], down.to[0]],
                bytes: up.bytes + down.bytes - from.bytes,
                loss: up.loss + down.loss - from.loss,
            }));
        }
        let mut valued: Vec<(f64, &Moved)> =
            all.iter().filter_map(|moved| Some((value(moved)?, moved))).collect();
        valued.sort_by(|a, b| a.0.total_cmp(&b.0));
        valued.into_iter().take(MOST_MOVED).map(|(_, moved)| moved.answer(from)).collect()
    }

    /// The next larger and the next smaller choice of a unit.
    fn steps(&self, from: &Answer, unit: usize) -> Vec<Moved> {
        let (choices, at) = (&self.units[unit], self.units[unit][from.choices[unit]]);
        let bytes = |choice: &usize| choices[*choice].bytes;
        let larger = (0..choices.len()).filter(|to| bytes(to) > at.bytes).min_by_key(bytes);
        let smaller = (0..choices.len()).filter(|to| bytes(to) < at.bytes).max_by_key(bytes);
        let moved = |to: usize| Moved {
            to: vec![(unit, to)],
            bytes: from.bytes - at.bytes + choices[to].bytes,
            loss: from.loss - at.loss + choices[to].loss,
        };
        larger.into_iter().chain(smaller).map(moved).collect()
    }
}

/// Allocations that were measured, with their entries.
fn measured<'a>(archive: &'a Archive, tried: &'a [Tried]) -> impl Iterator<Item = (&'a Tried, &'a Entry)> {
    tried.iter().filter_map(|tried| Some((tried, archive.get(&tried.id)?)))
}

/// True if a measured allocation meets every bound.
fn is_allowed(probes: &Probes, float: &Entry, entry: &Entry) -> bool {
    let experiment = &probes.experiment;
    experiment.constraints.allow(&experiment.network, &float.counts, entry.measured())
}

/// The best that was measured: the smallest within a bound on quality, else what loses least within those on bytes and
/// costs, else what the trade-off prefers.
fn winner<'a>(probes: &Probes, archive: &'a Archive, tried: &'a [Tried]) -> Option<&'a Tried> {
    let experiment = &probes.experiment;
    let float = archive.float(experiment)?;
    let allowed = measured(archive, tried).filter(|(_, entry)| is_allowed(probes, float, entry));
    let best = if experiment.constraints.bounds_quality() {
        allowed.min_by_key(|(tried, entry)| (tried.predicted.bytes, entry.counts.nll))
    } else if experiment.constraints.bounds_size() {
        allowed.min_by_key(|(tried, entry)| (entry.counts.nll, tried.predicted.bytes))
    } else {
        let value = |entry: &Entry| experiment.trade_off.value(float.measured(), entry.measured());
        allowed.max_by(|a, b| value(a.1).total_cmp(&value(b.1)))
    };
    best.map(|(tried, _)| tried)
}

/// True if bytes or costs alone are bounded.
fn is_budget(probes: &Probes) -> bool {
    let constraints = &probes.experiment.constraints;
    constraints.bounds_size() && !constraints.bounds_quality()
}

/// True if a budget is answered: the last of the rounds, from this place among those tried on, found nothing that loses less
/// than the rounds before.
pub(super) fn is_settled(probes: &Probes, archive: &Archive, tried: &[Tried], last: usize) -> bool {
    let before = |winner: &Tried| tried[..last].iter().any(|one| one.id == winner.id);
    is_budget(probes) && winner(probes, archive, tried).is_some_and(before)
}

/// An answer with one or two choices changed.
#[derive(Debug, Clone)]
struct Moved {
    /// Units with their new choices.
    to: Vec<(usize, usize)>,
    bytes: u64,
    loss: f64,
}

impl Moved {
    fn answer(&self, from: &Answer) -> Answer {
        let mut choices = from.choices.clone();
        for (unit, choice) in &self.to {
            choices[*unit] = *choice;
        }
        Answer { choices, bytes: self.bytes, loss: self.loss }
    }
}
