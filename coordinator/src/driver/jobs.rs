//! Jobs that people ask for apart from any experiment, or searches on their way: what has become of each.
//!
//! Asking is idempotent: whoever waits for an artifact asks again until it is made, also a coordinator that was started
//! anew. What was made is on record, so nothing is made twice. An experiment is bound to what a job gave it first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, Job, JobInput, JobKey, JobKind};
use qslm_common::work::Made;

use super::Driver;
use super::request::{MakeRequest, Refusal, Reply};
use super::status::{JobCounts, JobState, JobStatus, JobUnderWay, Making};
use crate::ledger::{LeaseId, Moment, OpenJob, Opened, Outcome, Owner, Settled};
use crate::store::{Artifacts, StoreError, Write};

/// Word by which a worker asks for such jobs alone, in place of an experiment's id.
pub const JOBS: &str = "jobs";

/// Open jobs that people may have asked for. More have to wait until some are done.
const MOST_OPEN: usize = 100_000;
/// Jobs under way that people are shown.
const SHOWN_JOBS: usize = 100;

/// Jobs that ended since the coordinator started, and those whose artifacts were lost.
#[derive(Default)]
pub(super) struct Jobs {
    made: BTreeMap<JobKey, Made>,
    failed: BTreeMap<JobKey, String>,
    /// Jobs that were asked for since the coordinator started, whose texts are on record or on the way.
    asked: BTreeSet<JobKey>,
    /// Jobs that are made again: what is on record of them does not count until then.
    lost: BTreeSet<JobKey>,
}

impl Driver {
    /// Opens the jobs that are not made yet, and says what has become of all.
    pub(super) fn make(&mut self, request: MakeRequest, reply: Reply<Making>) -> Result<(), StoreError> {
        let MakeRequest { jobs, lost, retry } = request;
        let jobs: Vec<AddressedJob> = jobs.into_iter().map(AddressedJob::from).collect();
        let is_new = |job: &&AddressedJob| !self.ledger.owners(job.key).contains(&Owner::PEOPLE);
        let open = self.ledger.open_count(Owner::PEOPLE) as usize;
        if open + jobs.iter().filter(is_new).count() > MOST_OPEN {
            self.outbox.answer(reply, Err(Refusal::Busy));
            return Ok(());
        }
        for key in lost {
            self.jobs.made.remove(&key);
            self.jobs.lost.insert(key);
        }
        let kinds: BTreeSet<JobKind<'_>> = jobs.iter().map(|job| job.job.kind()).collect();
        let able_workers = self.workers.able(&kinds);
        let mut all = Vec::new();
        for job in jobs {
            let key = job.key;
            if retry {
                self.jobs.failed.remove(&key);
            }
            match self.ask(job)? {
                Ok(state) => all.push(JobStatus { key, state }),
                Err(refusal) => {
                    self.outbox.answer(reply, Err(refusal));
                    return Ok(());
                }
            }
        }
        self.outbox.answer(reply, Ok(Making { jobs: all, able_workers }));
        Ok(())
    }

    fn ask(&mut self, job: AddressedJob) -> Result<Result<JobState, Refusal>, StoreError> {
        let key = job.key;
        self.record_job(&job);
        if let Some(made) = self.made(key)? {
            return Ok(Ok(JobState::Made(made)));
        }
        if let Some(reason) = self.jobs.failed.get(&key) {
            return Ok(Ok(JobState::Failed(reason.clone())));
        }
        if let Err(words) = self.open_job(Owner::PEOPLE, job)? {
            return Ok(Err(Refusal::Invalid(words)));
        }
        Ok(Ok(self.ledger.job(key).map_or(JobState::Pending, JobState::from)))
    }

    /// Gives a search the artifact of a job that it asks for, or opens the job.
    pub(super) fn provide(&mut self, index: usize, job: AddressedJob) -> Result<(), StoreError> {
        let key = job.key;
        self.record_job(&job);
        let search = &mut self.experiments[index].search;
        if search.failures().contains_key(&key.into()) {
            return Ok(());
        }
        let (bound, is_active) = (search.bound(key), search.is_active());
        let made = match bound {
            Some(artifact) => Some(artifact),
            None => self.made(key)?.map(|made| made.artifact),
        };
        match made {
            Some(artifact) => self.bind(index, &job, artifact),
            None if !is_active => self.experiments[index].search.pass_over(),
            None => {
                let name = job.job.to_string();
                if let Err(words) = self.open_job(Owner::at(index), job)? {
                    self.fail(index, key.into(), &name, &words);
                }
            }
        }
        Ok(())
    }

    /// Puts the text of a job on record, also of one that is made: it may have come in late, after a crash lost what was
    /// asked.
    fn record_job(&mut self, job: &AddressedJob) {
        if self.jobs.asked.insert(job.key) {
            self.outbox.write(Write::Job(job.job.clone()));
        }
    }

    /// Opens a job that is not made, for one more owner. The error says what it reads that the owner did not ask for, or that
    /// failed.
    fn open_job(&mut self, owner: Owner, job: AddressedJob) -> Result<Result<(), String>, StoreError> {
        let mut waits_for = BTreeSet::new();
        for input in job.job.waits_for() {
            if self.made(input)?.is_none() {
                waits_for.insert(input);
            }
        }
        let (key, text) = (job.key, job.job.clone());
        match self.ledger.open_job(owner, job.into(), waits_for) {
            Opened::Unknown(input) => {
                return Ok(Err(format!(
                    "job {key} reads what job {input} makes, which has to be asked for before it"
                )));
            }
            Opened::Waiting => self.note_job(owner, format!("{text} is to be made")),
            Opened::Known | Opened::Complete(_) => {}
        }
        Ok(Ok(()))
    }

    /// Binds an experiment to the artifact of a job. If its search reads that and it cannot be read, the job has failed for it.
    fn bind(&mut self, index: usize, job: &AddressedJob, artifact: ContentHash) {
        let search = &mut self.experiments[index].search;
        if job.job.is_read() {
            match Artifacts::of(self.store.path()).document(&search.bound(job.key).unwrap_or(artifact)) {
                Ok(document) => search.read_document(job.key, document),
                Err(error) => {
                    return self.fail(index, job.key.into(), &job.job.to_string(), &error.to_string());
                }
            }
        }
        if search.bind(job, artifact) {
            let binding = Write::Binding(search.id().to_owned(), job.key, artifact);
            self.outbox.write(binding);
        }
    }

    fn note_job(&mut self, owner: Owner, text: String) {
        let id = self.experiments.get(owner.index()).map_or("", |run| run.search.id());
        self.journal.note(id, text);
    }

    /// Jobs under way, as people see them: those first that workers have.
    pub(super) fn jobs_under_way(&self, now: Moment) -> Vec<JobUnderWay> {
        let mut open: Vec<OpenJob> = self.ledger.jobs().collect();
        open.sort_by_key(|open| (open.waits, open.since.is_none(), open.since, open.job.key));
        open.truncate(SHOWN_JOBS);
        let show = |open: OpenJob| JobUnderWay {
            text: open.job.job.to_string(),
            experiments: (open.owners.iter())
                .filter_map(|owner| Some(self.experiments.get(owner.index())?.search.id().to_owned()))
                .collect(),
            leased: open.since.map(|since| now.since(since)),
            status: JobStatus { key: open.job.key, state: open.into() },
        };
        open.into_iter().map(show).collect()
    }

    /// Open jobs by state.
    pub(super) fn job_counts(&self) -> JobCounts {
        let mut counts = JobCounts::default();
        for open in self.ledger.jobs() {
            match JobState::from(open) {
                JobState::Waiting => counts.waiting += 1,
                JobState::Pending => counts.pending += 1,
                JobState::Leased { .. } => counts.leased += 1,
                // Those are open no more.
                JobState::Made(_) | JobState::Failed(_) => {}
            }
        }
        counts
    }

    /// What a job made, unless that was lost.
    pub(super) fn made(&mut self, key: JobKey) -> Result<Option<Made>, StoreError> {
        if !self.jobs.made.contains_key(&key) && !self.jobs.lost.contains(&key) {
            self.jobs.made.extend(self.store.made(&[key])?);
        }
        Ok(self.jobs.made.get(&key).cloned())
    }

    /// Hashes of a job's inputs by name, all of which are made by now.
    pub(super) fn inputs(&mut self, job: &Job) -> Result<BTreeMap<String, ContentHash>, StoreError> {
        let mut inputs = BTreeMap::new();
        for (name, input) in &job.inputs {
            let hash = match input {
                JobInput::Artifact(hash) => Some(*hash),
                JobInput::Job(key) => self.made(*key)?.map(|made| made.artifact),
            };
            inputs.extend(hash.map(|hash| (name.clone(), hash)));
        }
        Ok(inputs)
    }

    /// The job of a lease, if that is in force and for a job.
    pub(super) fn leased_job(&self, lease: LeaseId) -> Option<Arc<AddressedJob>> {
        self.ledger.leased(lease)?.job().cloned()
    }

    /// Takes the artifact of a job, whose bytes are on disk.
    pub(super) fn settle_made(
        &mut self,
        worker: &str,
        lease: LeaseId,
        key: JobKey,
        made: Made,
        now: Moment,
    ) -> Result<(), StoreError> {
        let in_force = self.ledger.is_out(lease);
        let owners = self.ledger.owners(key).to_vec();
        let settled = self.ledger.settle_job(key, made.clone(), now);
        self.journal.tally.note(&settled, in_force);
        self.journal.ended(lease, None);
        match settled {
            Settled::Complete(closed) => {
                for owner in owners {
                    self.success(worker, owner);
                }
                self.close(closed);
            }
            // Late: it was made meanwhile, or nobody asked since this coordinator started.
            Settled::Unknown if lease < self.next_lease => match self.made(key)? {
                None => self.record_made(key, made),
                Some(known) if known.artifact == made.artifact => {}
                Some(_) => {
                    self.journal.tally.conflicting += 1;
                    tracing::error!(job = %key, artifact = %made.artifact, "a job made another artifact than is recorded; the first one stays");
                    self.outbox.write(Write::Made(key, made));
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Files a job that is closed, with everyone who waited for it.
    pub(super) fn close_job(&mut self, job: &AddressedJob, owners: &[Owner], outcome: Outcome) {
        let addressed = job;
        let AddressedJob { job, key } = addressed;
        match outcome {
            Outcome::Made(made) => {
                let artifact = made.artifact;
                self.journal.tally.jobs_made += 1;
                self.record_made(*key, made);
                for owner in owners {
                    self.note_job(*owner, format!("{job} is made"));
                    if *owner != Owner::PEOPLE {
                        self.bind(owner.index(), addressed, artifact);
                    }
                }
            }
            Outcome::Failed(reason) => {
                tracing::warn!(job = %key, kind = job.kind, reason, "a job failed");
                self.journal.tally.jobs_failed += 1;
                for owner in owners {
                    if *owner == Owner::PEOPLE {
                        self.journal.note("", format!("{job} failed: {reason}"));
                        self.jobs.failed.insert(*key, reason.clone());
                    } else {
                        self.fail(owner.index(), (*key).into(), &job.to_string(), &reason);
                    }
                }
            }
            // Of trials alone.
            Outcome::Measured(_) => {}
        }
    }

    fn record_made(&mut self, key: JobKey, made: Made) {
        self.jobs.lost.remove(&key);
        self.jobs.made.insert(key, made.clone());
        self.outbox.write(Write::Made(key, made));
    }
}
