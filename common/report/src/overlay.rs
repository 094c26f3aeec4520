//! Experiments side by side: their fronts in one document, and which of them is best within a budget.
//!
//! Losses and savings are against each experiment's own float model, so experiments of one quality can be laid over each
//! other; what else differs between them is said.

pub mod page;
pub mod rows;

use qslm_common::candidate::CandidateId;
use qslm_common::footprint::{float_bytes, saving};
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::quality::Quality;
use serde::{Deserialize, Serialize};

use crate::{FORMAT, Lifecycle, ReportDocument};

/// Experiments that a picture keeps apart: by colour, then by dashes.
pub const MOST_EXPERIMENTS: usize = 21;
/// Loss of a uniform candidate up to which its bytes are a budget that somebody may have.
const USABLE: f64 = 0.5;

/// Experiments side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that laid them over each other.
    pub version: String,
    /// Experiments, in the order in which they were named.
    pub experiments: Vec<Overlaid>,
    /// Budgets, those of bytes first, each by rising limit.
    pub budgets: Vec<Budget>,
    /// Notes about what differs between the experiments and may not be laid to their strategies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Experiment among others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlaid {
    /// Id.
    pub id: String,
    /// Name with its strategy, and with the beginning of the id where others are called the same.
    pub label: String,
    /// Strategy, by its word in a spec.
    pub strategy: String,
    /// State: under way, or at an end.
    pub state: Lifecycle,
    /// Its front, the float model, and what was chosen.
    pub front: FrontDocument,
}

/// Budget with the best that each experiment has within it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Limit.
    pub limit: Limit,
    /// Best candidate of each experiment, in the order of the experiments.
    pub best: Vec<Best>,
}

/// Limit of a budget: on one side of the plane, so that the other side is compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Largest footprint; the least loss is best.
    FootprintBytes(u64),
    /// Largest loss of quality; the fewest bytes are best.
    QualityLoss(f64),
}

/// Best candidate of an experiment within a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Id of the experiment.
    pub experiment: String,
    /// True if no other experiment has a better one.
    pub is_best: bool,
    /// Candidate; absent where the front of the experiment has none within the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Found>,
}

/// Candidate that was found within a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Id.
    pub candidate: CandidateId,
    /// Bytes as the exported file stores them.
    pub footprint_bytes: u64,
    /// Share of the float bytes that is saved.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub quality_loss: f64,
    /// 95 % interval of the loss, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_loss_interval: Option<(f64, f64)>,
}

/// Reasons why experiments cannot be laid over each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotComparable {
    /// An experiment twice.
    #[error("{0} is named twice")]
    Twice(String),
    /// Qualities that are no measure of each other.
    #[error("{first} measures {of_first} and {other} {of_other}: their losses cannot be compared")]
    Quality {
        /// Id of the first experiment.
        first: String,
        /// Its quality.
        of_first: &'static str,
        /// Id of the other one.
        other: String,
        /// Its quality.
        of_other: &'static str,
    },
    /// More than can be told apart.
    #[error("{0} experiments: expected at most {MOST_EXPERIMENTS}")]
    TooMany(usize),
}

impl OverlayDocument {
    /// Lays experiments over each other, with the best of each within `budgets`, in bytes, and within the bounds of their own
    /// constraints. Without any number of bytes these are what the uniform candidates take.
    ///
    /// # Errors
    /// [`NotComparable`] says why.
    pub fn new(reports: &[ReportDocument], budgets: &[u64]) -> Result<Self, NotComparable> {
        if reports.len() > MOST_EXPERIMENTS {
            return Err(NotComparable::TooMany(reports.len()));
        }
        for (at, report) in reports.iter().enumerate() {
            let quality = |report: &ReportDocument| report.experiment.task.quality();
            let first = &reports[0];
            if reports[..at].iter().any(|before| before.id == report.id) {
                return Err(NotComparable::Twice(report.id.clone()));
            }
            if quality(report) != quality(first) {
                return Err(NotComparable::Quality {
                    first: first.id.clone(),
                    of_first: quality(first).name(),
                    other: report.id.clone(),
                    of_other: quality(report).name(),
                });
            }
        }
        let experiments = labels(reports).into_iter().zip(reports).map(|(label, report)| Overlaid {
            id: report.id.clone(),
            label,
            strategy: report.experiment.strategy.kind().to_owned(),
            state: report.state,
            front: report.front.clone(),
        });
        let experiments: Vec<Overlaid> = experiments.collect();
        let budgets = limits(reports, budgets).into_iter().map(|limit| Budget::new(limit, &experiments));
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            budgets: budgets.collect(),
            experiments,
            notes: notes(reports),
        })
    }

    /// Quality that all of them measure.
    pub fn quality(&self) -> Quality {
        let rows = self.experiments.iter().filter_map(|one| one.front.float.as_ref());
        rows.map(FrontRow::quality).next().unwrap_or(Quality::Perplexity)
    }
}

impl Budget {
    fn new(limit: Limit, experiments: &[Overlaid]) -> Self {
        let found: Vec<Option<Found>> = experiments.iter().map(|one| limit.best_of(&one.front)).collect();
        let best = found.iter().flatten().map(|found| limit.order(found)).min_by(f64::total_cmp);
        let best = experiments.iter().zip(&found).map(|(one, found)| Best {
            experiment: one.id.clone(),
            is_best: found.as_ref().zip(best).is_some_and(|(found, best)| limit.order(found) <= best),
            candidate: *found,
        });
        Self { limit, best: best.collect() }
    }
}

impl Limit {
    /// Number by which candidates within the limit are compared; smaller is better.
    fn order(self, found: &Found) -> f64 {
        match self {
            Self::FootprintBytes(_) => found.quality_loss,
            Self::QualityLoss(_) => found.footprint_bytes as f64,
        }
    }

    fn allows(self, found: &Found) -> bool {
        match self {
            Self::FootprintBytes(most) => found.footprint_bytes <= most,
            Self::QualityLoss(most) => found.quality_loss <= most,
        }
    }

    /// Best candidate of a front within the limit; of equal ones the one that is better on the other side, too.
    fn best_of(self, front: &FrontDocument) -> Option<Found> {
        let found = front.front.iter().filter_map(Found::of).filter(|found| self.allows(found));
        found.min_by(|a, b| {
            let other =
                a.quality_loss.total_cmp(&b.quality_loss).then(a.footprint_bytes.cmp(&b.footprint_bytes));
            self.order(a).total_cmp(&self.order(b)).then(other)
        })
    }
}

impl Found {
    fn of(row: &FrontRow) -> Option<Self> {
        Some(Self {
            candidate: row.candidate,
            footprint_bytes: row.footprint_bytes,
            saving: row.saving,
            quality_loss: row.quality_loss?,
            quality_loss_interval: row.quality_loss_interval,
        })
    }
}

/// Name of each experiment with its strategy; the beginning of its id, too, where several are called the same.
fn labels(reports: &[ReportDocument]) -> Vec<String> {
    let brief = |report: &ReportDocument| {
        let (name, kind) = (&report.experiment.name, report.experiment.strategy.kind());
        format!("{name} ({kind})")
    };
    let label = |report: &ReportDocument| {
        let words = brief(report);
        let same = reports.iter().filter(|other| brief(other) == words).count();
        let id: String = report.id.rsplit('-').next().unwrap_or_default().chars().take(8).collect();
        if same > 1 { format!("{words} {id}") } else { words }
    };
    reports.iter().map(label).collect()
}

/// Limits to compare at: bytes that were asked for and those of constraints, or else those of uniform candidates; then bounds
/// on the loss.
fn limits(reports: &[ReportDocument], budgets: &[u64]) -> Vec<Limit> {
    let of_constraints = reports.iter().flat_map(|report| {
        let (constraints, network) = (&report.experiment.constraints, &report.experiment.network);
        // The most bytes that save as much: no more than this share of the float model's.
        let of_saving = |least: f64| {
            let most = (float_bytes(network) as f64 * (1.0 - least)).floor().max(0.0) as u64;
            if saving(network, most) < least { most.saturating_sub(1) } else { most }
        };
        constraints.max_footprint_bytes.into_iter().chain(constraints.min_saving.map(of_saving))
    });
    let mut bytes: Vec<u64> = budgets.iter().copied().chain(of_constraints).collect();
    if bytes.is_empty() {
        let uniform = reports.iter().flat_map(|report| &report.front.uniform);
        let usable = uniform.filter(|one| one.row.quality_loss.is_some_and(|loss| loss <= USABLE));
        bytes = usable.map(|one| one.row.footprint_bytes).collect();
    }
    bytes.sort_unstable();
    bytes.dedup();
    let bound = |report: &ReportDocument| {
        report.experiment.constraints.largest_loss(report.experiment.task.quality())
    };
    let mut losses: Vec<f64> = reports.iter().filter_map(bound).collect();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    bytes.into_iter().map(Limit::FootprintBytes).chain(losses.into_iter().map(Limit::QualityLoss)).collect()
}

/// Aspects of an experiment besides its strategy that move a loss, each with what it is of the experiment.
fn aspects(report: &ReportDocument) -> [(&'static str, String); 6] {
    let experiment = &report.experiment;
    [
        ("checkpoint", experiment.checkpoint.to_string()),
        ("data", format!("{:?}", experiment.data)),
        ("task", format!("{:?}", experiment.task)),
        ("engine", format!("{} {}", experiment.engine_version, experiment.backend)),
        ("space", format!("{:?}", experiment.space)),
        ("objectives", format!("{:?}", experiment.objectives)),
    ]
}

fn notes(reports: &[ReportDocument]) -> Vec<String> {
    let Some(first) = reports.first().map(aspects) else { return Vec::new() };
    let differs = |at: usize| reports.iter().any(|report| aspects(report)[at].1 != first[at].1);
    let names: Vec<&str> = (0..first.len()).filter(|at| differs(*at)).map(|at| first[at].0).collect();
    let mut notes = Vec::new();
    if !names.is_empty() {
        let names = names.join(", ");
        notes.push(format!("The experiments differ in more than their strategies: {names}."));
    }
    let unfinished = reports.iter().filter(|report| report.state != Lifecycle::Finished);
    let unfinished: Vec<&str> = unfinished.map(|report| &*report.id).collect();
    if !unfinished.is_empty() {
        notes.push(format!("Not finished: {}.", unfinished.join(", ")));
    }
    notes
}

#[cfg(test)]
mod tests;
