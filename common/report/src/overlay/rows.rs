//! Experiments side by side as rows of words, the same on a page and in a terminal.

use qslm_common::front_document::FrontRow;

use super::{Budget, Limit, Overlaid, OverlayDocument};
use crate::gain;
use crate::words::{bytes, grouped, interval, lost_at_most, lost_briefly, percent, quality};

/// Headings of [`experiments`].
pub const EXPERIMENTS: [&str; 10] = [
    "experiment",
    "state",
    "measured",
    "on the front",
    "hypervolume",
    "chosen",
    "bytes",
    "quality",
    "loss",
    "fewer bytes than uniform",
];

/// Headings of [`budget`].
pub const BUDGET: [&str; 7] = ["", "experiment", "candidate", "bytes", "saved", "loss", "95 % interval"];

/// A row per experiment.
pub fn experiments(document: &OverlayDocument) -> Vec<[String; EXPERIMENTS.len()]> {
    let row = |one: &Overlaid| {
        let of_chosen =
            |words: &dyn Fn(&FrontRow) -> String| one.front.chosen.as_ref().map_or(String::new(), words);
        let loss =
            |row: &FrontRow| row.quality_loss.map_or(String::new(), |loss| lost_briefly(row.quality(), loss));
        [
            one.label.clone(),
            one.state.name().to_owned(),
            grouped(one.front.measured as u64),
            grouped(one.front.front.len() as u64),
            one.front.hypervolume.map_or(String::new(), |volume| format!("{volume:.4}")),
            of_chosen(&|row| row.candidate.short()),
            of_chosen(&|row| grouped(row.footprint_bytes)),
            of_chosen(&quality),
            of_chosen(&loss),
            gain::reference(&one.front).map_or("-".to_owned(), |gain| grouped(gain.fewer_bytes())),
        ]
    };
    document.experiments.iter().map(row).collect()
}

/// Sentence about what a budget allows and by what candidates within it are compared.
pub fn title(document: &OverlayDocument, limit: Limit) -> String {
    match limit {
        Limit::FootprintBytes(most) => format!("Within {}: the least loss", bytes(most)),
        Limit::QualityLoss(most) => {
            format!("Within {}: the fewest bytes", lost_at_most(document.quality(), most))
        }
    }
}

/// A row per experiment within a budget; the best is marked by a star.
pub fn budget(document: &OverlayDocument, budget: &Budget) -> Vec<[String; BUDGET.len()]> {
    let rows = document.experiments.iter().zip(&budget.best).map(|(one, best)| {
        let mark = if best.is_best { "*" } else { "" };
        let [candidate, size, saved, loss, sure] = match best.candidate {
            Some(found) => [
                found.candidate.short(),
                grouped(found.footprint_bytes),
                percent(found.saving),
                lost_briefly(document.quality(), found.quality_loss),
                interval(found.quality_loss_interval),
            ],
            None => ["none".to_owned(), String::new(), String::new(), String::new(), String::new()],
        };
        [mark.to_owned(), one.label.clone(), candidate, size, saved, loss, sure]
    });
    rows.collect()
}
