//! The front: saving against loss of quality, with every candidate that was measured, and what is allowed of it.

use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::annotations::{ReferenceLine, ShadedRegion};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::quality::Quality;

use super::names::{self, Crowd};
use super::stage_look::look;
use super::{CHOSEN, FRONT, GUIDE, Plot, plane};
use crate::words::{loss_with_interval, lost, lost_at_most, percent};
use crate::{Comparison, Field, Placed, Point, Reference, ReportDocument, Stage};

/// Front candidates up to which each shows its interval: more would hide what they are about.
pub(super) const MOST_INTERVALS: usize = 60;
/// Times by which the picture may grow upwards for the upper ends of intervals.
const MOST_ROOM: f64 = 1.5;
/// Dashes of the bound on the loss, and of the budget.
const DASHES: [&str; 2] = ["6 4", "2 3"];

/// `None` before the float model is measured, because everything is relative to it.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let field = Field::new(report)?;
    let quality = report.experiment.task.quality();
    let mut layers: Vec<Layer> = Vec::new();
    for (index, stage) in report.stages.iter().enumerate() {
        let points: Vec<&Point> = field.points.iter().filter(|point| point.stage == index).collect();
        if !points.is_empty() {
            layers.push(cloud(stage, &points, quality));
        }
    }
    for (index, comparison) in report.comparisons.iter().enumerate() {
        layers.extend(others(index, comparison, &field, quality));
    }
    let steps = field.steps();
    if !steps.is_empty() {
        let line = LinePlot::new().with_data(steps.into_iter().map(in_hundredths)).with_color(FRONT);
        layers.push(line.with_stroke_width(1.4).with_legend("front").into());
    }
    layers.extend(rings(&field, quality));
    layers.extend(uniform(&field.uniform, quality));
    layers.extend(field.chosen.as_ref().map(|chosen| star(chosen, quality)));

    let limits = Limits::new(&field);
    layers.extend(bounds(&field, &limits, quality));
    let edges = [limits.left, limits.right, limits.bottom, limits.top];
    let mut layout = plane(&layers, quality, edges);
    let mut crowd = crowd([&field]);
    crowd.lines.extend(limits.lines(&field));
    layout = with_names(layout, &field.uniform, &crowd);
    if let Some(bound) = field.bound.map(|bound| bound * 100.0).filter(|bound| *bound < limits.top) {
        layout = layout.with_shaded_region(shade(ShadedRegion::horizontal(bound, limits.top)));
        layout = layout.with_reference_line(line(ReferenceLine::horizontal(bound), DASHES[0]));
    }
    if let Some(budget) =
        field.budget.map(|budget| budget * 100.0).filter(|budget| limits.shows_saving(*budget))
    {
        layout = layout.with_shaded_region(shade(ShadedRegion::vertical(limits.left, budget)));
        layout = layout.with_reference_line(line(ReferenceLine::vertical(budget), DASHES[1]));
    }
    Some(Plot::new("front", "Memory saved against quality lost", caption(&field, quality), layers, layout))
}

fn caption(field: &Field, quality: Quality) -> String {
    let mut caption = format!(
        "Every measured candidate: the share of the float model's bytes that it saves, and the {} that it costs. \
         Lower and further right is better; what is shaded is not allowed. A spot is a candidate, or several that lie \
         together; a ring is on the front, with the 95 % interval of its loss; the colour is the tier, the shape the axis.",
        quality.name()
    );
    caption.push_str(match field.is_whole {
        true => " The line is the least loss of all that save as much.",
        false => " The front weighs something else, too: what lies behind others here may be better there.",
    });
    if field.cut > 0 {
        let (left, top) = (percent(field.left), lost_at_most(quality, field.top));
        caption.push_str(&format!(
            " {} candidates that save less than {left} or lose more than {top} are not shown.",
            field.cut
        ));
    }
    caption
}

/// The edges of the picture in hundredths, with some room around what it shows.
struct Limits {
    left: f64,
    right: f64,
    bottom: f64,
    top: f64,
}

impl Limits {
    fn new(field: &Field) -> Self {
        let savings = field.points.iter().map(|point| point.saving * 100.0);
        let left =
            savings.clone().chain([field.left * 100.0]).filter(|x| x.is_finite()).fold(100.0, f64::min);
        let right = savings.fold(left, f64::max);
        let losses = || field.points.iter().map(|point| point.loss * 100.0);
        let arms = || field.front.iter().chain(&field.uniform).filter_map(|at| at.interval);
        let bottom = losses().chain(arms().map(|(low, _)| low * 100.0)).fold(0.0, f64::min);
        let top = losses().chain(field.bound.map(|bound| bound * 100.0)).fold(field.top * 100.0, f64::max);
        // An interval is shown whole, but for one that is wider than all else is high.
        let highest = top * MOST_ROOM;
        let top = arms().map(|(_, high)| (high * 100.0).min(highest)).fold(top, f64::max);
        let (wide, high) = ((right - left).max(0.5), (top - bottom).max(0.1));
        Self {
            left: left - 0.05 * wide,
            right: (right + 0.05 * wide).min(100.0),
            bottom: if bottom < 0.0 { bottom - 0.05 * high } else { 0.0 },
            top: top + 0.05 * high,
        }
    }

    /// The bound on the loss and the budget, as far as they are within the picture.
    fn lines(&self, field: &Field) -> Vec<[(f64, f64); 2]> {
        let bound = field.bound.map(|bound| [(self.left, bound * 100.0), (self.right, bound * 100.0)]);
        let budget = field.budget.map(|budget| [(budget * 100.0, self.bottom), (budget * 100.0, self.top)]);
        bound.into_iter().chain(budget.filter(|[(saving, _), _]| self.shows_saving(*saving))).collect()
    }

    fn shows_saving(&self, saving: f64) -> bool {
        self.left < saving && saving < self.right
    }
}

pub(super) fn in_hundredths((saving, loss): (f64, f64)) -> (f64, f64) {
    (saving * 100.0, loss * 100.0)
}

fn shade(region: ShadedRegion) -> ShadedRegion {
    region.with_color(GUIDE).with_opacity(0.16)
}

fn line(line: ReferenceLine, dashes: &str) -> ReferenceLine {
    line.with_color(CHOSEN).with_dasharray(dashes)
}

/// Names of the bounds in the legend, where no point can lie under them: lines without length.
fn bounds(field: &Field, limits: &Limits, quality: Quality) -> Vec<Layer> {
    let named = |name: String, dotted: bool| {
        let corner = (limits.left, limits.bottom);
        let line = LinePlot::new().with_data([corner, corner]).with_color(CHOSEN).with_stroke_width(1.0);
        let line = if dotted { line.with_dotted() } else { line.with_dashed() };
        line.with_legend(name).into()
    };
    let bound = field.bound.map(|bound| named(format!("at most {}", lost_at_most(quality, bound)), false));
    let budget = field.budget.map(|budget| named(format!("at least {} saved", percent(budget)), true));
    bound.into_iter().chain(budget).collect()
}

/// Words about a candidate at its place.
pub(super) fn told(at: &Placed, quality: Quality) -> String {
    format!(
        "{}: {} saved, {}",
        at.name,
        percent(at.saving),
        loss_with_interval(quality, at.loss, at.interval)
    )
}

/// Arms of the interval of a loss, downwards and upwards, in hundredths.
pub(super) fn arm(at: &Placed) -> (f64, f64) {
    let (low, high) = at.interval.unwrap_or((at.loss, at.loss));
    ((at.loss - low).max(0.0) * 100.0, (high - at.loss).max(0.0) * 100.0)
}

/// Rings around the candidates of the front, with their intervals.
fn rings(field: &Field, quality: Quality) -> Option<Layer> {
    if field.front.is_empty() {
        return None;
    }
    let mut rings = ScatterPlot::new()
        .with_data(field.front.iter().map(|at| in_hundredths((at.saving, at.loss))))
        .with_color(FRONT)
        .with_size(5.0)
        .with_marker_opacity(0.0)
        .with_marker_stroke_width(1.2)
        .with_tooltip_labels(field.front.iter().map(|at| told(at, quality)))
        .with_tooltips();
    if field.front.len() <= MOST_INTERVALS && field.front.iter().any(|at| at.interval.is_some()) {
        rings = rings.with_y_err_asymmetric(field.front.iter().map(arm));
    }
    // Where the line stands for the front the legend has it already.
    if field.is_whole && field.front.len() > 1 {
        Some(rings.into())
    } else {
        Some(rings.with_legend("front").into())
    }
}

/// Uniform candidates, which take no search.
pub(super) fn uniform(uniform: &[Placed], quality: Quality) -> Option<Layer> {
    let places = uniform.iter().map(|at| in_hundredths((at.saving, at.loss)));
    let mut diamonds = ScatterPlot::new()
        .with_data(places)
        .with_marker(MarkerShape::Diamond)
        .with_color(FRONT)
        .with_size(5.0)
        .with_legend("uniform")
        .with_tooltip_labels(uniform.iter().map(|at| told(at, quality)))
        .with_tooltips();
    if uniform.iter().any(|at| at.interval.is_some()) {
        diamonds = diamonds.with_y_err_asymmetric(uniform.iter().map(arm));
    }
    (!uniform.is_empty()).then(|| diamonds.into())
}

/// The layout with the names of uniform candidates beside them.
pub(super) fn with_names(layout: Layout, uniform: &[Placed], crowd: &Crowd) -> Layout {
    let name = |at: &Placed| at.name.trim_start_matches("uniform ").to_owned();
    let named: Vec<_> = uniform.iter().map(|at| (name(at), in_hundredths((at.saving, at.loss)))).collect();
    names::beside(&named, crowd, &layout).into_iter().fold(layout, Layout::with_annotation)
}

/// What the names of points should not hide: candidates, fronts, and intervals.
pub(super) fn crowd<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Crowd {
    let mut crowd = Crowd::default();
    for field in fields {
        let placed = || field.front.iter().chain(&field.uniform).chain(&field.chosen);
        let points = field.points.iter().map(|point| (point.saving, point.loss));
        crowd.points.extend(points.chain(placed().map(|at| (at.saving, at.loss))).map(in_hundredths));
        let steps: Vec<(f64, f64)> = field.steps().into_iter().map(in_hundredths).collect();
        crowd.lines.extend(steps.windows(2).map(|pair| [pair[0], pair[1]]));
        let arms = placed().filter_map(|at| Some((at.saving, at.interval?)));
        let arms = arms.map(|(saving, (low, high))| [(saving, low), (saving, high)].map(in_hundredths));
        crowd.lines.extend(arms);
    }
    crowd
}

fn star(chosen: &Placed, quality: Quality) -> Layer {
    ScatterPlot::new()
        .with_data([in_hundredths((chosen.saving, chosen.loss))])
        .with_marker(MarkerShape::Star)
        .with_color(CHOSEN)
        .with_size(9.0)
        .with_legend("chosen")
        .with_tooltip_labels([format!("chosen: {}", told(chosen, quality))])
        .with_tooltips()
        .into()
}

/// Points that another tool found, as far as it is within the picture.
fn others(index: usize, comparison: &Comparison, field: &Field, quality: Quality) -> Option<Layer> {
    let points = comparison.points.iter().filter(|point| field.shows(point.saving, point.quality_loss));
    let points: Vec<&Reference> = points.collect();
    if points.is_empty() {
        return None;
    }
    let label = |point: &&Reference| {
        let (saved, lost) = (percent(point.saving), lost(quality, point.quality_loss));
        format!("{}, {}: {saved} saved, {lost}", comparison.source, point.label)
    };
    let crosses = ScatterPlot::new()
        .with_data(points.iter().map(|point| in_hundredths((point.saving, point.quality_loss))))
        .with_marker(if index.is_multiple_of(2) { MarkerShape::Cross } else { MarkerShape::Plus })
        .with_color(GUIDE)
        .with_size(4.0)
        .with_legend(comparison.source.clone())
        .with_tooltip_labels(points.iter().map(label))
        .with_tooltips();
    Some(crosses.into())
}

/// The candidates of a stage, larger where there are more.
fn cloud(stage: &Stage, points: &[&Point], quality: Quality) -> Layer {
    let label = |point: &&Point| {
        let (saved, lost) = (percent(point.saving), lost(quality, point.loss));
        match &point.candidate {
            Some(id) => format!("{id}: {saved} saved, {lost}"),
            None => format!("{} candidates: about {saved} saved, {lost}", point.count),
        }
    };
    let (colour, marker) = look(&stage.name);
    ScatterPlot::new()
        .with_data(points.iter().map(|point| in_hundredths((point.saving, point.loss))))
        .with_sizes(points.iter().map(|point| 3.0 + (point.count as f64).ln()))
        .with_color(colour)
        .with_marker(marker)
        .with_marker_opacity(0.65)
        .with_legend(stage.name.clone())
        .with_tooltip_labels(points.iter().map(label))
        .with_tooltips()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn a_budget_has_a_line_of_its_own_and_what_is_not_allowed_is_shaded() {
        let mut report = report();
        let dashed = |report: &ReportDocument| {
            let svg = plot(report).unwrap().svg();
            DASHES.map(|dashes| svg.matches(&format!("stroke-dasharray=\"{dashes}\"")).count())
        };
        report.experiment.constraints.max_perplexity_increase = Some(0.01);
        let [bound, none] = dashed(&report);
        assert!(bound > 0 && none == 0, "{bound} {none}");
        let field = Field::new(&report).unwrap();
        report.experiment.constraints.min_saving =
            Some(f64::midpoint(field.left, field.front.last().unwrap().saving));
        assert!(dashed(&report)[1] > 0);
        let svg = plot(&report).unwrap().svg();
        assert!(svg.contains("saved</text>") && svg.contains("at most +1.00 %"), "both are in the legend");
    }

    #[test]
    fn uniform_candidates_are_named_in_the_picture() {
        let svg = plot(&report()).unwrap().svg();
        assert!(svg.contains(">uniform</text>") && svg.contains("int8</text>"), "{svg}");
    }

    #[test]
    fn the_edges_are_close_to_what_is_shown() {
        let field = Field::new(&report()).unwrap();
        let limits = Limits::new(&field);
        let savings: Vec<f64> = field.points.iter().map(|point| point.saving * 100.0).collect();
        let (least, most) =
            (savings.iter().copied().fold(100.0, f64::min), savings.iter().copied().fold(0.0, f64::max));
        assert!(limits.left < least && most < limits.right);
        assert!((most - least) / (limits.right - limits.left) > 0.8, "the width is spent on the points");
    }
}
