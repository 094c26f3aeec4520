//! Plot of where the energy goes: arithmetic and memory, of the float model and the chosen candidate.

use kuva::plot::{BarPlot, LegendPosition};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::cost::Cost;
use qslm_common::front_document::FrontRow;

use super::{COLOURS, Plot, WIDTH};
use crate::ReportDocument;
use crate::words::with_unit;

/// Costs that add up to [`Cost::Energy`].
const PARTS: [(Cost, &str); 4] = [
    (Cost::EnergyArithmetic, "arithmetic"),
    (Cost::EnergyRegisters, "registers"),
    (Cost::EnergySram, "SRAM"),
    (Cost::EnergyDram, "DRAM"),
];

/// `None` before anything is chosen.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let (float, chosen) = (report.front.float.as_ref()?, report.front.chosen.as_ref()?);
    let microjoules = |row: &FrontRow| {
        let of = |(cost, _): &(Cost, &str)| row.costs.get(cost).map(|joules| joules * 1e6);
        let parts: Option<Vec<f64>> = PARTS.iter().map(of).collect();
        parts.map(|parts| parts.into_iter().zip(COLOURS).collect::<Vec<(f64, &str)>>())
    };
    let named = |name: &str, row: &FrontRow| {
        let all = row.costs.get(&Cost::Energy).map_or(String::new(), |joules| with_unit(*joules, "J"));
        format!("{name} {all}")
    };
    let bars = BarPlot::new()
        .with_group(named("chosen", chosen), microjoules(chosen)?)
        .with_group(named("float", float), microjoules(float)?)
        .with_legend(PARTS.map(|(_, name)| name).to_vec())
        .with_stacked()
        .with_horizontal(true);
    let layers: Vec<Layer> = vec![bars.with_tooltips().into()];
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(260.0)
        .with_x_label("microjoules per token")
        .with_legend_position(LegendPosition::OutsideRightTop);
    let caption = "Energy per token by the model of the device in the spec: arithmetic by the measured firing rates and the \
                   bits of weights, memory traffic by the bytes that move.";
    Some(Plot::new("energy", "Where the energy goes", caption, layers, layout))
}
