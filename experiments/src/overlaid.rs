//! Experiments side by side as tables of a terminal.

use qslm_report::overlay::{OverlayDocument, rows};

use crate::output::{align_right, plain_table};

/// A row per experiment, then what each has within every budget.
pub fn tables(document: &OverlayDocument) -> String {
    let mut text = String::new();
    for note in &document.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    let mut table = plain_table();
    table.set_header(rows::EXPERIMENTS).add_rows(rows::experiments(document));
    align_right(&mut table, |place| [2, 3, 4, 6, 7, 8, 9].contains(&place));
    text.push_str(&format!("\n{table}\n"));
    for budget in &document.budgets {
        let mut table = plain_table();
        table.set_header(rows::BUDGET).add_rows(rows::budget(document, budget));
        align_right(&mut table, |place| (3..7).contains(&place));
        text.push_str(&format!("\n{}\n{table}\n", rows::title(document, budget.limit)));
    }
    text
}
