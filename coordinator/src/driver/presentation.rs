//! Presentation of an experiment, which no search reads: every candidate on a plot, the stages, and the
//! timeline.

use std::collections::BTreeMap;

use qslm_common::archive::Entry;
use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Engines, Fingerprint};
use qslm_common::footprint::saving;
use qslm_common::network::Network;
use qslm_report::{Cloud, Comparison, EngineShare, Sample, Stage, badness, worked_ms};

/// The shortest time between two samples.
const OFTEN_MS: u64 = 1000;
/// A sample comes after this share of the time worked so far at the earliest, so that their number stays small however
/// long it takes: 5,000 in a week.
const SHARE: u64 = 500;
/// The longest time that a sample is put off: after a longer one, work would look like an interruption.
const RARELY_MS: u64 = 5 * 60 * 1000;

/// Presentation of one experiment: everything that only people look at.
#[derive(Default)]
pub(super) struct Presentation {
    cloud: Cloud,
    stages: Vec<Stage>,
    timeline: Vec<Sample>,
    comparisons: Vec<Comparison>,
    /// Candidates that each engine had a part in.
    engines: BTreeMap<Fingerprint, u64>,
    /// Time worked until the last sample, in milliseconds.
    worked_ms: u64,
    /// Trials that had been measured since the coordinator started at the last sample.
    evaluated: u64,
}

/// Place of a measured candidate on a plot.
pub(super) struct Spotted {
    saving: f64,
    badness: f64,
    id: CandidateId,
}

impl Spotted {
    pub(super) fn new(network: &Network, id: CandidateId, entry: &Entry) -> Self {
        let saving = saving(network, entry.footprint_bytes);
        Self { saving, badness: badness(&entry.counts), id }
    }
}

impl Presentation {
    /// Presentation with what the store has: samples by rising time, and what other tools found.
    pub(super) fn new(timeline: Vec<Sample>, comparisons: Vec<Comparison>) -> Self {
        let worked_ms = worked_ms(&timeline).last().copied().unwrap_or(0);
        Self { timeline, comparisons, worked_ms, ..Self::default() }
    }

    /// Forgets candidates and stages, which come again.
    pub(super) fn start_over(&mut self) {
        (self.cloud, self.stages, self.engines) = (Cloud::default(), Vec::new(), BTreeMap::new());
    }

    /// Adds a candidate that `stage` was the first to propose and `engines` measured.
    pub(super) fn add(&mut self, stage: &str, spotted: Spotted, engines: &Engines) {
        for engine in engines {
            *self.engines.entry(*engine).or_default() += 1;
        }
        let known = self.stages.iter().position(|known| known.name == stage);
        let index = known.unwrap_or_else(|| {
            self.stages.push(Stage { name: stage.to_owned(), measured: 0 });
            self.stages.len() - 1
        });
        self.stages[index].measured += 1;
        self.cloud.insert(index, spotted.saving, spotted.badness, spotted.id);
    }

    /// True if a sample is due, when `evaluated` trials were measured since the coordinator started.
    pub(super) fn is_due(&self, unix_ms: u64, evaluated: u64, finished: bool) -> bool {
        let since = self.timeline.last().map(|last| unix_ms.saturating_sub(last.unix_ms));
        let pause = (self.worked_ms / SHARE).clamp(OFTEN_MS, RARELY_MS);
        evaluated > self.evaluated && (finished || since.is_none_or(|since| since >= pause))
    }

    /// Adds a sample.
    pub(super) fn sample(&mut self, sample: Sample, evaluated: u64) {
        self.evaluated = evaluated;
        // A clock that was set back would make time run backwards.
        if self.timeline.last().is_some_and(|last| last.unix_ms >= sample.unix_ms) {
            return;
        }
        self.timeline.push(sample);
        self.worked_ms = worked_ms(&self.timeline).last().copied().unwrap_or(0);
    }

    pub(super) fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    pub(super) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    pub(super) fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }

    /// Engines with the number of candidates that each had a part in, the most first.
    pub(super) fn engines(&self, known: &BTreeMap<Fingerprint, String>) -> Vec<EngineShare> {
        let share = |(engine, measured): (&Fingerprint, &u64)| EngineShare {
            engine: known.get(engine).cloned().unwrap_or_else(|| engine.to_string()),
            measured: *measured,
        };
        let mut shares: Vec<_> = self.engines.iter().map(share).collect();
        shares.sort_by(|a, b| b.measured.cmp(&a.measured).then_with(|| a.engine.cmp(&b.engine)));
        shares
    }

    pub(super) fn timeline(&self) -> &[Sample] {
        &self.timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_takes_a_few_thousand_samples_and_an_interruption_none() {
        let sample = |unix_ms| Sample {
            unix_ms,
            measured: 1,
            front: 1,
            hypervolume: None,
            tokens_per_second: 0.0,
            best: None,
        };
        let mut presentation = Presentation::default();
        let (mut now, mut evaluated) = (1, 0);
        while now < 7 * 24 * 3_600_000 {
            now += 500;
            evaluated += 1;
            if presentation.is_due(now, evaluated, false) {
                presentation.sample(sample(now), evaluated);
            }
        }
        assert!((1000..6000).contains(&presentation.timeline().len()), "{}", presentation.timeline().len());
        let worked = presentation.worked_ms;
        assert!(worked > 6 * 24 * 3_600_000, "{worked}");
        assert!(!presentation.is_due(now + 3_600_000, presentation.evaluated, false), "nothing was measured");
        presentation.sample(sample(now + 3_600_000), evaluated + 1);
        assert_eq!(presentation.worked_ms, worked);
    }
}
