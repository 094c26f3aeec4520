//! Sensitivity: what it costs to quantize each part alone.

use kuva::plot::BarPlot;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::network::short_name;
use qslm_common::quality::Quality;
use qslm_common::space::Axis;

use super::{COLOURS, Plot, WIDTH, percent_ticks, point_ticks};
use crate::{ReportDocument, Sensitivity};

/// Height of a bar with its gap.
const BAR: f64 = 15.0;

/// `None` if the strategy measured none.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let measured = |site: &&Sensitivity| site.quality_loss.is_some();
    let sites: Vec<&Sensitivity> = report.sensitivity.iter().filter(measured).collect();
    if sites.is_empty() {
        return None;
    }
    let bar = |site: &&Sensitivity| {
        let loss = site.quality_loss.unwrap_or(0.0) * 100.0;
        (label(site), loss, COLOURS[colour(site.axis)])
    };
    // From the top down in the network's order; bars are drawn from the bottom up.
    let bars = BarPlot::new().with_colored_bars(sites.iter().rev().map(bar)).with_horizontal(true);
    let layers: Vec<Layer> = vec![bars.with_tooltips().into()];
    let quality = report.experiment.task.quality();
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(120.0 + BAR * sites.len() as f64)
        .with_x_label(quality.loss_name())
        .with_x_tick_format(if quality == Quality::Accuracy { point_ticks() } else { percent_ticks() })
        .with_tick_size(10);
    let caption = "The loss of quality when one unit, activation or population alone is quantized and the rest stays float. \
                   The search lowers the least sensitive ones first.";
    Some(Plot::new("sensitivity", "Sensitivity of each part", caption, layers, layout))
}

fn colour(axis: Axis) -> usize {
    match axis {
        Axis::Weights => 0,
        Axis::Vectors => 1,
        Axis::Activations => 2,
        Axis::Membranes => 3,
    }
}

/// Label of a unit, activation or population: its short name.
fn label(site: &Sensitivity) -> String {
    let name = short_name(&site.name);
    match site.axis {
        Axis::Activations => format!("{name} (activation)"),
        _ => name.to_owned(),
    }
}
