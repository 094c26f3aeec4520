//! The field of a picture of the front: saving to the right, loss of quality upwards, and how far up.

use qslm_common::cost::Cost;
use qslm_common::footprint::saving;
use qslm_common::front_document::FrontRow;
use qslm_common::objective::Objective;
use qslm_common::quality::Quality;

use crate::ReportDocument;
use crate::cloud::{Spot, badness};
use crate::gain;

/// Largest loss that is of interest without a bound on quality.
const HIGHEST: f64 = 0.5;
/// Largest loss that is of interest with one, as a multiple of the bound.
const BOUNDS: f64 = 5.0;
/// The stage of probe candidates, which quantize one unit, activation or population alone.
const ALONE: &str = "sensitivity";
/// Candidates from which on a picture may leave out what saves far less than most.
const MANY: u64 = 20;
/// Share of the candidates that save least, which may not take more than half of the width.
const FEW: f64 = 0.1;
/// A picture is at least this high, so that rounding does not fill it.
const LOWEST: f64 = 0.002;

/// Candidates by saving and loss, both as fractions.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// All candidates within the picture.
    pub points: Vec<Point>,
    /// The front within the picture, by rising saving.
    pub front: Vec<Placed>,
    /// Uniform candidates within the picture, with their names.
    pub uniform: Vec<Placed>,
    /// The chosen candidate, if it is within the picture.
    pub chosen: Option<Placed>,
    /// The most that may be lost.
    pub bound: Option<f64>,
    /// The least that has to be saved: by a budget of bytes or a bound on the saving, whichever asks for more.
    pub budget: Option<f64>,
    /// True if saving and loss are what the front weighs and nothing else, so that it bounds this very plane.
    pub is_whole: bool,
    /// The smallest saving that is shown.
    pub left: f64,
    /// The largest loss that is shown.
    pub top: f64,
    /// Candidates that save less or lose more.
    pub cut: u64,
}

/// Candidate at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Beginning of its id, or the name of a uniform candidate.
    pub name: String,
    /// Share of the float bytes that is saved.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub loss: f64,
    /// 95 % interval of the loss, where it is known.
    pub interval: Option<(f64, f64)>,
}

/// Candidates that lie close together.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Index into the stages of the report.
    pub stage: usize,
    /// Share of the float bytes that is saved.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub loss: f64,
    /// Number of candidates.
    pub count: u64,
    /// The beginning of the candidate's id, if it is only one.
    pub candidate: Option<String>,
}

impl Field {
    /// True if a point lies within the picture.
    pub fn shows(&self, saving: f64, loss: f64) -> bool {
        saving >= self.left && loss <= self.top
    }

    /// `None` before the float model is measured, because everything is relative to it.
    pub fn new(report: &ReportDocument) -> Option<Self> {
        let float = report.front.float.as_ref()?;
        let base = badness(&float.counts);
        // What `quality_loss` says of counts, of what a spot keeps of them.
        // A ratio less one, as it is rounded there.
        let loss = |spot: &Spot| match float.quality() {
            Quality::Perplexity => (spot.badness - base).exp() - 1.0,
            Quality::Accuracy => spot.badness - base,
        };
        let all = report.spots.iter().map(|spot| Point {
            stage: spot.stage,
            saving: spot.saving,
            loss: loss(spot),
            count: spot.count,
            candidate: spot.candidate.clone(),
        });
        let bound = report.experiment.constraints.largest_loss(report.experiment.task.quality());
        let highest = bound.map_or(HIGHEST, |bound| BOUNDS * bound.max(LOWEST));
        // The float model saves nothing and probe candidates next to nothing: they would push everything else
        // to the edge.
        let is_alone = |stage: usize| report.stages.get(stage).is_some_and(|stage| stage.name == ALONE);
        let is_float = |spot: &Spot| spot.candidate.as_ref() == Some(&float.candidate.short());
        let others = report.spots.iter().filter(|spot| !is_alone(spot.stage) && !is_float(spot));
        let savings =
            others.filter(|spot| loss(spot) <= highest).map(|spot| (spot.saving, spot.count)).collect();
        let budget = budget(report);
        let kept = report.front.chosen.as_ref().map(|row| row.saving).into_iter().chain(budget);
        let kept = kept.chain(gain::reference(&report.front).map(|gain| gain.uniform.row.saving));
        let others = report.comparisons.iter().flat_map(|comparison| &comparison.points);
        let kept = kept.chain(others.filter(|point| point.quality_loss <= highest).map(|point| point.saving));
        let left = left_of_interest(savings, kept.fold(f64::INFINITY, f64::min));
        let is_shown = |saving: f64, loss: f64| saving >= left && loss <= highest;
        let (points, others): (Vec<_>, Vec<_>) = all.partition(|point| is_shown(point.saving, point.loss));
        let top = points.iter().map(|point| point.loss).fold(LOWEST, f64::max);
        let first = points.iter().map(|point| point.saving).fold(1.0, f64::min);
        let place = |name: String, row: &FrontRow| {
            let (saving, interval) = (row.saving, row.quality_loss_interval);
            let loss = row.quality_loss.filter(|loss| is_shown(saving, *loss))?;
            Some(Placed { name, saving, loss, interval })
        };
        let place_row = |row: &FrontRow| place(row.candidate.short(), row);
        let mut front: Vec<Placed> = report.front.front.iter().filter_map(place_row).collect();
        front.sort_by(|a, b| a.saving.total_cmp(&b.saving).then(a.loss.total_cmp(&b.loss)));
        let uniform = report.front.uniform.iter();
        let objectives = &report.experiment.objectives;
        let plane = [Objective::quality_of(&report.experiment.task), Objective::Cost(Cost::Footprint)];
        Some(Self {
            points,
            front,
            uniform: uniform.filter_map(|one| place(gain::name(one, &report.front), &one.row)).collect(),
            chosen: report.front.chosen.as_ref().and_then(place_row),
            bound,
            budget,
            is_whole: objectives.len() == plane.len() && plane.iter().all(|one| objectives.contains(one)),
            left: if left.is_finite() { first.min(left) } else { first },
            top,
            cut: others.iter().map(|point| point.count).sum(),
        })
    }

    /// The front as what it is: for every saving the least loss of all that save as much. Empty where other objectives
    /// decide, too, or with fewer than two candidates.
    pub fn steps(&self) -> Vec<(f64, f64)> {
        if !self.is_whole || self.front.len() < 2 {
            return Vec::new();
        }
        let mut steps = vec![(self.front[0].saving, self.front[0].loss)];
        for pair in self.front.windows(2) {
            // Whoever wants to save a little more than the first pays for the second.
            steps.extend([(pair[0].saving, pair[1].loss), (pair[1].saving, pair[1].loss)]);
        }
        steps
    }
}

/// The saving that the constraints ask for at least.
fn budget(report: &ReportDocument) -> Option<f64> {
    let constraints = &report.experiment.constraints;
    let of_bytes = constraints.max_footprint_bytes.map(|bytes| saving(&report.experiment.network, bytes));
    of_bytes.into_iter().chain(constraints.min_saving).reduce(f64::max)
}

/// The smallest saving to show of candidates by saving and number, `kept` at least: that of the first, unless a few that
/// save little would take more than half of the width.
fn left_of_interest(mut savings: Vec<(f64, u64)>, kept: f64) -> f64 {
    savings.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some((first, _)), Some((last, _))) = (savings.first().copied(), savings.last().copied()) else {
        return f64::NEG_INFINITY;
    };
    let all: u64 = savings.iter().map(|(_, count)| count).sum();
    let mut before = 0;
    let most = savings.iter().find(|(_, count)| {
        before += count;
        before as f64 > FEW * all as f64
    });
    let most = most.map_or(first, |(saving, _)| saving.min(kept));
    let is_mostly_empty = most - first > (last - first) / 2.0;
    if all >= MANY && is_mostly_empty { most - (last - most) / 4.0 } else { first.min(kept) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn the_picture_shows_what_was_searched_and_counts_the_rest() {
        let report = report();
        let field = Field::new(&report).unwrap();
        let all: u64 = report.spots.iter().map(|spot| spot.count).sum();
        assert_eq!(field.points.iter().map(|point| point.count).sum::<u64>() + field.cut, all);
        // The float model and the probe candidate are to the left of the picture, the broken
        // one above it.
        assert_eq!((field.points.len(), field.cut), (2, 3));
        assert!(field.left > 0.4 && field.top < 0.2, "{field:?}");
        let chosen = field.chosen.as_ref().unwrap();
        assert!(field.shows(chosen.saving, chosen.loss));
        assert_eq!(field.uniform.len(), 2, "the third one is broken");
    }

    #[test]
    fn the_front_is_steps_through_what_was_measured_and_only_where_it_bounds_the_picture() {
        let report = report();
        let field = Field::new(&report).unwrap();
        let steps = field.steps();
        assert_eq!(steps.len(), 2 * field.front.len() - 1);
        for (at, step) in steps.windows(2).enumerate() {
            let [(x, y), (next_x, next_y)] = step else { unreachable!("windows of two") };
            assert!(
                if at % 2 == 0 { x == next_x && y <= next_y } else { y == next_y && x <= next_x },
                "{steps:?}"
            );
        }
        let mut three = report.clone();
        three.experiment.objectives.push(Objective::Cost(Cost::Energy));
        assert!(Field::new(&three).unwrap().steps().is_empty());
    }

    #[test]
    fn the_budget_is_the_bound_that_asks_for_more() {
        let mut report = report();
        assert_eq!(Field::new(&report).unwrap().budget, None);
        let float = qslm_common::footprint::float_bytes(&report.experiment.network);
        report.experiment.constraints.max_footprint_bytes = Some(float / 4);
        report.experiment.constraints.min_saving = Some(0.5);
        assert_eq!(Field::new(&report).unwrap().budget, Some(0.75));
    }

    #[test]
    fn a_few_that_save_little_do_not_take_most_of_the_width() {
        let dense = (0..100).map(|at| (0.9 + f64::from(at) * 1e-4, 1));
        let wide: Vec<_> = [(0.5, 1), (0.7, 1)].into_iter().chain(dense).collect();
        let left = left_of_interest(wide.clone(), f64::INFINITY);
        assert!((0.89..0.9).contains(&left), "{left}");
        assert!(left_of_interest(wide.clone(), 0.8) < 0.8, "the choice is shown");
        assert_eq!(left_of_interest(wide[..3].to_vec(), f64::INFINITY), 0.5, "of few all are shown");
        assert_eq!(left_of_interest(wide[2..].to_vec(), 0.4), 0.4, "what is to be seen is seen");
        assert_eq!(left_of_interest(Vec::new(), 0.1), f64::NEG_INFINITY);
    }

    #[test]
    fn nothing_is_shown_before_there_is_something_to_compare_with() {
        let mut report = report();
        report.front.float = None;
        assert_eq!(Field::new(&report), None);
    }
}
