//! Sensitivity: what it costs to quantize each part alone.

use std::collections::BTreeSet;

use kuva::plot::BarPlot;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::network::short_name;
use qslm_common::quality::Quality;
use qslm_common::space::Axis;

use super::{COLOURS, Plot, WIDTH, percent_ticks, point_ticks};
use crate::words::signed;
use crate::{ReportDocument, Sensitivity};

/// Height of a bar with its gap.
const BAR: f64 = 15.0;
/// Different schemes that the caption names.
const SCHEMES: usize = 3;

/// In the network's order, and by loss; none if the strategy measured none.
pub(super) fn plots(report: &ReportDocument) -> Vec<Plot> {
    let measured = |site: &&Sensitivity| site.quality_loss.is_some();
    let mut sites: Vec<&Sensitivity> = report.sensitivity.iter().filter(measured).collect();
    if sites.is_empty() {
        return Vec::new();
    }
    let in_order = plot(report, "sensitivity", &sites).with_view("in the network's order");
    let loss = |site: &Sensitivity| site.quality_loss.unwrap_or(0.0);
    sites.sort_by(|a, b| loss(b).total_cmp(&loss(a)));
    vec![in_order, plot(report, "sensitivity-by-loss", &sites).with_view("by loss")]
}

fn plot(report: &ReportDocument, name: &'static str, sites: &[&Sensitivity]) -> Plot {
    let bar = |site: &&Sensitivity| {
        let loss = site.quality_loss.unwrap_or(0.0) * 100.0;
        (label(site), loss, COLOURS[colour(site.axis)])
    };
    // From the top down in the order of the sites; bars are drawn from the bottom up.
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
        widths(sites)
    );
    Plot::new(name, "Sensitivity of each part", caption, layers, layout)
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
    let loss = signed(site.quality_loss.unwrap_or(0.0));
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
        let plot = |report: &ReportDocument| plots(report).swap_remove(0);
        let without = plot(&report);
        assert!(without.svg().contains(">0.att.key +1.25</text>"), "{}", without.svg());
        assert!(without.caption.contains("quantized to int2:symmetric:channel and"), "{}", without.caption);
        report.sensitivity = vec![site("blocks.0.att.key.weight", 0.0125, Some((0.01, 0.015)))];
        let lines = |plot: &Plot| plot.svg().matches("<line").count();
        assert!(lines(&plot(&report)) > lines(&without), "whiskers");
        report.sensitivity[0].scheme.clear();
        assert!(plot(&report).caption.contains("quantized and"));
    }

    #[test]
    fn the_second_view_is_sorted_by_loss() {
        let mut report = report();
        assert!(plots(&report).is_empty());
        let site = |name: &str, loss: Option<f64>| Sensitivity {
            axis: Axis::Weights,
            name: name.to_owned(),
            scheme: String::new(),
            quality_loss: loss,
            quality_loss_interval: None,
        };
        report.sensitivity = vec![
            site("blocks.0.att.key.weight", Some(-0.01)),
            site("blocks.0.att.value.weight", Some(0.03)),
            site("blocks.0.ffn.key.weight", None),
            site("blocks.0.ffn.value.weight", Some(0.02)),
        ];
        let names = |plot: &Plot| {
            let svg = plot.svg();
            let mut places: Vec<(usize, &str)> = ["att.key", "att.value", "ffn.value"]
                .into_iter()
                .map(|name| (svg.find(&format!(">0.{name} ")).expect("every bar has its name"), name))
                .collect();
            assert!(!svg.contains("ffn.key"), "nothing is known of it");
            places.sort_unstable();
            places.into_iter().rev().map(|(_, name)| name).collect::<Vec<_>>()
        };
        let [in_order, by_loss] = &plots(&report)[..] else { panic!("two views") };
        // Bars are drawn from the bottom up.
        assert_eq!(names(in_order), ["att.key", "att.value", "ffn.value"]);
        assert_eq!(names(by_loss), ["att.value", "ffn.value", "att.key"]);
        assert_eq!((in_order.view, by_loss.view), (Some("in the network's order"), Some("by loss")));
    }
}
