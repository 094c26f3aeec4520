//! What is known of how a candidate was measured: a front and a packed file say it.

use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::conditions::Conditions;
use qslm_common::cost::Device;
use qslm_common::measurement::Counts;
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_report::words::grouped;

use crate::exit::Outcome;
use crate::input::Input;
use crate::schemes::ModelArgs;

/// What a front, or a packed file, knows of the measurement of a candidate.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// File or experiment that knows it.
    pub whose: String,
    /// Conditions of the measurement.
    pub conditions: Option<Conditions>,
    /// The counts.
    pub counts: Option<Counts>,
}

impl Known {
    /// What is known by a file, if that is a packed one, which says itself what network it is. One that cannot be read is told
    /// of by who loads it.
    pub fn of_file(model: &ModelArgs) -> Self {
        let inspected = Checkpoint::inspect(&model.checkpoint, true).ok();
        let provenance =
            inspected.and_then(|inspected| inspected.manifest).map(|manifest| manifest.provenance);
        let whose = model.checkpoint.display().to_string();
        provenance.map_or_else(Self::default, |provenance| Self {
            whose,
            conditions: provenance.conditions,
            counts: provenance.measurement,
        })
    }

    /// Device of the measurement, or the usual one.
    pub fn device(&self) -> Device {
        self.conditions.as_ref().map(|conditions| conditions.device.clone()).unwrap_or_default()
    }

    /// Warns of a backend that is another than that of the measurement: its last digits may differ.
    pub fn check_backend(&self, backend: Backend) {
        if let Some(measured) = self.conditions.as_ref().map(|conditions| conditions.backend)
            && measured != backend
        {
            let whose = &self.whose;
            tracing::warn!("--backend {backend}: {whose} was measured on {measured}; last digits may differ");
        }
    }

    /// Conditions and result of the measurement in words; `None` if nothing was measured.
    pub fn words(conditions: Option<&Conditions>, counts: Option<&Counts>) -> Option<String> {
        let counts = counts?;
        let value = counts.quality().value(counts)?;
        let quality = format!("{} {}", counts.quality().name(), counts.quality().label(value));
        let cut = |task: &Task| match *task {
            Task::Perplexity { window, stride, .. } if stride == window => {
                format!(" in windows of {window} tokens")
            }
            Task::Perplexity { window, stride, .. } => {
                format!(" in windows of {window} tokens, one every {stride}")
            }
            Task::Accuracy { .. } | Task::Choice { .. } => String::new(),
        };
        let on = match (counts.scored_tokens, counts.sentences) {
            (0, sentences) => format!("{} sentences", grouped(sentences)),
            (tokens, _) => format!("{} tokens", grouped(tokens)),
        };
        let cut = conditions.map_or(String::new(), |conditions| cut(&conditions.task));
        let backend = conditions.map_or(String::new(), |conditions| format!(", on {}", conditions.backend));
        let device = conditions.is_some_and(|conditions| !conditions.device.is_default());
        let device = if device { ", for a device of its own" } else { "" };
        Some(format!("{quality} on {on}{cut}{backend}{device}"))
    }

    /// Warns of a tokenizer that is another than that of the measurement: it makes other tokens.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn check_tokenizer(&self, tokenizer: &Path) -> Outcome {
        if let Some(conditions) = &self.conditions
            && Input::tokenizer(tokenizer)?.hash()? != conditions.data.tokenizer
        {
            let (file, whose) = (tokenizer.display(), &self.whose);
            tracing::warn!("--tokenizer {file}: {whose} was measured with another tokenizer");
        }
        Ok(())
    }
}
