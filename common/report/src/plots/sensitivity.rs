//! Sensitivity: what it costs to quantize each part alone.

use std::collections::BTreeSet;

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
/// Different schemes that the caption names.
const SCHEMES: usize = 3;

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
    let mut bars = BarPlot::new().with_colored_bars(sites.iter().rev().map(bar)).with_horizontal(true);
    if sites.iter().any(|site| site.quality_loss_interval.is_some()) {
        bars = bars.with_asymmetric_error(sites.iter().rev().map(|site| arms(site)));
    }
    let layers: Vec<Layer> = vec![bars.with_tooltips().into()];
    let quality = report.experiment.task.quality();
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(120.0 + BAR * sites.len() as f64)
        .with_x_label(quality.loss_name())
        .with_x_tick_format(if quality == Quality::Accuracy { point_ticks() } else { percent_ticks() })
        .with_tick_size(10);
    let caption = format!(
        "The loss of quality when one unit, activation or population alone is quantized{} and the rest stays float, its value \
         behind the name. The search lowers the least sensitive ones first.",
        widths(&sites)
    );
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

/// Arms of the interval of a loss, downwards and upwards, in hundredths.
fn arms(site: &Sensitivity) -> (f64, f64) {
    let loss = site.quality_loss.unwrap_or(0.0);
    let (low, high) = site.quality_loss_interval.unwrap_or((loss, loss));
    ((loss - low).max(0.0) * 100.0, (high - loss).max(0.0) * 100.0)
}

/// Schemes that the sites alone had, as far as they are known: ` to int2:symmetric:channel`.
fn widths(sites: &[&Sensitivity]) -> String {
    let schemes: BTreeSet<&str> =
        sites.iter().map(|site| &*site.scheme).filter(|text| !text.is_empty()).collect();
    let more = schemes.len().saturating_sub(SCHEMES);
    let told: Vec<&str> = schemes.into_iter().take(SCHEMES).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if told.is_empty() { String::new() } else { format!(" to {}{more}", told.join(", ")) }
}

/// Label of a unit, activation or population: its short name, and what it loses.
fn label(site: &Sensitivity) -> String {
    let name = short_name(&site.name);
    let loss = format!("{:+.2}", site.quality_loss.unwrap_or(0.0) * 100.0);
    match site.axis {
        Axis::Activations => format!("{name} (activation) {loss}"),
        _ => format!("{name} {loss}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn a_bar_has_its_value_its_interval_and_the_width_it_was_taken_at() {
        let mut report = report();
        let site = |name: &str, loss, quality_loss_interval| Sensitivity {
            axis: Axis::Weights,
            name: name.to_owned(),
            scheme: "int2:symmetric:channel".to_owned(),
            quality_loss: Some(loss),
            quality_loss_interval,
        };
        report.sensitivity = vec![site("blocks.0.att.key.weight", 0.0125, None)];
        let without = plot(&report).unwrap();
        assert!(without.svg().contains(">0.att.key +1.25</text>"), "{}", without.svg());
        assert!(without.caption.contains("quantized to int2:symmetric:channel and"), "{}", without.caption);
        report.sensitivity = vec![site("blocks.0.att.key.weight", 0.0125, Some((0.01, 0.015)))];
        let lines = |plot: &Plot| plot.svg().matches("<line").count();
        assert!(lines(&plot(&report).unwrap()) > lines(&without), "whiskers");
        report.sensitivity[0].scheme.clear();
        assert!(plot(&report).unwrap().caption.contains("quantized and"));
    }
}
