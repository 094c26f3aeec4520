//! Control: the float model after the training that a recovery gives its candidates. A candidate that learned from the text
//! or the labels, too, is compared with both: part of what it gains may be what the checkpoint had not learned yet.

use qslm_common::experiment::Experiment;
use qslm_common::quality::Quality;
use qslm_common::recovery::Recovery;
use qslm_report::words::{interval_clause, lost};
use qslm_train::jobs::{control_of, read_control};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::making::{Files, Maker};

/// The float model after the same training; its keys are part of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Control {
    /// Steps.
    pub steps: u32,
    /// What is measured.
    #[serde(skip)]
    kind: Quality,
    /// Perplexity or accuracy before.
    pub float: Option<f64>,
    /// Perplexity or accuracy after.
    pub quality: Option<f64>,
    /// Loss of quality against the float model before; below 0 it is a gain.
    pub quality_loss: f64,
    /// 95 % interval of the loss.
    pub quality_loss_interval: Option<(f64, f64)>,
}

/// What stands in the place of a control where candidates learned from the float model's predictions alone: those would teach
/// the float model nothing.
pub const ITSELF: &str =
    "\nCandidates learned from the float model's predictions alone, so it is the control itself.\n";

/// Lets `maker` measure the control of an experiment's recovery, if it has one in which the text is learned, too.
///
/// # Errors
/// One line that says what failed.
pub fn measure(experiment: &Experiment, files: Files<'_>, maker: &dyn Maker) -> Outcome<Option<Control>> {
    let Some(recovery) = &experiment.recovery else { return Ok(None) };
    let Some(plan) = recovery.plan.control() else { return Ok(None) };
    let steps = plan.steps;
    let recovery = Recovery { plan, ..recovery.clone() };
    let made = maker.make_one(&control_of(experiment, &recovery, experiment.data.text), files)?;
    let control =
        read_control(&made).map_err(|error| Failure::new(Exit::Failure, format!("control: {error}")))?;
    let quality = experiment.task.quality();
    Ok(Some(Control {
        steps,
        kind: quality,
        float: quality.value(&control.float),
        quality: quality.value(&control.counts),
        quality_loss: quality.loss_against(&control.float, &control.counts),
        quality_loss_interval: control.spread.loss_interval(&control.float, &control.counts),
    }))
}

impl Control {
    /// What it says.
    pub fn describe(&self) -> String {
        let Self { steps, kind, quality_loss, quality_loss_interval, .. } = self;
        let quality = self.quality.map_or(String::new(), |value| kind.label(value));
        let (name, loss) = (kind.name(), lost(*kind, *quality_loss));
        let sure = interval_clause(*quality_loss_interval);
        format!("\nThe float model after the same {steps} steps:\n  {name} {quality} ({loss}{sure})\n")
    }
}
