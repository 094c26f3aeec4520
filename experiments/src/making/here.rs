//! Making in this process: one job per thread, which share what they read, and how far they are.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indicatif::ProgressBar;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput, JobKey};
use qslm_engine::jobs::{Inputs, Loaded, Watch};
use qslm_train::jobs;

use super::{Files, MadeFile, Maker, failed};
use crate::exit::{Failure, Outcome};
use crate::input::Input;
use crate::parallel;
use crate::progress::{LINE_EVERY, bar, is_shown};

/// This process, one job per thread. Nothing of it is kept, so whoever interrupts it ends the program.
pub struct Here;

/// As [`Here`], with the artifacts of a store besides the files that are named.
pub struct HereWith<'a>(pub &'a Path);

impl HereWith<'_> {
    /// Artifacts of the store that jobs read and nobody named.
    fn others(&self, jobs: &[Job], files: Files<'_>) -> Vec<(ContentHash, Input)> {
        let inputs = jobs.iter().flat_map(|job| job.inputs.values()).filter_map(JobInput::artifact);
        let others = inputs.filter(|hash| !files.iter().any(|(known, _)| known == hash));
        others.map(|hash| (hash, Input::from(self.0.join(hash.to_string())))).collect()
    }
}

impl Maker for HereWith<'_> {
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>> {
        let others = self.others(jobs, files);
        let all: Vec<_> =
            files.iter().copied().chain(others.iter().map(|(hash, file)| (*hash, file))).collect();
        Here.make(jobs, &all)
    }

    fn make_files(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<MadeFile>> {
        let others = self.others(jobs, files);
        let all: Vec<_> =
            files.iter().copied().chain(others.iter().map(|(hash, file)| (*hash, file))).collect();
        Here.make_files(jobs, &all)
    }
}

impl Maker for Here {
    /// Makes what waits for nothing first, then what waits for that, and so on.
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>> {
        let (loaded, progress) = (Arc::<Loaded>::default(), Progress::new(jobs.len()));
        let mut made: Vec<Option<Vec<u8>>> = vec![None; jobs.len()];
        // Files of what other jobs read.
        let mut read: HashMap<JobKey, Input> = HashMap::new();
        let waited_for: HashSet<JobKey> = jobs.iter().flat_map(Job::waits_for).collect();
        while made.iter().any(Option::is_none) {
            let ready = |index: &usize| {
                made[*index].is_none() && jobs[*index].waits_for().all(|key| read.contains_key(&key))
            };
            let ready: Vec<usize> = (0..jobs.len()).filter(ready).collect();
            if let (true, Some(job)) = (ready.is_empty(), jobs.first()) {
                return Err(failed(job, &"it reads what nobody makes"));
            }
            let path_of = |input: &JobInput| match input {
                JobInput::Artifact(hash) => {
                    files.iter().find(|(known, _)| known == hash).map(|(_, input)| input.path())
                }
                JobInput::Job(key) => read.get(key).map(Input::path),
            };
            let artifacts = parallel::map(ready.len(), parallel::threads(None), |place| {
                let (index, job) = (ready[place], &jobs[ready[place]]);
                let named = job.inputs.iter();
                let named =
                    named.filter_map(|(name, input)| Some((name.clone(), path_of(input)?.to_owned())));
                let inputs = Inputs::sharing(named.collect(), loaded.clone());
                let mut artifact = Vec::new();
                jobs::make(job, &inputs, &OfJob { progress: &progress, index }, &mut artifact)
                    .map_err(|error| failed(job, &error))?;
                progress.change(|steps| steps.made(index));
                Ok::<_, Failure>(artifact)
            });
            let artifacts = artifacts.inspect_err(|_| progress.finish())?;
            for (index, artifact) in ready.into_iter().zip(artifacts) {
                let key = jobs[index].key();
                if waited_for.contains(&key) {
                    let file = Input::made(&artifact).map_err(|error| failed(&jobs[index], &error))?;
                    read.insert(key, file);
                }
                made[index] = Some(artifact);
            }
        }
        progress.finish();
        Ok(made.into_iter().flatten().collect())
    }

    fn make_files(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<MadeFile>> {
        let made = self.make(jobs, files)?;
        let keep = |(job, bytes): (&Job, Vec<u8>)| {
            let file = Input::made(&bytes).map_err(|error| failed(job, &error))?;
            Ok(MadeFile { hash: ContentHash::of(&bytes), file: Some(file) })
        };
        jobs.iter().zip(made).map(keep).collect()
    }
}

/// Progress of jobs while they are made: a bar on a terminal, lines elsewhere. The first line comes late, because most
/// specs need nothing that takes long.
struct Progress {
    bar: Option<ProgressBar>,
    /// True if anyone wants to see any of it.
    shown: bool,
    /// The steps, and when the last line was written; at first, when the jobs began.
    now: Mutex<(Steps, Instant)>,
}

impl Progress {
    /// Bar or lines, as standard error is a terminal or not.
    fn new(jobs: usize) -> Self {
        let steps = Steps { under_way: vec![None; jobs], made: 0 };
        let bar =
            bar("{spinner} artifacts             [{bar:24}] {prefix} that the spec needs\n  {wide_msg}");
        if let Some(bar) = &bar {
            bar.set_length(steps.thousandths_at_most());
        }
        let progress = Self { bar, shown: is_shown(), now: Mutex::new((steps, Instant::now())) };
        progress.change(|_| {});
        progress
    }

    /// Shows how far it is after a change.
    fn change(&self, change: impl FnOnce(&mut Steps)) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (steps, last_line) = &mut *now;
        change(steps);
        if let Some(bar) = &self.bar {
            bar.set_position(steps.thousandths());
            bar.set_prefix(steps.describe_made());
            bar.set_message(steps.describe_under_way().unwrap_or_default());
        } else if self.shown && last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            let under_way = steps.describe_under_way().map_or(String::new(), |words| format!(" ({words})"));
            let made = steps.describe_made();
            qslm_program::say(format_args!("{made} artifacts that the spec needs are made{under_way}"));
        }
    }

    /// Takes the bar away.
    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What one job reports.
struct OfJob<'a> {
    progress: &'a Progress,
    index: usize,
}

impl Watch for OfJob<'_> {
    fn progress(&self, done: u64, of: u64) {
        self.progress.change(|steps| steps.under_way[self.index] = Some((done.min(of), of)));
    }
}

/// Steps of several jobs. How many a job has is known once it has done the first, so jobs are what is counted, and the steps
/// of those under way.
struct Steps {
    /// Steps done of so many by job, from its first step until it is made.
    under_way: Vec<Option<(u64, u64)>>,
    /// Jobs that are made.
    made: usize,
}

impl Steps {
    fn made(&mut self, index: usize) {
        self.under_way[index] = None;
        self.made += 1;
    }

    /// Thousandths of jobs that are done.
    fn thousandths(&self) -> u64 {
        let share = |(done, of): &(u64, u64)| done * 1000 / of.max(&1);
        self.made as u64 * 1000 + self.under_way.iter().flatten().map(share).sum::<u64>()
    }

    fn thousandths_at_most(&self) -> u64 {
        self.under_way.len() as u64 * 1000
    }

    /// `2 of 6`
    fn describe_made(&self) -> String {
        format!("{} of {}", self.made, self.under_way.len())
    }

    /// `5 of 16 steps of the next 2`
    fn describe_under_way(&self) -> Option<String> {
        let known = self.under_way.iter().flatten();
        let (jobs, done, of) =
            known.fold((0, 0, 0), |(jobs, done, of), step| (jobs + 1, done + step.0, of + step.1));
        match jobs {
            0 => None,
            1 => Some(format!("{done} of {of} steps of the next")),
            _ => Some(format!("{done} of {of} steps of the next {jobs}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_counted_and_the_steps_of_those_under_way() {
        let mut steps = Steps { under_way: vec![None; 3], made: 0 };
        assert_eq!((steps.describe_made(), steps.describe_under_way()), ("0 of 3".to_owned(), None));
        steps.under_way[0] = Some((2, 8));
        steps.under_way[2] = Some((3, 4));
        assert_eq!(steps.describe_under_way().unwrap(), "5 of 12 steps of the next 2");
        assert_eq!((steps.thousandths(), steps.thousandths_at_most()), (250 + 750, 3000));
        steps.made(2);
        assert_eq!(steps.describe_made(), "1 of 3");
        assert_eq!(steps.describe_under_way().unwrap(), "2 of 8 steps of the next");
        assert_eq!(steps.thousandths(), 1250);
        steps.made(0);
        steps.made(1);
        assert_eq!((steps.thousandths(), steps.describe_under_way()), (3000, None));
    }

    #[test]
    fn a_job_that_reads_what_nobody_makes_is_refused_by_name() {
        let nobody = Job::new("coded_artifact", 1).input("codes", JobInput::Job(JobKey::of(b"nobody")));
        let error = Here.make(&[nobody], &[]).unwrap_err().to_string();
        assert!(error.contains("cannot make coded_artifact: it reads what nobody makes"), "{error}");
    }

    #[test]
    fn a_job_that_tells_nonsense_is_shown_within_its_bounds() {
        let progress = Progress::new(1);
        let job = OfJob { progress: &progress, index: 0 };
        for (done, of) in [(0, 0), (9, 4)] {
            job.progress(done, of);
            assert!(progress.now.lock().unwrap().0.thousandths() <= 1000, "{done} of {of}");
        }
    }
}
