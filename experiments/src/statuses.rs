//! Table of experiments, as wide as a terminal is: columns that say nothing go first, then the middle of long names.

use std::io::IsTerminal;

use comfy_table::Table;
use qslm_common::hash::ContentHash;
use qslm_proto::v1::{Best, ExperimentStatus};
use qslm_report::words::{grouped, hundredths, rate, signed};

use crate::fit::shorten;
use crate::output::{align_right, plain_table};
use crate::progress::state;

/// Heading of a column, and whether it has numbers.
type Column = (&'static str, bool);

const USUAL: [Column; 9] = [
    ("experiment", false),
    ("state", false),
    ("stage", false),
    ("measured", true),
    ("failed", true),
    ("front", true),
    ("saved %", true),
    ("loss %", true),
    ("workers", true),
];
/// Columns of a wide table beside these.
const MORE: [Column; 10] = [
    ("priority", true),
    ("suitable", true),
    ("set aside", true),
    ("pruned", true),
    ("evaluated", true),
    ("shards out", true),
    ("waiting", true),
    ("tokens/s", true),
    ("hypervolume", true),
    ("best", true),
];
/// Columns that are left out where there is no room, the first one first.
const LEFT_OUT: [&str; 5] = ["failed", "workers", "stage", "front", "measured"];
/// Letters of a name for which columns are left out, and those that stay where nothing else can give way.
const READABLE: usize = 18;
const SHORTEST: usize = 10;

/// Letters on a line of the terminal that standard output is; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    let size = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
    size.and_then(Result::ok).map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// The table of `all`; within `width` letters, if that is given, as far as numbers can be read there.
pub fn table(all: &[ExperimentStatus], wide: bool, width: Option<usize>) -> Table {
    let mut columns: Vec<Column> = USUAL.iter().chain(if wide { &MORE[..] } else { &[] }).copied().collect();
    let mut rows: Vec<Vec<String>> = all.iter().map(|status| cells(status, wide)).collect();
    let Some(width) = width else { return drawn(&columns, &rows) };
    // What says nothing of any of them goes before what does.
    let says_nothing = |cell: &String| cell.is_empty() || cell == "0";
    for only_empty in [true, false] {
        for name in LEFT_OUT {
            let Some(at) = columns.iter().position(|(known, _)| *known == name) else { continue };
            let is_empty = rows.iter().all(|row| says_nothing(&row[at]));
            let keeps_name = letters(&columns, &rows).saturating_sub(spare(&rows)) > width;
            let goes = if only_empty { is_empty && letters(&columns, &rows) > width } else { keeps_name };
            if goes {
                columns.remove(at);
                rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
    }
    let over = letters(&columns, &rows).saturating_sub(width);
    let longest = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
    let room = longest.saturating_sub(over).max(SHORTEST);
    rows.iter_mut().for_each(|row| row[0] = shorten(&row[0], room));
    drawn(&columns, &rows)
}

/// Letters of a line at most.
fn letters(columns: &[Column], rows: &[Vec<String>]) -> usize {
    drawn(columns, rows).lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// Letters by which names can be shortened before columns are left out.
fn spare(rows: &[Vec<String>]) -> usize {
    let longest = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
    longest.saturating_sub(READABLE)
}

fn drawn(columns: &[Column], rows: &[Vec<String>]) -> Table {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|(name, _)| *name));
    table.add_rows(rows);
    align_right(&mut table, |place| columns[place].1);
    table
}

fn cells(status: &ExperimentStatus, wide: bool) -> Vec<String> {
    let best = |f: fn(&Best) -> String| status.best.as_ref().map_or(String::new(), f);
    let mut row = vec![
        status.id.clone(),
        state(status),
        status.stage.clone(),
        grouped(status.measured),
        grouped(status.failed),
        grouped(status.front.into()),
        best(|best| hundredths(best.saving)),
        best(|best| signed(best.quality_loss)),
        grouped(status.workers.into()),
    ];
    if wide {
        row.extend([
            status.priority.to_string(),
            grouped(status.suitable_workers.into()),
            grouped(status.set_aside_workers.into()),
            grouped(status.stopped),
            grouped(status.evaluated),
            grouped(status.shards_leased.into()),
            grouped(status.shards_pending.into()),
            rate(status.tokens_per_second),
            status.hypervolume.map_or(String::new(), |volume| format!("{volume:.4}")),
            best(|best| {
                let id = <[u8; 32]>::try_from(&best.candidate[..]);
                id.map_or(String::new(), |id| ContentHash::from_bytes(id).short())
            }),
        ]);
    }
    row
}

#[cfg(test)]
mod tests {
    use qslm_proto::v1::experiment_status::State;

    use super::*;

    fn status(id: &str, failed: u64) -> ExperimentStatus {
        ExperimentStatus {
            id: id.to_owned(),
            state: State::Finished.into(),
            stage: "matrix".to_owned(),
            measured: 90,
            failed,
            front: 16,
            best: Some(Best { saving: 0.8981, quality_loss: -0.000_01, ..Default::default() }),
            ..Default::default()
        }
    }

    fn text(all: &[ExperimentStatus], width: Option<usize>) -> String {
        table(all, false, width).to_string()
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal() {
        let long = "a-name-that-nobody-would-want-to-type-twice-1a2b3c4d5e6f";
        let all = [status(long, 0), status("plain-0123456789ab", 0)];
        let whole = text(&all, None);
        assert!(whole.contains(long) && whole.contains("workers"));
        for width in [40, 60, 80, 100, 120, 200] {
            let text = text(&all, Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.contains("89.81") && text.contains("finished") && text.contains("d5e6f"), "{text}");
        }
        assert_eq!(text(&all, Some(200)), whole);
        assert!(!text(&all, Some(80)).contains("failed"), "nothing has failed");
        assert!(text(&[status(long, 3)], Some(80)).contains("failed"), "names give way to what is told");
    }

    #[test]
    fn what_rounds_to_nothing_has_no_minus() {
        assert!(!text(&[status("plain", 0)], None).contains('-'));
    }
}
