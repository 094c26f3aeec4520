//! The chosen bits: a row per block, a column per matrix.

use kuva::plot::{ColorMap, Heatmap};
use kuva::render::annotations::TextAnnotation;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::front_document::FrontRow;
use qslm_common::network::{EMBEDDING, HEAD, MATRICES, block_units};
use qslm_common::scheme::Scheme;

use super::{Plot, WIDTH};
use crate::ReportDocument;

/// Height of a row.
const ROW: f64 = 30.0;

/// `None` before anything is chosen.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let chosen = report.front.chosen.as_ref()?;
    let blocks = report.experiment.network.blocks;
    let rows: Vec<_> = (0..blocks).map(|block| block_units(block).map(|unit| bits(chosen, &unit))).collect();
    // The first row is drawn at the bottom.
    let data: Vec<Vec<f64>> = rows.iter().rev().map(|row| row.to_vec()).collect();
    let names: Vec<String> = (0..blocks).rev().map(|block| format!("block {block}")).collect();
    let map = Heatmap::new()
        .with_data(data)
        .with_color_map(ColorMap::Custom(std::sync::Arc::new(blue)))
        .with_legend("bits");
    let map = map.with_labels(names.clone(), MATRICES.map(str::to_owned).to_vec()).with_tooltips();
    let layers: Vec<Layer> = vec![map.into()];
    let mut layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(130.0 + ROW * f64::from(blocks))
        .with_x_categories(MATRICES.map(str::to_owned).to_vec())
        .with_y_categories(names)
        .with_tick_size(11);
    for (block, row) in rows.iter().enumerate() {
        for (matrix, bits) in row.iter().enumerate() {
            // Categories lie at 1, 2, ..., the first block at the top; text stands a little above its place.
            let (x, y) = (matrix as f64 + 1.0, f64::from(blocks) - block as f64 - 0.2);
            layout = layout.with_annotation(TextAnnotation::new(format!("{bits}"), x, y));
        }
    }
    let scheme = |unit: &str| chosen.schemes.get(unit).map_or("", String::as_str).to_owned();
    let caption = format!(
        "Bits per weight of every matrix of the chosen candidate. The embedding is {}, the head {}.",
        scheme(EMBEDDING),
        scheme(HEAD)
    );
    Some(Plot::new("bits", "Bits of every matrix", caption, layers, layout))
}

/// Shade from nearly white to a blue on which black text can be read.
fn blue(share: f64) -> String {
    let between = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", between(240.0, 110.0), between(246.0, 170.0), between(252.0, 222.0))
}

/// Bits per weight of a unit.
fn bits(row: &FrontRow, unit: &str) -> f64 {
    let scheme = row.schemes.get(unit).and_then(|scheme| scheme.parse::<Scheme>().ok());
    scheme.map_or(32.0, Scheme::bits_about)
}
