//! Fronts of several experiments in one picture, a colour each.

use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::annotations::ReferenceLine;
use kuva::render::plots::Plot as Layer;
use qslm_common::quality::Quality;

use super::front::{MOST_INTERVALS, arm, crowd, in_hundredths, told, uniform, with_names};
use super::{COLOURS, GUIDE, Plot, plane};
use crate::overlay::{Limit, OverlayDocument};
use crate::{Field, Placed, ReportDocument};

/// Letters of a label in the legend; the page and the table have all of it.
const LEGEND: usize = 24;

/// `None` before the float model of any of them is measured.
pub(super) fn plot(document: &OverlayDocument, reports: &[ReportDocument]) -> Option<Plot> {
    let fields = reports.iter().enumerate().filter_map(|(at, report)| Some((at, Field::new(report)?)));
    let fields: Vec<(usize, Field)> = fields.collect();
    if fields.iter().all(|(_, field)| field.front.is_empty()) {
        return None;
    }
    let quality = document.quality();
    let mut layers: Vec<Layer> = Vec::new();
    for (at, field) in &fields {
        layers.extend(front(*at, field, &document.experiments[*at].label, quality));
    }
    // The same schemes are the same candidates in all of them, if the space is.
    let mut beside: Vec<Placed> = Vec::new();
    for one in fields.iter().flat_map(|(_, field)| &field.uniform) {
        if !beside.contains(one) {
            beside.push(one.clone());
        }
    }
    layers.extend(uniform(&beside, quality));

    let places = fields.iter().flat_map(|(_, field)| field.front.iter().chain(&field.chosen)).chain(&beside);
    // With both ends of its interval.
    let ends = |at: &Placed| {
        [Some(at.loss), at.interval.map(|arm| arm.0), at.interval.map(|arm| arm.1)]
            .map(|loss| loss.map(|loss| in_hundredths((at.saving, loss))))
    };
    let places: Vec<(f64, f64)> = places.flat_map(|at| ends(at).into_iter().flatten()).collect();
    let edges = limits(&places);
    let [_, _, bottom, top] = edges;
    let mut layout = plane(&layers, quality, edges);
    layout = with_names(layout, &beside, &crowd(fields.iter().map(|(_, field)| field)));
    for budget in &document.budgets {
        if let Limit::QualityLoss(bound) = budget.limit
            && (bottom..top).contains(&(bound * 100.0))
        {
            let line = ReferenceLine::horizontal(bound * 100.0).with_color(GUIDE).with_dasharray("6 4");
            layout = layout.with_reference_line(line);
        }
    }
    let caption = "The front of each experiment, as the least loss of all that save as much; a star is what it chose, bars are \
                   95 % intervals of losses, diamonds are uniform. Lower and further right is better. A front that weighs \
                   something else, too, has rings and no line.";
    Some(Plot::new("overlay", "Fronts side by side", caption, layers, layout))
}

/// Steps, rings and choice of one experiment.
fn front(at: usize, field: &Field, label: &str, quality: Quality) -> Vec<Layer> {
    if field.front.is_empty() {
        return Vec::new();
    }
    let colour = COLOURS[at % COLOURS.len()];
    let brief = match label.chars().count() {
        letters if letters > LEGEND => label.chars().take(LEGEND - 1).chain(['\u{2026}']).collect(),
        _ => label.to_owned(),
    };
    let mut layers: Vec<Layer> = Vec::new();
    let steps = field.steps();
    let has_line = !steps.is_empty();
    if has_line {
        let line = LinePlot::new().with_data(steps.into_iter().map(in_hundredths)).with_color(colour);
        let line = line.with_stroke_width(1.6).with_legend(brief.clone());
        layers.push(match at / COLOURS.len() {
            0 => line.into(),
            1 => line.with_dashed().into(),
            _ => line.with_dotted().into(),
        });
    }
    let mut rings = ScatterPlot::new()
        .with_data(field.front.iter().map(|at| in_hundredths((at.saving, at.loss))))
        .with_color(colour)
        .with_size(3.5)
        .with_marker_opacity(0.0)
        .with_marker_stroke_width(1.2)
        .with_tooltip_labels(field.front.iter().map(|at| format!("{label}, {}", told(at, quality))))
        .with_tooltips();
    if field.front.len() <= MOST_INTERVALS && field.front.iter().any(|at| at.interval.is_some()) {
        rings = rings.with_y_err_asymmetric(field.front.iter().map(arm));
    }
    layers.push(if has_line { rings.into() } else { rings.with_legend(brief).into() });
    if let Some(chosen) = &field.chosen {
        let star = ScatterPlot::new()
            .with_data([in_hundredths((chosen.saving, chosen.loss))])
            .with_marker(MarkerShape::Star)
            .with_color(colour)
            .with_size(9.0)
            .with_tooltip_labels([format!("{label} chose {}", told(chosen, quality))]);
        layers.push(star.with_tooltips().into());
    }
    layers
}

/// Left, right, lower and upper edge of a picture around places, with some room.
fn limits(places: &[(f64, f64)]) -> [f64; 4] {
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), at| (least.min(at), most.max(at)))
    };
    let (left, right) = span(&mut places.iter().map(|at| at.0));
    let (bottom, top) = span(&mut places.iter().map(|at| at.1).chain([0.0]));
    let (wide, high) = ((right - left).max(0.5), (top - bottom).max(0.1));
    let bottom = if bottom < 0.0 { bottom - 0.05 * high } else { 0.0 };
    [left - 0.05 * wide, (right + 0.05 * wide).min(100.0), bottom, top + 0.05 * high]
}
