//! Holdout: data that a search does not see, on which the chosen candidate is measured once more when it has ended. Of
//! hundreds of candidates the one with the smallest loss was partly lucky; here it is one of one.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::measurement::Counts;
use qslm_common::quality::Quality;
use qslm_common::spread::Spread;
use qslm_common::task::{Data, Task};
use qslm_engine::jobs::holdout;
use qslm_report::words::{interval_clause, lost};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::making::{Files, Maker};

/// Parts into which the data is cut at most: one job each.
const PARTS: u64 = 16;

/// Data that the search does not see.
#[derive(Debug, Clone)]
pub struct Holdout {
    /// The text or labelled sentences.
    pub input: Input,
    /// Task: how the data is cut.
    pub task: Task,
    /// Windows or sentences of the data.
    pub sequences: u64,
}

/// A candidate on data that was held out; its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldOut {
    /// The file.
    pub data: String,
    /// Windows or sentences.
    pub sequences: u64,
    /// Perplexity or accuracy.
    pub measure: &'static str,
    /// What that is.
    #[serde(skip)]
    kind: Quality,
    /// Quality of the float model.
    pub float: Option<f64>,
    /// Quality of the candidate.
    pub quality: Option<f64>,
    /// Loss of quality against the float model.
    pub quality_loss: f64,
    /// 95 % interval of the loss.
    pub quality_loss_interval: Option<(f64, f64)>,
}

impl Holdout {
    /// Lets `maker` measure a candidate of an experiment and the float model.
    ///
    /// # Errors
    /// One line that says what failed.
    pub fn measure(
        &self,
        experiment: &Experiment,
        files: Files<'_>,
        candidate: &Candidate,
        maker: &dyn Maker,
    ) -> Outcome<HeldOut> {
        let data = Data { text: self.input.hash()?, tokenizer: experiment.data.tokenizer };
        let of = self.sequences.clamp(1, PARTS) as u32;
        let job = |index| {
            let (task, candidate) = (self.task.clone(), candidate.encode());
            let member = (&experiment.network).into();
            let part = holdout::Holdout { task, member, candidate, shard: (index, of) };
            part.job(experiment.checkpoint, &data)
        };
        let jobs: Vec<_> = (0..of).map(job).collect();
        let files: Vec<_> = files.iter().copied().chain([(data.text, &self.input)]).collect();
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, format!("holdout: {error}"));
        let made = maker.make(&jobs, &files)?;
        let parts: Result<Vec<holdout::HeldOut>, _> =
            made.iter().map(|artifact| holdout::Holdout::read(artifact)).collect();
        let parts = parts.map_err(|error| failed(&error))?;
        let sum = |of: fn(&holdout::HeldOut) -> &Counts| {
            let sum = Counts::sum(experiment.network.population_count(), parts.iter().map(of));
            sum.map_err(|error| failed(&error))
        };
        let (float, counts) = (sum(|part| &part.float)?, sum(|part| &part.counts)?);
        let mut spread = Spread::default();
        parts.iter().for_each(|part| spread.add(part.spread));
        let quality = self.task.quality();
        Ok(HeldOut {
            data: self.input.named().display().to_string(),
            sequences: self.sequences,
            measure: quality.name(),
            kind: quality,
            float: quality.value(&float),
            quality: quality.value(&counts),
            quality_loss: quality.loss_against(&float, &counts),
            quality_loss_interval: spread.loss_interval(&float, &counts),
        })
    }
}

impl HeldOut {
    /// What it says, in two lines.
    pub fn describe(&self) -> String {
        let label = |value: Option<f64>| value.map_or(String::new(), |value| self.kind.label(value));
        let Self { data, sequences, measure, quality_loss, quality_loss_interval, .. } = self;
        let sure = interval_clause(*quality_loss_interval);
        let what = if self.kind == Quality::Perplexity { "windows" } else { "sentences" };
        let (float, quality, loss) = (label(self.float), label(self.quality), lost(self.kind, *quality_loss));
        format!(
            "\nOn data that the search did not see ({data}, {sequences} {what}):\n  {measure} {quality} ({loss}{sure}), \
             float {float}\n"
        )
    }
}
