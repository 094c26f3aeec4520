//! The result of an experiment as tables.

use qslm_common::cost::Cost;
use qslm_common::front_document::{FrontDocument, FrontRow, TaskRow};
use qslm_common::network::{EMBEDDING, HEAD, MATRICES, block_units};
use qslm_common::quality::Quality;
use qslm_common::tasks::TaskName;
use qslm_common::unmet::Unmet;
use qslm_report::words::{
    bytes, costs, grouped, interval, interval_clause, loss, lost, lost_heading, quality, signed, task_quality,
};
use qslm_report::{gain, unmet};

use crate::output::{align_right, plain_table};

/// What the columns and the hypervolume mean, in a line each.
const LEGEND: &str = "  spikes: per neuron and token; trade-off: the chosen candidate has the largest that the constraints allow\n  \
                      hypervolume: the share of the box between nothing and the float model that the front dominates\n";

/// The front, the chosen candidate and its schemes.
pub fn tables(document: &FrontDocument) -> String {
    let mut text = front_table(document);
    if let Some(hypervolume) = document.hypervolume {
        let measured = document.measured;
        let racing = document.racing.map_or(String::new(), |racing| {
            format!(" or pruned (racing: {racing}; those that lose too much are not shown)")
        });
        text.push_str(&format!("\n{measured} candidates measured{racing}, hypervolume {hypervolume:.4}\n"));
        text.push_str(LEGEND);
    }
    match &document.chosen {
        Some(chosen) => {
            text.push_str(&chosen_tables(chosen));
            text.push_str(&cost_table(document.float.as_ref(), chosen));
        }
        None => text.push_str(&format!("\n{}\n", capitalized(&unmet_line(&document.unmet)))),
    }
    text.push_str(&uniform_table(document));
    text
}

/// `no candidate meets the constraints`, and what is nearest to each bound.
pub fn unmet_line(unmet: &[Unmet]) -> String {
    let sentences = unmet::sentences(unmet);
    let more = if sentences.is_empty() { String::new() } else { format!(". {sentences}") };
    format!("no candidate meets the constraints{more}")
}

fn capitalized(line: &str) -> String {
    let mut letters = line.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

/// Uniform candidates beside the smallest of the front that lose no more, and what the search bought by that.
fn uniform_table(document: &FrontDocument) -> String {
    let gains = gain::gains(document);
    if gains.is_empty() {
        return String::new();
    }
    let mut table = plain_table();
    table.set_header([
        "  beside it",
        "candidate",
        "bytes",
        quality_of(document).name(),
        lost_heading(quality_of(document)),
        "95 % interval",
        "at no more loss",
        "bytes",
        "fewer",
    ]);
    align_right(&mut table, |place| [2, 3, 4, 5, 7, 8].contains(&place));
    for one in gains {
        let row = &one.uniform.row;
        let better = one.better.map(|better| (better.candidate.short(), grouped(better.footprint_bytes)));
        let (better, size) = better.unwrap_or_else(|| ("-".to_owned(), String::new()));
        let fewer = if one.better.is_some() { grouped(one.fewer_bytes()) } else { String::new() };
        table.add_row([
            format!("  {}", gain::name(one.uniform, document)),
            row.candidate.short(),
            grouped(row.footprint_bytes),
            quality(row),
            hundredths(row),
            interval(row.quality_loss_interval),
            better,
            size,
            fewer,
        ]);
    }
    format!("\n{table}\n\n{}\n", gain::sentence(document))
}

/// Loss in hundredths with its sign.
fn hundredths(row: &FrontRow) -> String {
    row.quality_loss.map_or(String::new(), signed)
}

fn front_table(document: &FrontDocument) -> String {
    let mut table = plain_table();
    let mut header = vec![
        "",
        "candidate",
        "bytes",
        "saved %",
        quality_of(document).name(),
        lost_heading(quality_of(document)),
        "95 % interval",
        "uJ/token",
        "spikes",
        "trade-off",
    ];
    // Where the experiment asks for it.
    let has_kl = document.float.iter().chain(&document.front).any(|row| row.kl.is_some());
    header.extend(has_kl.then_some("kl"));
    let tasks: Vec<TaskName> = document.float.iter().flat_map(|row| row.tasks.keys().copied()).collect();
    let on_tasks: Vec<[String; 2]> =
        tasks.iter().map(|name| [name.to_string(), format!("{name} lost %")]).collect();
    header.extend(on_tasks.iter().flatten().map(String::as_str));
    let numbers = 2..header.len();
    header.push("");
    table.set_header(header);
    align_right(&mut table, |place| numbers.contains(&place));
    let chosen = document.chosen.as_ref().map(|row| row.candidate);
    for row in &document.front {
        let uniform = document.uniform.iter().find(|uniform| uniform.row.candidate == row.candidate);
        let mark = if Some(row.candidate) == chosen { "*" } else { "" };
        let mut cells = vec![
            mark.to_owned(),
            row.candidate.short(),
            grouped(row.footprint_bytes),
            format!("{:.2}", row.saving * 100.0),
            quality(row),
            hundredths(row),
            interval(row.quality_loss_interval),
            row.costs.get(&Cost::Energy).map_or(String::new(), |joules| format!("{:.1}", joules * 1e6)),
            row.firing_rate.map_or("no spikes".to_owned(), |rate| format!("{rate:.4}")),
            row.trade_off.map_or(String::new(), |value| format!("{value:.4}")),
        ];
        cells.extend(has_kl.then(|| row.kl.map_or(String::new(), |kl| format!("{kl:.4}"))));
        cells.extend(
            tasks.iter().flat_map(|name| row.tasks.get(name).map_or([const { String::new() }; 2], on_task)),
        );
        cells.push(uniform.map_or(String::new(), |uniform| gain::name(uniform, document)));
        table.add_row(cells);
    }
    format!("Front of {} (* chosen)\n\n{table}\n", document.experiment)
}

/// Quality on a further task, and what of it is lost in hundredths.
fn on_task(task: &TaskRow) -> [String; 2] {
    [task_quality(task), task.quality_loss.map_or(String::new(), signed)]
}

fn chosen_tables(row: &FrontRow) -> String {
    let (loss, sure) = (loss(row), interval_clause(row.quality_loss_interval));
    let mut text = format!(
        "\nChosen: {}\n  {}, {:.2} % saved, {} {} ({loss}{sure})\n\n",
        row.candidate.short(),
        bytes(row.footprint_bytes),
        row.saving * 100.0,
        row.quality().name(),
        quality(row),
    );
    if let Some(kl) = row.kl {
        text.push_str(&format!("  divergence from the float model {kl:.4} nats\n\n"));
    }
    for (name, task) in &row.tasks {
        let ([value, _], quality) = (on_task(task), task.quality());
        let loss = task.quality_loss.map_or(String::new(), |loss| lost(quality, loss));
        let sure = interval_clause(task.quality_loss_interval);
        text.push_str(&format!("  {name}: {} {value} ({loss}{sure})\n\n", quality.name()));
    }
    text.push_str(&scheme_table(row));
    text
}

/// Costs of the chosen candidate beside the float model.
fn cost_table(float: Option<&FrontRow>, chosen: &FrontRow) -> String {
    let mut table = plain_table();
    table.set_header(["  cost", "float", "chosen", ""]);
    align_right(&mut table, |place| (1..4).contains(&place));
    for [cost, before, after, change] in costs(float, chosen) {
        table.add_row([format!("  {cost}"), before, after, change]);
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

fn quality_of(document: &FrontDocument) -> Quality {
    document.float.as_ref().map_or(Quality::Perplexity, FrontRow::quality)
}
