//! The chosen bits: a row per block; of weights and activations a column per matrix, of membranes one per population.

use kuva::plot::{ColorMap, Heatmap, LegendEntry, LegendPosition, LegendShape};
use kuva::render::annotations::TextAnnotation;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use qslm_common::front_document::FrontRow;
use qslm_common::network::{EMBEDDING, HEAD, MATRICES, block_units, population_name};
use qslm_common::scheme::{Activation, Membrane, Scheme};

use super::{Plot, WIDTH};
use crate::ReportDocument;

/// Height of a row.
const ROW: f64 = 30.0;
/// Bits of what is not quantized.
const FLOAT_BITS: f64 = 32.0;
/// Shades by the bits up to which each goes, with their names in the legend; the same in every report: what is as wide looks
/// alike.
const SHADES: [(f64, &str, &str); 9] = [
    (2.0, "#08306b", "2 bits or fewer"),
    (3.0, "#2171b5", "3 bits"),
    (4.0, "#4292c6", "4 bits"),
    (5.0, "#6baed6", "5 bits"),
    (6.0, "#9ecae1", "6 bits"),
    (8.0, "#c6dbef", "7 and 8 bits"),
    (16.0, "#deebf7", "9 to 16 bits"),
    (31.0, "#eef4fb", "17 to 31 bits"),
    (f64::INFINITY, "#fbfbfb", "float"),
];
/// Bits up to which text on their shade is white.
const DARK: f64 = 3.0;

/// Weights, and activations and membranes where some are quantized; none before anything is chosen.
pub(super) fn plots(report: &ReportDocument) -> Vec<Plot> {
    let Some(chosen) = &report.front.chosen else { return Vec::new() };
    let blocks = report.experiment.network.blocks;
    let of_matrices = |bits: &dyn Fn(&str) -> f64| -> Vec<Vec<f64>> {
        (0..blocks).map(|block| block_units(block).iter().map(|unit| bits(unit)).collect()).collect()
    };
    let matrices = MATRICES.map(str::to_owned).to_vec();
    let scheme = |unit: &str| chosen.schemes.get(unit).map_or("", String::as_str).to_owned();
    let caption = format!(
        "Bits per weight of every matrix of the chosen candidate. The embedding is {}, the head {}.",
        scheme(EMBEDDING),
        scheme(HEAD)
    );
    let weights = of_matrices(&|unit| bits(chosen, unit));
    let mut plots = vec![grid("bits", "Bits of every matrix", caption, matrices.clone(), &weights)];
    if !chosen.activations.is_empty() {
        let of =
            |unit: &str| parsed(chosen.activations.get(unit), |one: Activation| f64::from(one.bits.get()));
        let caption = "Bits of what enters every matrix of the chosen candidate; 32 is float.".to_owned();
        plots.push(grid("activation-bits", "Bits of activations", caption, matrices, &of_matrices(&of)));
    }
    let of_block = |block: u32| {
        let places = report.experiment.network.populations_of(block as usize)?;
        Some(places.map(population_name))
    };
    if let Some(first) = of_block(0).filter(|_| !chosen.membranes.is_empty()) {
        let of = |name: &String| parsed(chosen.membranes.get(name), |one: Membrane| f64::from(one.bits()));
        let rows: Vec<Vec<f64>> =
            (0..blocks).filter_map(of_block).map(|names| names.iter().map(of).collect()).collect();
        let columns = first.map(|name| name.trim_start_matches("blocks.0.").to_owned()).to_vec();
        let caption =
            "Bits of membrane potentials of the chosen candidate, by population; 32 is float.".to_owned();
        plots.push(grid("membrane-bits", "Bits of membranes", caption, columns, &rows));
    }
    plots
}

/// Grid of bits, a row per block.
fn grid(
    name: &'static str,
    title: &'static str,
    caption: String,
    columns: Vec<String>,
    rows: &[Vec<f64>],
) -> Plot {
    // The first row is drawn at the bottom.
    let data: Vec<Vec<f64>> = rows.iter().rev().cloned().collect();
    let names: Vec<String> = (0..rows.len()).rev().map(|block| format!("block {block}")).collect();
    let all = || rows.iter().flatten().copied();
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    // The library gives shares of what is there; shades are by bits.
    let colour = move |share: f64| shade(least + share * (most - least)).to_owned();
    let map = Heatmap::new()
        .with_data(data)
        .with_color_map(ColorMap::Custom(std::sync::Arc::new(colour)))
        .with_labels(names.clone(), columns.clone())
        .with_tooltips();
    let layers: Vec<Layer> = vec![map.into()];
    let mut layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(130.0 + ROW * rows.len() as f64)
        .with_x_categories(columns)
        .with_y_categories(names)
        .with_legend_entries(legend())
        .with_legend_position(LegendPosition::OutsideBottomColumns)
        .with_tick_size(11);
    // The legend has the shades; a bar would have all between two widths, which nothing has.
    layout.show_colorbar = false;
    for (block, row) in rows.iter().enumerate() {
        for (column, bits) in row.iter().enumerate() {
            // Categories lie at 1, 2, ..., the first block at the top; text stands a little above its place.
            let (x, y) = (column as f64 + 1.0, rows.len() as f64 - block as f64 - 0.2);
            layout = layout.with_annotation(TextAnnotation::new(format!("{bits}"), x, y));
        }
    }
    // Of all texts of the picture only the numbers in the cells are numbers.
    let is_dark = |text: &str| text.parse().is_ok_and(|bits: f64| bits <= DARK);
    Plot::new(name, title, caption, layers, layout).with_white_texts(is_dark)
}

/// The shades with their names, all of them in every picture.
fn legend() -> Vec<LegendEntry> {
    let entry = |(_, shade, name): &(f64, &str, &str)| LegendEntry {
        label: (*name).to_owned(),
        color: (*shade).to_owned(),
        shape: LegendShape::Rect,
        dasharray: None,
    };
    SHADES.iter().map(entry).collect()
}

/// Shade of a number of bits; rounding of shares makes no other of it.
fn shade(bits: f64) -> &'static str {
    let shade = SHADES.iter().find(|(most, ..)| bits <= most + 1e-6);
    shade.map_or(SHADES[SHADES.len() - 1].1, |(_, shade, _)| shade)
}

/// Bits per weight of a unit.
fn bits(row: &FrontRow, unit: &str) -> f64 {
    parsed(row.schemes.get(unit), Scheme::bits_about)
}

/// Bits of a scheme as it is written; those of a float where none is.
fn parsed<T: std::str::FromStr>(text: Option<&String>, bits: impl Fn(T) -> f64) -> f64 {
    text.and_then(|text| text.parse().ok()).map_or(FLOAT_BITS, bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn a_width_has_one_shade_whatever_lies_beside_it() {
        assert_eq!(shade(2.0), shade(1.6));
        assert_eq!(shade(3.999_999_99), shade(4.0));
        let shades: std::collections::BTreeSet<_> = SHADES.iter().map(|(_, shade, _)| shade).collect();
        assert_eq!(shades.len(), SHADES.len());
        let cell = |bits: f64| format!("fill=\"{}\"", shade(bits));
        let fill = |report: &ReportDocument| plots(report)[0].svg();
        let mut report = report();
        let chosen = report.front.chosen.as_mut().unwrap();
        chosen.schemes.values_mut().for_each(|scheme| *scheme = "int4:symmetric:channel".to_owned());
        let svg = fill(&report);
        // The legend has every shade once, whatever is chosen.
        assert!(svg.matches(&cell(4.0)).count() > 2, "all of them are as wide: {svg}");
        assert!(
            SHADES
                .iter()
                .all(|(_, shade, name)| svg.contains(shade) && svg.contains(&format!(">{name}</text>")))
        );
        let unit = block_units(0)[0].clone();
        report.front.chosen.as_mut().unwrap().schemes.insert(unit, "int2:symmetric:channel".to_owned());
        let before = svg.matches(&cell(2.0)).count();
        let svg = fill(&report);
        assert!(svg.matches(&cell(2.0)).count() > before && svg.matches(&cell(4.0)).count() > 2);
        let number =
            |bits: &str| svg.split("<text").find(|text| text.contains(&format!(">{bits}</text>"))).unwrap();
        assert!(number("2").contains("#ffffff") && !number("4").contains("#ffffff"), "{svg}");
    }

    #[test]
    fn activations_and_membranes_have_a_grid_where_they_are_quantized() {
        let mut report = report();
        let names = |report: &ReportDocument| plots(report).iter().map(|plot| plot.name).collect::<Vec<_>>();
        assert_eq!(names(&report), ["bits"]);
        let chosen = report.front.chosen.as_mut().unwrap();
        chosen.activations.insert(block_units(0)[0].clone(), "int5:affine:dynamic".to_owned());
        chosen.membranes.insert(population_name(1), "fixed7:2".to_owned());
        assert_eq!(names(&report), ["bits", "activation-bits", "membrane-bits"]);
        let [_, activations, membranes] = &plots(&report)[..] else { panic!("three") };
        assert!(activations.svg().contains(">5</text>") && activations.svg().contains(">32</text>"));
        assert!(membranes.svg().contains(">7</text>") && membranes.svg().contains(">lif2</text>"));
        report.front.chosen = None;
        assert!(plots(&report).is_empty());
    }
}
