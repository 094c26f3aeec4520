//! The field of a picture of the front: saving to the right, loss of quality upwards, and how far up.

use qslm_common::front_document::FrontRow;
use qslm_common::quality::Quality;

use crate::ReportDocument;
use crate::cloud::{Spot, badness};

/// Largest loss that is of interest without a bound on quality.
const HIGHEST: f64 = 0.5;
/// Largest loss that is of interest with one, as a multiple of the bound.
const BOUNDS: f64 = 5.0;
/// The stage of probe candidates, which quantize one unit, activation or population alone.
const ALONE: &str = "sensitivity";
/// A picture is at least this high, so that rounding does not fill it.
const LOWEST: f64 = 0.002;

/// Candidates by saving and loss, both as fractions.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// All candidates within the picture.
    pub points: Vec<Point>,
    /// The front within the picture, by rising saving.
    pub front: Vec<(f64, f64)>,
    /// The chosen candidate, if it is within the picture.
    pub chosen: Option<(f64, f64)>,
    /// The most that may be lost.
    pub bound: Option<f64>,
    /// The smallest saving that is shown.
    pub left: f64,
    /// The largest loss that is shown.
    pub top: f64,
    /// Candidates that save less or lose more.
    pub cut: u64,
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
        let left = others.map(|spot| spot.saving).reduce(f64::min).unwrap_or(f64::NEG_INFINITY);
        let is_shown = |saving: f64, loss: f64| saving >= left && loss <= highest;
        let (points, others): (Vec<_>, Vec<_>) = all.partition(|point| is_shown(point.saving, point.loss));
        let top = points.iter().map(|point| point.loss).fold(LOWEST, f64::max);
        let points_left = points.iter().map(|point| point.saving).fold(1.0, f64::min);
        let place = |row: &FrontRow| {
            row.quality_loss.map(|loss| (row.saving, loss)).filter(|(saving, loss)| is_shown(*saving, *loss))
        };
        let mut front: Vec<(f64, f64)> = report.front.front.iter().filter_map(place).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        Some(Self {
            points,
            front,
            chosen: report.front.chosen.as_ref().and_then(place),
            bound,
            left: points_left,
            top,
            cut: others.iter().map(|point| point.count).sum(),
        })
    }
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
        assert!(field.shows(field.chosen.unwrap().0, field.chosen.unwrap().1));
    }

    #[test]
    fn nothing_is_shown_before_there_is_something_to_compare_with() {
        let mut report = report();
        report.front.float = None;
        assert_eq!(Field::new(&report), None);
    }
}
