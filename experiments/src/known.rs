//! What is known of how a candidate was measured: a front and a packed file say it.

use std::path::Path;

use qslm_common::conditions::Conditions;
use qslm_common::measurement::Counts;
use qslm_engine::checkpoint::Checkpoint;

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
