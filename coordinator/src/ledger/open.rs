//! Open work, one trial or job, and the states of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qslm_common::evidence::{Backing, Engines, Evidence};
use qslm_common::job::{AddressedJob, JobKey};
use qslm_common::measurement::{CannotAdd, Counts};
use qslm_common::spread;
use qslm_common::task::Shard;
use qslm_common::trial::Addressed;
use qslm_common::work::{Made, Part, Work};

use super::{LeaseId, Owner};

/// Work with shards to settle.
#[derive(Debug)]
pub(super) struct OpenWork {
    /// Order: work is done in the order in which it was opened.
    pub(super) order: u64,
    pub(super) work: Work,
    /// Owners that wait for it, each once.
    pub(super) owners: Vec<Owner>,
    /// States of its shards, by index; a job is one.
    pub(super) shards: Vec<ShardState>,
    /// Jobs whose artifacts are to be made first. Until then no shard of it is pending.
    pub(super) waits_for: BTreeSet<JobKey>,
}

/// State of a shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ShardState {
    /// Waiting, or with a worker under a lease; a straggler's shard with two.
    /// Workers that vanished over it are counted once each, by the lease that ran out last.
    Open { leases: Vec<LeaseId>, vanished: BTreeMap<String, LeaseId> },
    /// Settled, with its result.
    Settled(Part),
}

/// Outcome of work.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Measured: the sum of the counts of all shards of a trial, and the engines that counted.
    Measured(Evidence),
    /// Made: the artifact of a job.
    Made(Made),
    /// Failed: the reason why it cannot be measured or made.
    Failed(String),
}

/// Work that is not open any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// The trial or job.
    pub work: Work,
    /// Owners that waited for it.
    pub owners: Vec<Owner>,
    /// Outcome of the work.
    pub outcome: Outcome,
}

#[cfg(test)]
impl Closed {
    /// The trial that was closed.
    pub(crate) fn trial(&self) -> &Arc<Addressed> {
        self.work.trial().expect("a trial")
    }
}

/// Result of opening work.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened {
    /// Open: its owner waits for it now.
    Waiting,
    /// Open before: its owner waited for it already.
    Known,
    /// All its shards were settled before, so it is closed at once.
    Complete(Closed),
    /// Not opened: it waits for a job that its owner has not opened.
    Unknown(JobKey),
}

/// Result of settling a shard.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    /// News about work that is still open.
    Recorded,
    /// The work is closed.
    Complete(Closed),
    /// Nothing new: the same was reported before.
    Known,
    /// Another result was recorded for the same shard: something is not deterministic.
    Conflict,
    /// No such work or shard is open.
    Unknown,
    /// Counts that no network of this shape can give.
    Implausible,
}

impl Default for ShardState {
    fn default() -> Self {
        Self::Open { leases: Vec::new(), vanished: BTreeMap::new() }
    }
}

impl ShardState {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Settled(_))
    }

    /// True if it waits for a worker.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Open { leases, .. } if leases.is_empty())
    }

    /// Its result, once it is settled.
    pub(super) fn result(&self) -> Option<&Part> {
        match self {
            Self::Open { .. } => None,
            Self::Settled(part) => Some(part),
        }
    }

    /// The leases it is out under.
    pub(super) fn leases(&self) -> &[LeaseId] {
        match self {
            Self::Open { leases, .. } => leases,
            Self::Settled(_) => &[],
        }
    }

    pub(super) fn grant(&mut self, to: LeaseId) {
        if let Self::Open { leases, .. } = self {
            leases.push(to);
        }
    }

    /// The workers that vanished over it, with the leases that ran out.
    pub(super) fn vanished(&self) -> &BTreeMap<String, LeaseId> {
        static NONE: BTreeMap<String, LeaseId> = BTreeMap::new();
        match self {
            Self::Open { vanished, .. } => vanished,
            Self::Settled(_) => &NONE,
        }
    }

    /// Takes it back from a worker that vanished. Returns the lease by which that worker was counted before,
    /// if it was.
    pub(super) fn return_vanished(&mut self, lease: LeaseId, worker: &str) -> Option<LeaseId> {
        self.return_unharmed(lease);
        match self {
            Self::Open { vanished, .. } => vanished.insert(worker.to_owned(), lease),
            Self::Settled(_) => None,
        }
    }

    /// Takes it back from a worker without a word against it.
    pub(super) fn return_unharmed(&mut self, lease: LeaseId) {
        if let Self::Open { leases, .. } = self {
            leases.retain(|other| *other != lease);
        }
    }

    /// Takes a worker that came back off the vanished ones, if it is counted by this lease. Returns whether
    /// it was.
    pub(super) fn forgive(&mut self, lease: LeaseId, worker: &str) -> bool {
        match self {
            Self::Open { vanished, .. } if vanished.get(worker) == Some(&lease) => {
                vanished.remove(worker).is_some()
            }
            _ => false,
        }
    }
}

impl OpenWork {
    /// A trial of `of` shards, some of which may be settled already.
    pub(super) fn trial(
        order: u64,
        trial: Arc<Addressed>,
        of: u32,
        settled: &BTreeMap<Shard, Evidence>,
    ) -> Self {
        // What came in while the trial was not open is checked only now.
        let plausible = |part: &&Evidence| trial.trial.protocol.could_give(&part.counts);
        let shards = (0..of).map(|index| match settled.get(&Shard { index, of }).filter(plausible) {
            Some(part) => ShardState::Settled(Part::Counts(part.clone())),
            None => ShardState::default(),
        });
        let shards = shards.collect();
        Self { order, work: Work::Trial(trial), owners: Vec::new(), shards, waits_for: BTreeSet::new() }
    }

    /// A job, which may have to wait for the artifacts of others.
    pub(super) fn job(order: u64, job: Arc<AddressedJob>, waits_for: BTreeSet<JobKey>) -> Self {
        let shards = vec![ShardState::default()];
        Self { order, work: Work::Job(job), owners: Vec::new(), shards, waits_for }
    }

    /// The places of the shards that wait for a worker.
    pub(super) fn pending(&self) -> impl Iterator<Item = PendingShard> {
        let waits = self.waits_for.is_empty();
        let pending = self.places().zip(&self.shards).filter(move |(_, shard)| waits && shard.is_pending());
        pending.map(|(place, _)| place)
    }

    /// Number of settled shards.
    pub(super) fn settled(&self) -> u32 {
        self.shards.iter().filter(|shard| shard.is_settled()).count() as u32
    }

    /// The places of its shards among the pending ones.
    pub(super) fn places(&self) -> impl Iterator<Item = PendingShard> {
        let indexes = 0..self.shards.len() as u32;
        indexes.map(|index| (self.order, index))
    }

    /// Outcome, once every shard is settled: a trial's counts are added up, a job's artifact is its result.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let parts: Option<Vec<&Part>> = self.shards.iter().map(ShardState::result).collect();
        let parts = parts?;
        Some(match (&self.work, &parts[..]) {
            (Work::Job(_), [Part::Artifact(made)]) => Outcome::Made(made.clone()),
            (Work::Trial(trial), parts) => match sum(trial, parts) {
                Ok(Evidence { counts, .. })
                    if counts.perplexity().is_none() && counts.accuracy().is_none() =>
                {
                    Outcome::Failed("nothing was scored".to_owned())
                }
                Ok(evidence) => Outcome::Measured(evidence),
                Err(error) => Outcome::Failed(error.to_string()),
            },
            (Work::Job(_), _) => Outcome::Failed("it made no artifact".to_owned()),
        })
    }

    pub(super) fn end(self, outcome: Outcome) -> Closed {
        Closed { work: self.work, owners: self.owners, outcome }
    }
}

fn sum(trial: &Addressed, parts: &[&Part]) -> Result<Evidence, CannotAdd> {
    let mut total = Counts::zero(trial.trial.protocol.network.population_count());
    let mut engines = Engines::new();
    let mut spreads = Vec::new();
    for part in parts {
        if let Part::Counts(Evidence { counts, backing }) = part {
            total.add(counts)?;
            engines.extend(&backing.engines);
            spreads.push(backing.spread);
        }
    }
    let spread = spread::total(spreads);
    Ok(Evidence { counts: total, backing: Backing { engines, spread } })
}

/// Place of a shard among the pending ones: the order of its work, then its index.
pub(super) type PendingShard = (u64, u32);
