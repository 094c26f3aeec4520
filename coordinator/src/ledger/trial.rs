//! One open trial and the states of its shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::evidence::{Engines, Evidence};
use qslm_common::measurement::{CannotAdd, Counts};
use qslm_common::task::Shard;
use qslm_common::trial::Addressed;

use super::{LeaseId, Owner};

/// A trial with shards to settle.
#[derive(Debug)]
pub(super) struct OpenTrial {
    /// Order: trials are worked on in the order in which they were opened.
    pub(super) order: u64,
    pub(super) trial: Arc<Addressed>,
    /// Owners that wait for it, each once.
    pub(super) owners: Vec<Owner>,
    /// States of its shards, by index.
    pub(super) shards: Vec<ShardState>,
}

/// State of a shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ShardState {
    /// Waiting, or with a worker under a lease; a straggler's shard with two.
    /// Workers that vanished over it are counted once each, by the lease that ran out last.
    Open { leases: Vec<LeaseId>, vanished: BTreeMap<String, LeaseId> },
    /// Settled, with its result.
    Settled(Evidence),
}

/// Outcome of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Measured: the sum of the counts of all shards, and the engines that counted.
    Measured(Evidence),
    /// Failed: the reason why it cannot be measured.
    Failed(String),
}

/// A trial that is not open any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// The trial.
    pub trial: Arc<Addressed>,
    /// Owners that waited for it.
    pub owners: Vec<Owner>,
    /// Outcome of the trial.
    pub outcome: Outcome,
}

/// Result of opening a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened {
    /// Open: its owner waits for it now.
    Waiting,
    /// Open before: its owner waited for it already.
    Known,
    /// All its shards were settled before, so it is closed at once.
    Complete(Closed),
}

/// Result of settling a shard.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    /// News about a trial that is still open.
    Recorded,
    /// The trial is closed.
    Complete(Closed),
    /// Nothing new: the same was reported before.
    Known,
    /// Other counts were recorded for the same shard: something is not deterministic.
    Conflict,
    /// No such trial or shard is open.
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

impl OpenTrial {
    /// A trial of `of` shards, some of which may be settled already.
    pub(super) fn new(
        order: u64,
        trial: Arc<Addressed>,
        of: u32,
        settled: &BTreeMap<Shard, Evidence>,
    ) -> Self {
        // What came in while the trial was not open is checked only now.
        let network = trial.trial.protocol.network;
        let plausible =
            |part: &&Evidence| part.counts.is_plausible(network.population_count(), network.channels);
        let shards = (0..of).map(|index| match settled.get(&Shard { index, of }).filter(plausible) {
            Some(part) => ShardState::Settled(part.clone()),
            None => ShardState::default(),
        });
        let shards = shards.collect();
        Self { order, trial, owners: Vec::new(), shards }
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

    /// The sum over all shards; `None` while one is open.
    pub(super) fn sum(&self) -> Option<Result<Evidence, CannotAdd>> {
        let mut total = Counts::zero(self.trial.trial.protocol.network.population_count());
        let mut engines = Engines::new();
        for shard in &self.shards {
            let ShardState::Settled(part) = shard else { return None };
            if let Err(error) = total.add(&part.counts) {
                return Some(Err(error));
            }
            engines.extend(&part.engines);
        }
        Some(Ok(Evidence { counts: total, engines }))
    }

    /// Closed trial with its outcome, given the sum of its shards.
    pub(super) fn close(self, sum: Result<Evidence, CannotAdd>) -> Closed {
        self.end(match sum {
            Ok(Evidence { counts, .. }) if counts.perplexity().is_none() && counts.accuracy().is_none() => {
                Outcome::Failed("nothing was scored".to_owned())
            }
            Ok(evidence) => Outcome::Measured(evidence),
            Err(error) => Outcome::Failed(error.to_string()),
        })
    }

    pub(super) fn end(self, outcome: Outcome) -> Closed {
        Closed { trial: self.trial, owners: self.owners, outcome }
    }
}

/// Place of a shard among the pending ones: the trial's order, then the shard's index.
pub(super) type PendingShard = (u64, u32);
