//! Firing rates of every population, of the float model and the chosen candidate.

use kuva::plot::{LegendPosition, LinePlot, ScatterPlot};
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot as Layer;
use qslm_common::front_document::FrontRow;
use qslm_common::network::population_name;

use super::{CHOSEN, FLOAT, Plot, WIDTH};
use crate::ReportDocument;

/// `None` before the float model is measured, and for a network without spikes.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let network = &report.experiment.network;
    if !network.is_spiking() {
        return None;
    }
    let rates = |row: &FrontRow| row.counts.firing_rates(network.channels);
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |name: &str, colour: &str, row: &FrontRow| {
        let points: Vec<(f64, f64)> =
            rates(row).into_iter().enumerate().map(|(at, rate)| (at as f64, rate)).collect();
        let labels: Vec<String> = points
            .iter()
            .map(|(at, rate)| format!("{} of the {name} model: {rate:.4}", population_name(*at as usize)))
            .collect();
        layers
            .push(LinePlot::new().with_data(points.clone()).with_color(colour).with_stroke_width(1.0).into());
        let dots = ScatterPlot::new().with_data(points).with_color(colour).with_size(4.0).with_legend(name);
        layers.push(dots.with_tooltip_labels(labels).with_tooltips().into());
    };
    add("float", FLOAT, report.front.float.as_ref()?);
    if let Some(chosen) = &report.front.chosen {
        add("chosen", CHOSEN, chosen);
    }
    // Two populations per block: att, then ffn.
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(340.0)
        .with_x_label("population: block and place, lif1 after att and lif2 after ffn")
        .with_y_label("spikes per neuron and token")
        .with_y_axis_min(0.0)
        .with_x_tick_step(if network.blocks > 8 { 4.0 } else { 1.0 })
        .with_x_tick_format(names(network.population_count()))
        .with_x_tick_rotate(-45.0)
        .with_legend_position(LegendPosition::OutsideRightTop);
    let caption = "How often a neuron of each population fires. Event-driven hardware pays for spikes.";
    Some(Plot::new("firing", "Firing rates", caption, layers, layout))
}

/// Names of populations at their places; nothing between them.
fn names(populations: usize) -> TickFormat {
    TickFormat::Custom(std::sync::Arc::new(move |at| {
        let place = at.round();
        let is_one = (at - place).abs() < 1e-6 && (0.0..populations as f64).contains(&place);
        if is_one { population_name(place as usize).replace("blocks.", "") } else { String::new() }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn every_population_is_named() {
        let report = report();
        let svg = plot(&report).unwrap().svg();
        for population in report.experiment.network.populations() {
            let name = population.replace("blocks.", "");
            assert!(svg.contains(&format!(">{name}</text>")), "{name}");
        }
    }
}
