//! A search with a recovery after it: the strategy's generations, then jobs that train, then what they made.

use std::sync::Arc;

use qslm_common::archive::Archive;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::job::{Job, JobKey};
use qslm_common::recovery::Recovery;
use qslm_common::storage::CodedSizes;

use crate::strategy::Probe;
use crate::{Generation, Search, StagePlan, Step, Tell};

/// Stage of what was trained.
const RECOVERY: &str = "recovery";

/// The search of a strategy, and the recovery that the experiment asks for after it.
pub(crate) struct Recovering {
    search: Box<dyn Search>,
    experiment: Experiment,
    recovery: Recovery,
    state: State,
}

enum State {
    Searching,
    /// Candidates that are trained, with the jobs that make what becomes of them, and those that say what its codes take where
    /// codes are entropy-coded.
    Training(Vec<(Candidate, JobKey, Option<JobKey>)>),
    Done,
}

/// The search, with the experiment's recovery after it if there is one.
pub(crate) fn with_recovery(search: Box<dyn Search>, experiment: &Experiment) -> Box<dyn Search> {
    match &experiment.recovery {
        None => search,
        Some(recovery) => Box::new(Recovering {
            search,
            experiment: experiment.clone(),
            recovery: recovery.clone(),
            state: State::Searching,
        }),
    }
}

/// Stage of the recovery, before the search begins, if there is one.
pub fn stage_of_recovery(experiment: &Experiment) -> Option<StagePlan> {
    let candidates_at_most = u64::from(experiment.recovery.as_ref()?.candidates);
    Some(StagePlan { stage: RECOVERY.to_owned(), groups: 1, candidates_at_most })
}

impl Search for Recovering {
    fn next(&mut self, archive: &Archive) -> Step {
        match &self.state {
            State::Searching => match self.search.next(archive) {
                Step::Finished => self.train(archive),
                step => step,
            },
            State::Training(trained) => {
                let network = &self.experiment.network;
                let made = trained.iter().filter_map(|(candidate, job, sizes)| {
                    let sizes = match sizes {
                        None => CodedSizes::default(),
                        // One that is none of that kind is as good as one that failed.
                        Some(job) => serde_json::from_slice(archive.document(job)?).ok()?,
                    };
                    Recovery::trained(network, candidate, archive.made(job)?, &sizes)
                });
                let made: Vec<Candidate> = made.collect();
                self.state = State::Done;
                match made.is_empty() {
                    true => Step::Finished,
                    false => Step::Measure(Generation {
                        stage: RECOVERY,
                        candidates: made.into_iter().collect(),
                        subset: None,
                        may_race: false,
                    }),
                }
            }
            State::Done => Step::Finished,
        }
    }

    fn told(&mut self, tell: &Arc<Tell>) {
        self.search.told(tell);
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let to_come = match &self.state {
            State::Searching => u64::from(self.recovery.candidates),
            State::Training(trained) => trained.len() as u64,
            State::Done => 0,
        };
        Some(self.search.remaining_at_most()? + to_come)
    }

    fn probes(&self) -> Vec<Probe> {
        self.search.probes()
    }

    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        self.search.predictions()
    }
}

impl Recovering {
    fn train(&mut self, archive: &Archive) -> Step {
        let picked = self.pick(archive);
        if picked.is_empty() {
            self.state = State::Done;
            return Step::Finished;
        }
        let is_coded = !self.experiment.space.coded.is_empty();
        let (mut training, mut all) = (Vec::new(), Vec::new());
        for (candidate, jobs) in picked {
            let Some(last) = jobs.last() else { continue };
            let sizes = is_coded.then(|| Recovery::sizes(last));
            training.push((candidate, last.key(), sizes.as_ref().map(Job::key)));
            all.extend(jobs.into_iter().chain(sizes));
        }
        self.state = State::Training(training);
        Step::Make(all)
    }

    /// Candidates to train: of those on the front that are no larger than the chosen one and within reach, the smallest and
    /// others spread evenly in bytes.
    fn pick(&self, archive: &Archive) -> Vec<(Candidate, Vec<Job>)> {
        let Some(float) = archive.float(&self.experiment) else { return Vec::new() };
        let (experiment, within) = (&self.experiment, self.experiment.within_reach());
        let chosen = archive.chosen().map_or(u64::MAX, |chosen| chosen.entry.footprint_bytes);
        // From the smallest on.
        let front = archive.front().into_iter().filter(|known| {
            known.entry.footprint_bytes <= chosen && within.allow_quality(&float.counts, &known.entry.counts)
        });
        let trainable: Vec<_> = front
            .filter_map(|known| {
                let Experiment { network, checkpoint, data, .. } = experiment;
                let jobs = self.recovery.jobs(network, *checkpoint, data.tokenizer, known.candidate)?;
                Some((known.entry.footprint_bytes, (known.candidate.clone(), jobs)))
            })
            .collect();
        spread(trainable, self.recovery.candidates as usize)
    }
}

/// At most `count` of items with their bytes, which rise: the first, and of the others those nearest to even distances.
fn spread<T: Clone>(items: Vec<(u64, T)>, count: usize) -> Vec<T> {
    let (Some((first, _)), Some((last, _))) = (items.first(), items.last()) else { return Vec::new() };
    let (first, span) = (*first as f64, (*last - *first) as f64);
    let mut picked = Vec::new();
    for index in 0..count.min(items.len()) {
        let aim = first + span * index as f64 / (count.max(2) - 1) as f64;
        let distance = |at: &usize| (items[*at].0 as f64 - aim).abs();
        let left = (0..items.len()).filter(|at| !picked.contains(at));
        picked.extend(left.min_by(|a, b| distance(a).total_cmp(&distance(b))));
    }
    picked.sort_unstable();
    picked.into_iter().map(|at| items[at].1.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_picked_and_the_others_are_spread_in_bytes() {
        let items = |bytes: &[u64]| bytes.iter().map(|bytes| (*bytes, *bytes)).collect::<Vec<_>>();
        let all = items(&[100, 110, 120, 190, 260, 300]);
        assert_eq!(spread(all.clone(), 1), [100]);
        assert_eq!(spread(all.clone(), 2), [100, 300]);
        assert_eq!(spread(all.clone(), 3), [100, 190, 300]);
        assert_eq!(spread(all, 9), [100, 110, 120, 190, 260, 300]);
        assert_eq!(spread(items(&[]), 3), [0u64; 0]);
    }
}
