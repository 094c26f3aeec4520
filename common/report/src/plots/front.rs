//! The front: saving against loss of quality, with every candidate that was measured.

use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LegendPosition, LinePlot, ScatterPlot};
use kuva::render::annotations::ReferenceLine;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;

use super::{CHOSEN, COLOURS, GUIDE, Plot, WIDTH, percent_ticks};
use crate::words::percent;
use crate::{Comparison, Field, Point, Reference, ReportDocument, Stage};

/// `None` before the float model is measured, because everything is relative to it.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let field = Field::new(report)?;
    let mut layers: Vec<Layer> = Vec::new();
    for (index, stage) in report.stages.iter().enumerate() {
        let points: Vec<&Point> = field.points.iter().filter(|point| point.stage == index).collect();
        if !points.is_empty() {
            layers.push(cloud(index, stage, &points));
        }
    }
    for (index, comparison) in report.comparisons.iter().enumerate() {
        layers.extend(others(index, comparison, &field));
    }
    if field.front.len() > 1 {
        let line = field.front.iter().map(|(saving, loss)| (saving * 100.0, loss * 100.0));
        let line = LinePlot::new().with_data(line).with_color(GUIDE).with_stroke_width(1.2);
        layers.push(line.with_legend("front").into());
    }
    if let Some((saving, loss)) = field.chosen {
        let star = ScatterPlot::new().with_data([(saving * 100.0, loss * 100.0)]);
        let star =
            star.with_marker(MarkerShape::Star).with_color(CHOSEN).with_size(9.0).with_legend("chosen");
        let label = format!("chosen: {} saved, {} lost", percent(saving), percent(loss));
        layers.push(star.with_tooltip_labels([label]).with_tooltips().into());
    }
    let quality = report.experiment.task.quality();
    let mut layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(520.0)
        .with_x_label("memory saved")
        .with_y_label(quality.loss_name())
        .with_x_tick_format(percent_ticks())
        .with_y_tick_format(percent_ticks())
        .with_legend_position(LegendPosition::OutsideRightTop);
    if let Some(bound) = field.bound {
        let line = ReferenceLine::horizontal(bound * 100.0).with_color(CHOSEN);
        layout = layout.with_reference_line(line.with_label(format!("at most {}", percent(bound))));
    }
    let mut caption = format!(
        "Every measured candidate: the share of the float model's bytes that it saves, and the {} that it costs. \
         Lower and further right is better. A spot is a candidate, or several that lie together.",
        quality.name()
    );
    if field.cut > 0 {
        let (left, top) = (percent(field.left), percent(field.top));
        caption.push_str(&format!(
            " {} candidates that save less than {left} or lose more than {top} are not shown.",
            field.cut
        ));
    }
    Some(Plot::new("front", "Memory saved against quality lost", caption, layers, layout))
}

/// Points that another tool found, as far as it is within the picture.
fn others(index: usize, comparison: &Comparison, field: &Field) -> Option<Layer> {
    let points = comparison.points.iter().filter(|point| field.shows(point.saving, point.quality_loss));
    let points: Vec<&Reference> = points.collect();
    if points.is_empty() {
        return None;
    }
    let label = |point: &&Reference| {
        let (saved, lost) = (percent(point.saving), percent(point.quality_loss));
        format!("{}, {}: {saved} saved, {lost} lost", comparison.source, point.label)
    };
    let crosses = ScatterPlot::new()
        .with_data(points.iter().map(|point| (point.saving * 100.0, point.quality_loss * 100.0)))
        .with_marker(if index.is_multiple_of(2) { MarkerShape::Cross } else { MarkerShape::Plus })
        .with_color(GUIDE)
        .with_size(4.0)
        .with_legend(comparison.source.clone())
        .with_tooltip_labels(points.iter().map(label))
        .with_tooltips();
    Some(crosses.into())
}

/// The candidates of a stage, larger where there are more.
fn cloud(index: usize, stage: &Stage, points: &[&Point]) -> Layer {
    let label = |point: &&Point| {
        let (saved, lost) = (percent(point.saving), percent(point.loss));
        match &point.candidate {
            Some(id) => format!("{id}: {saved} saved, {lost} lost"),
            None => format!("{} candidates: about {saved} saved, {lost} lost", point.count),
        }
    };
    ScatterPlot::new()
        .with_data(points.iter().map(|point| (point.saving * 100.0, point.loss * 100.0)))
        .with_sizes(points.iter().map(|point| 3.0 + (point.count as f64).ln()))
        .with_color(COLOURS[index % COLOURS.len()])
        .with_marker_opacity(0.65)
        .with_legend(stage.name.clone())
        .with_tooltip_labels(points.iter().map(label))
        .with_tooltips()
        .into()
}
