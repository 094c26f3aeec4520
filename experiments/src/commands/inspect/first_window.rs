//! The loss of the first window, read as each family has it: what shows a wrong family where the tensors are the same.

use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::network::{Family, Member, Network};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::BACKEND;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, evaluate};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::read_checkpoint;
use crate::inputs::DataArgs;

/// Losses of the first window, in nats a token.
#[derive(Serialize)]
pub(super) struct FirstWindow {
    /// As the flags have it.
    nats: f64,
    /// Of a guess that takes every token for as likely: `ln V`.
    guess: f64,
    /// As each family has it whose tensors these could be.
    families: Vec<OfFamily>,
}

#[derive(Serialize)]
struct OfFamily {
    family: Family,
    binary_embedding: bool,
    nats: f64,
}

/// Losses of the first window of the data under this member and under every family; `None` for a classifier.
pub(super) fn of(path: &Path, member: Member, data: &DataArgs) -> Outcome<Option<FirstWindow>> {
    let checkpoint = read_checkpoint(path, member)?;
    let network = *checkpoint.network();
    if network.is_classifier() || checkpoint.manifest().is_some() {
        return Ok(None);
    }
    let data = data.load(&network)?;
    let nats = loss(&checkpoint, &data)?;
    let mut families = Vec::new();
    for (family, _) in Family::all() {
        for binary_embedding in [true, false] {
            let member = Member { binary_embedding, ..family.member() };
            // Where tensors differ, it is no such family.
            let Ok(checkpoint) = Checkpoint::load(path, member) else { continue };
            families.push(OfFamily { family, binary_embedding, nats: loss(&checkpoint, &data)? });
        }
    }
    Ok(Some(FirstWindow { nats, guess: f64::from(network.vocabulary).ln(), families }))
}

fn loss(checkpoint: &Checkpoint, data: &Dataset) -> Outcome<f64> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, error);
    let float = Candidate::float(checkpoint.network());
    let model = SpikeGpt::new(checkpoint, &float, BACKEND).map_err(|error| failed(&error))?;
    let counts = evaluate(&model, data, 0..1, &|| false).map_err(|error| failed(&error))?;
    Ok(counts.nll.nats() / counts.scored_tokens.max(1) as f64)
}

impl FirstWindow {
    /// As lines, with a warning where another family reads it better, or nothing does.
    pub(super) fn lines(&self, network: &Network) -> String {
        let mut text = format!(
            "\nfirst window: {:.4} nats a token; a guess has ln {} = {:.4}\n",
            self.nats, network.vocabulary, self.guess
        );
        let best = self.families.iter().min_by(|a, b| a.nats.total_cmp(&b.nats));
        if let Some(best) = best.filter(|best| best.nats < BETTER * self.nats) {
            let is_preset = best.binary_embedding == best.family.member().binary_embedding;
            let flag = if is_preset { "" } else { " --real-embedding" };
            text.push_str(&format!(
                "warning: read with --family {}{flag} it has {:.4}: is that the family?\n",
                best.family, best.nats
            ));
        } else if self.nats >= self.guess {
            text.push_str(
                "warning: no better than a guess: another family, another tokenizer, or no language model\n",
            );
        }
        text
    }
}

/// Share of the loss that another family has to stay below to be named.
const BETTER: f64 = 0.9;
