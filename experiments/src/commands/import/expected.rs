//! Expected results: what all results of an experiment share, whatever the candidate, so that others are told
//! apart.

use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::origin::Origin;
use qslm_common::task::Task;
use qslm_common::trial::Addressed;
use qslm_coordinator::store::{Artifacts, Contents};
use serde_json::Value;

use crate::data::load_data;
use crate::exit::Outcome;
use crate::input::Input;

/// Expected origin and counts: known beforehand, or said by the first lines.
pub(super) struct Expected {
    origin: Origin,
    task: Task,
    counts: Option<Fixed>,
}

/// The counts that follow from data and protocol, and who says so.
struct Fixed {
    tokens: u64,
    sentences: u64,
    positions: u64,
    by: String,
}

impl Expected {
    /// Expectations from the experiment, from the float model's result if that is on record, else from the
    /// data if they lie beside the store.
    pub(super) fn new(experiment: &Experiment, contents: &Contents, store: &Path) -> Outcome<Self> {
        let float = Addressed::from(experiment.trial(Candidate::float(&experiment.network)));
        let on_record = contents.measurements.get(&float.key).and_then(|variants| variants.keys().next());
        let counts = match on_record {
            Some(counts) => Some(Fixed::of(counts, "the float model on record has".to_owned())),
            None => Fixed::of_data(experiment, store)?,
        };
        Ok(Self { origin: experiment.origin(), task: experiment.task.clone(), counts })
    }

    /// Says what of a line, by its number, is not the experiment's.
    pub(super) fn check(&mut self, row: &Value, counts: &Counts, line: usize) -> Result<(), String> {
        for (name, ours) in self.origin.parts() {
            match row[name].as_str() {
                // Exports of earlier versions do not say.
                None | Some("") => {}
                Some(theirs) if theirs == ours => {}
                Some(theirs) => return Err(format!("{name} = {theirs:?}: the experiment has {ours:?}")),
            }
        }
        for (name, count, least, most) in bounds(&self.task, counts) {
            if !(least..=most).contains(&count) {
                let bound = if least == most { least.to_string() } else { format!("{least} to {most}") };
                return Err(format!("{name} = {count}: this protocol gives {bound}"));
            }
        }
        // All lines have counted the same data.
        let fixed = self.counts.get_or_insert_with(|| Fixed::of(counts, format!("line {line} has")));
        let pairs = [
            ("tokens", counts.scored_tokens, fixed.tokens),
            ("sentences", counts.sentences, fixed.sentences),
            ("positions", counts.processed_tokens, fixed.positions),
        ];
        match pairs.into_iter().find(|(_, count, expected)| count != expected) {
            Some((name, count, expected)) => Err(format!("{name} = {count}: {} {expected}", fixed.by)),
            None => Ok(()),
        }
    }
}

impl Fixed {
    fn of(counts: &Counts, by: String) -> Self {
        Self {
            tokens: counts.scored_tokens,
            sentences: counts.sentences,
            positions: counts.processed_tokens,
            by,
        }
    }

    /// Counts of the experiment's data, if they are there.
    fn of_data(experiment: &Experiment, store: &Path) -> Outcome<Option<Self>> {
        let artifacts = Artifacts::of(store);
        let [text, tokenizer] = [&experiment.data.text, &experiment.data.tokenizer];
        if !artifacts.has(text) || !artifacts.has(tokenizer) {
            return Ok(None);
        }
        // As they were sent: whoever submitted took out what must not count.
        let file = |hash: &ContentHash| Input::from(artifacts.folder().join(hash.to_string()));
        let data = load_data(&file(text), &file(tokenizer), &experiment.task, &experiment.network)?;
        let sentences = match experiment.task {
            Task::Perplexity { .. } => 0,
            Task::Accuracy { .. } | Task::Choice { .. } => data.len() as u64,
        };
        let by = "the experiment's data give".to_owned();
        Ok(Some(Self { tokens: data.predicted(), sentences, positions: data.positions(), by }))
    }
}

/// The counts of a result, each with the least and the most that a protocol gives on any data.
fn bounds(task: &Task, counts: &Counts) -> [(&'static str, u64, u64, u64); 4] {
    let (tokens, hits, sentences, positions) = match *task {
        Task::Perplexity { window, stride, windows } => {
            let [window, stride] = [window, stride].map(u64::from);
            let windows = windows.map(u64::from);
            let scored = windows.map_or(u64::MAX, |windows| window + (windows - 1) * stride);
            let most = windows.map_or(u64::MAX, |windows| windows * window);
            ((1, scored), (0, 0), (0, 0), (1, most))
        }
        Task::Accuracy { sentences } | Task::Choice { questions: sentences, .. } => {
            let most = sentences.map_or(u64::MAX, u64::from);
            ((0, 0), (0, most), (1, most), (1, u64::MAX))
        }
    };
    [
        ("tokens", counts.scored_tokens, tokens),
        ("hits", counts.hits, hits),
        ("sentences", counts.sentences, sentences),
        ("positions", counts.processed_tokens, positions),
    ]
    .map(|(name, count, (least, most))| (name, count, least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(task: Task, counts: Counts) -> Vec<&'static str> {
        let wrong = bounds(&task, &counts)
            .into_iter()
            .filter(|(_, count, least, most)| !(*least..=*most).contains(count));
        wrong.map(|(name, ..)| name).collect()
    }

    #[test]
    fn counts_that_no_data_give_are_told_from_the_protocol_alone() {
        let task = Task::Perplexity { window: 32, stride: 16, windows: Some(2) };
        let counts = Counts { scored_tokens: 48, processed_tokens: 64, ..Counts::zero(0) };
        assert!(wrong(task.clone(), counts.clone()).is_empty());
        assert_eq!(wrong(task.clone(), Counts { scored_tokens: 49, ..counts.clone() }), ["tokens"]);
        assert_eq!(wrong(task.clone(), Counts { processed_tokens: 65, ..counts.clone() }), ["positions"]);
        assert_eq!(wrong(task, Counts { sentences: 1, hits: 1, ..counts.clone() }), ["hits", "sentences"]);
        let task = Task::Accuracy { sentences: Some(3) };
        assert_eq!(wrong(task.clone(), counts), ["tokens", "sentences"]);
        let counts = Counts { sentences: 3, processed_tokens: 9, ..Counts::zero(0) };
        assert!(wrong(task.clone(), counts.clone()).is_empty());
        assert_eq!(wrong(task, Counts { sentences: 4, ..counts }), ["sentences"]);
    }
}
