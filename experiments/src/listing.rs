//! Table of every candidate of a list, by its name, as they were listed: the front alone would not say what became of the
//! others.

use std::collections::BTreeMap;

use qslm_common::candidate::CandidateId;
use qslm_common::measurement::Counts;
use qslm_common::quality::Quality;
use qslm_proto::convert;
use qslm_proto::v1::{GetRequest, MeasuredCandidate};
use qslm_report::words::{grouped, hundredths, interval, lost_heading, signed};
use qslm_search::{AnyStrategy, List, Strategy};

use crate::client::{Client, describe};
use crate::exit::Outcome;
use crate::output::{align_right, plain_table};
use crate::standing::{Judge, Standing};

/// Listed candidates with what became of them.
pub struct Listing {
    quality: Quality,
    rows: Vec<Row>,
}

/// One candidate of a list.
struct Row {
    name: String,
    id: CandidateId,
    /// What was measured, and what it is in its experiment; `None` where it was pruned or failed, or is still to come.
    measured: Option<(MeasuredCandidate, Counts, Standing)>,
}

impl Listing {
    /// Reads what became of the candidates of an experiment that is in `stage`; `None` if it has no list.
    ///
    /// # Errors
    /// If the coordinator does not answer, or not in words that this program knows.
    pub async fn read(client: &mut Client, id: &str, stage: &str) -> Outcome<Option<Self>> {
        if stage != List::KIND {
            return Ok(None);
        }
        let report = describe(client, id).await?;
        let Ok(AnyStrategy::List(list)) = AnyStrategy::parse(&report.experiment.strategy) else {
            return Ok(None);
        };
        let quality = report.experiment.task.quality();
        let judge = Judge::new(report);
        let mut measured = BTreeMap::new();
        let mut stream = client.candidates(GetRequest { experiment: id.to_owned() }).await?.into_inner();
        while let Some(message) = stream.message().await? {
            for candidate in message.candidates {
                let (counts, spread) = convert::read_counts(candidate.counts.clone().unwrap_or_default());
                let standing = judge.standing(&candidate, &counts, spread);
                measured.insert(candidate.candidate.clone(), (candidate, counts, standing));
            }
        }
        let row = |(index, (id, name)): (usize, (CandidateId, &str))| Row {
            name: if name.is_empty() { format!("#{}", index + 1) } else { name.to_owned() },
            id,
            measured: measured.get(&id.as_bytes()[..]).cloned(),
        };
        Ok(Some(Self { quality, rows: list.named().enumerate().map(row).collect() }))
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = plain_table();
        let loss = lost_heading(self.quality);
        table.set_header([
            "  listed",
            "candidate",
            "bytes",
            "saved %",
            self.quality.name(),
            loss,
            "95 % interval",
            "",
        ]);
        align_right(&mut table, |place| (2..7).contains(&place));
        for Row { name, id, measured } in &self.rows {
            let mut cells = vec![format!("  {name}"), id.short()];
            match measured {
                Some((candidate, counts, standing)) => {
                    let known = candidate.quality_loss_interval.map(Into::into);
                    cells.extend([
                        grouped(candidate.footprint_bytes),
                        hundredths(candidate.saving),
                        self.quality.value(counts).map_or(String::new(), |value| self.quality.label(value)),
                        candidate.quality_loss.map_or(String::new(), signed),
                        interval(known),
                        place(standing).to_owned(),
                    ]);
                }
                None => {
                    cells.extend([const { String::new() }; 5]);
                    cells.push("not measured".to_owned());
                }
            }
            table.add_row(cells);
        }
        format!("\n{table}\n")
    }
}

/// Place of a candidate among the others.
fn place(standing: &Standing) -> &'static str {
    match standing {
        Standing { chosen: true, .. } => "chosen",
        Standing { meets_constraints: false, .. } => "outside the constraints",
        Standing { on_front: true, .. } => "on the front",
        _ => "",
    }
}
