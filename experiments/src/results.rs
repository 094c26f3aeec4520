//! The result of an experiment as tables.

use comfy_table::CellAlignment;
use qslm_common::cost::Cost;
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::network::{EMBEDDING, HEAD, MATRICES, block_units};
use qslm_common::quality::Quality;
use qslm_report::words::{costs, interval, interval_clause, quality};

use crate::output::plain_table;

/// The front, the chosen candidate and its schemes.
pub fn tables(document: &FrontDocument) -> String {
    let mut text = front_table(document);
    if let Some(hypervolume) = document.hypervolume {
        let measured = document.measured;
        let racing = document.racing.map_or(String::new(), |racing| {
            format!(" or pruned (racing: {racing}; those that lose too much are not shown)")
        });
        text.push_str(&format!("\n{measured} candidates measured{racing}, hypervolume {hypervolume:.4}\n"));
    }
    match &document.chosen {
        Some(chosen) => {
            text.push_str(&chosen_tables(chosen));
            text.push_str(&cost_table(document.float.as_ref(), chosen));
        }
        None => text.push_str("\nNo candidate meets the constraints.\n"),
    }
    text
}

fn front_table(document: &FrontDocument) -> String {
    let mut table = plain_table();
    table.set_header([
        "",
        "candidate",
        "bytes",
        "saved %",
        quality_name(document),
        "loss %",
        "95 % interval",
        "uJ/token",
        "spikes",
        "trade-off",
    ]);
    for column in 2..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let chosen = document.chosen.as_ref().map(|row| row.candidate);
    for row in &document.front {
        let mark = if Some(row.candidate) == chosen { "*" } else { "" };
        table.add_row([
            mark.to_owned(),
            row.candidate.short(),
            row.footprint_bytes.to_string(),
            format!("{:.2}", row.saving * 100.0),
            quality(row),
            row.quality_loss.map_or(String::new(), |loss| format!("{:+.2}", loss * 100.0)),
            interval(row.quality_loss_interval),
            row.costs.get(&Cost::Energy).map_or(String::new(), |joules| format!("{:.1}", joules * 1e6)),
            format!("{:.4}", row.firing_rate),
            row.trade_off.map_or(String::new(), |value| format!("{value:.4}")),
        ]);
    }
    format!("Front of {} (* chosen)\n\n{table}\n", document.experiment)
}

fn chosen_tables(row: &FrontRow) -> String {
    let loss = row.quality_loss.unwrap_or(0.0) * 100.0;
    let sure = interval_clause(row.quality_loss_interval);
    let mut text = format!(
        "\nChosen: {}\n  {} bytes, {:.2} % saved, {} {} ({loss:+.2} %{sure})\n\n",
        row.candidate.short(),
        row.footprint_bytes,
        row.saving * 100.0,
        row.quality().name(),
        quality(row),
    );
    text.push_str(&scheme_table(row));
    text
}

/// Costs of the chosen candidate beside the float model.
fn cost_table(float: Option<&FrontRow>, chosen: &FrontRow) -> String {
    let mut table = plain_table();
    table.set_header(["  cost", "float", "chosen", "", "unit"]);
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for [cost, before, after, change, unit] in costs(float, chosen) {
        table.add_row([format!("  {cost}"), before, after, change, unit]);
    }
    format!("\n{table}\n")
}

/// Embedding and head on a line each, then a line per block with a column per matrix, each with the width of
/// its activations if they are quantized; membranes last.
fn scheme_table(row: &FrontRow) -> String {
    let of = |unit: &str| row.schemes.get(unit).map_or("", String::as_str);
    // Symmetry and granularity are the same everywhere; the width is what differs.
    let width = |scheme: &str| scheme.split(':').next().unwrap_or(scheme).to_owned();
    let mut table = plain_table();
    table.set_header(std::iter::once("").chain(MATRICES));
    for block in 0.. {
        let cell = |unit: String| match row.activations.get(&unit) {
            Some(activation) => format!("{} x {}", width(of(&unit)), width(activation)),
            None => width(of(&unit)),
        };
        let cells = block_units(block).map(cell);
        if cells[0].is_empty() {
            break;
        }
        table.add_row(std::iter::once(format!("blocks.{block}")).chain(cells));
    }
    let mut text = format!("  emb {}, head {}", of(EMBEDDING), of(HEAD));
    if let Some(activation) = row.activations.get(HEAD) {
        text.push_str(&format!(" x {}", width(activation)));
    }
    if let Some(vectors) = &row.vectors {
        text.push_str(&format!(", one-dimensional parameters {vectors}"));
    }
    text.push_str(&format!("\n\n{table}\n"));
    if !row.membranes.is_empty() {
        let membranes: Vec<_> =
            row.membranes.iter().map(|(name, scheme)| format!("{name} {scheme}")).collect();
        text.push_str(&format!("\n  membranes: {}\n", membranes.join(", ")));
    }
    text
}

fn quality_name(document: &FrontDocument) -> &'static str {
    document.float.as_ref().map_or(Quality::Perplexity, FrontRow::quality).name()
}
