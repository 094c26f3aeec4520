//! Jobs that people ask for apart from any experiment: what has become of each.
//!
//! Asking is idempotent: whoever waits for an artifact asks again until it is made, also a coordinator that was started
//! anew. What was made is on record, so nothing is made twice.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, Job, JobInput, JobKey};
use qslm_common::work::Made;

use super::Driver;
use super::request::{MakeRequest, Refusal, Reply};
use super::status::{JobState, JobStatus, Making};
use crate::ledger::{LeaseId, Moment, Opened, Outcome, Owner, Settled};
use crate::store::{StoreError, Write};

/// Word by which a worker asks for such jobs alone, in place of an experiment's id.
pub const JOBS: &str = "jobs";

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
        for key in lost {
            self.jobs.made.remove(&key);
            self.jobs.lost.insert(key);
        }
        let kinds: BTreeSet<String> = jobs.iter().map(|job| job.kind.clone()).collect();
        let mut all = Vec::new();
        for job in jobs {
            let job = AddressedJob::from(job);
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
        let able_workers = self.workers.able(&kinds);
        self.outbox.answer(reply, Ok(Making { jobs: all, able_workers }));
        Ok(())
    }

    fn ask(&mut self, job: AddressedJob) -> Result<Result<JobState, Refusal>, StoreError> {
        let key = job.key;
        // Also of one that is made: it may have come in late, after a crash lost what was asked.
        if self.jobs.asked.insert(key) {
            self.outbox.write(Write::Job(job.job.clone()));
        }
        if let Some(open) = self.ledger.job(key) {
            return Ok(Ok(open.into()));
        }
        if let Some(made) = self.made(key)? {
            return Ok(Ok(JobState::Made(made)));
        }
        if let Some(reason) = self.jobs.failed.get(&key) {
            return Ok(Ok(JobState::Failed(reason.clone())));
        }
        let mut waits_for = BTreeSet::new();
        for input in job.job.waits_for() {
            if self.made(input)?.is_none() {
                waits_for.insert(input);
            }
        }
        let text = job.job.clone();
        match self.ledger.open_job(Owner::PEOPLE, job.into(), waits_for) {
            Opened::Unknown(input) => {
                let words =
                    format!("job {key} reads what job {input} makes, which has to be asked for before it");
                return Ok(Err(Refusal::Invalid(words)));
            }
            Opened::Waiting | Opened::Known | Opened::Complete(_) => {}
        }
        self.journal.note("", format!("{text} is to be made"));
        Ok(Ok(self.ledger.job(key).map_or(JobState::Pending, JobState::from)))
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

    /// Bound in bytes of the artifact that may be uploaded under a lease, if that is in force and for a job.
    pub(super) fn upload_bound(&self, lease: LeaseId) -> Option<u64> {
        Some(self.ledger.leased(lease)?.job()?.job.largest)
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
        let settled = self.ledger.settle_job(key, made.clone(), now);
        self.journal.tally.note(&settled, in_force);
        self.journal.ended(lease, None);
        match settled {
            Settled::Complete(closed) => {
                self.success(worker, Owner::PEOPLE);
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

    /// Files a job that is closed.
    pub(super) fn close_job(&mut self, job: &AddressedJob, outcome: Outcome) {
        match outcome {
            Outcome::Made(made) => {
                self.journal.note("", format!("{} is made", job.job));
                self.record_made(job.key, made);
            }
            Outcome::Failed(reason) => {
                tracing::warn!(job = %job.key, kind = job.job.kind, reason, "a job failed");
                self.journal.note("", format!("{} failed: {reason}", job.job));
                self.jobs.failed.insert(job.key, reason);
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
