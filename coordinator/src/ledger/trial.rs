//! One open trial and the states of its shards.

use std::sync::Arc;

use qslm_common::evidence::{Engines, Evidence};
use qslm_common::measurement::{CannotAdd, Counts};
use qslm_common::trial::Addressed;

use super::{LeaseId, Owner};

/// A trial with shards to settle.
#[derive(Debug)]
pub(super) struct OpenTrial {
    /// Trials are worked on in the order in which they were opened.
    pub(super) order: u64,
    pub(super) trial: Arc<Addressed>,
    /// Who wants it, each once.
    pub(super) owners: Vec<Owner>,
    /// By shard index.
    pub(super) shards: Vec<ShardState>,
}

/// Where a shard stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ShardState {
    /// Waiting, or with a worker under a lease; a straggler's shard with two.
    Open { leases: Vec<LeaseId>, failures: u32, expiries: u32 },
    /// Done.
    Settled(Evidence),
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All shards are settled; the sum of their counts, and all who counted.
    Measured(Evidence),
    /// It cannot be measured, and why.
    Failed(String),
}

/// A trial that is not open any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// Which one.
    pub trial: Arc<Addressed>,
    /// Who wanted it.
    pub owners: Vec<Owner>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a report about a shard led to.
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
    /// No such trial, shard or lease is open.
    Unknown,
    /// Counts that no network of this shape can give.
    Implausible,
}

impl Default for ShardState {
    fn default() -> Self {
        Self::Open { leases: Vec::new(), failures: 0, expiries: 0 }
    }
}

impl ShardState {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Settled(_))
    }

    /// Whether it waits for a worker.
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

    /// Back from a worker that could not do it. Returns how often that happened.
    pub(super) fn return_failed(&mut self, lease: LeaseId) -> u32 {
        self.give_back(lease, |failures, _| {
            *failures += 1;
            *failures
        })
    }

    /// Back from a worker that went silent. Returns how often that happened.
    pub(super) fn return_expired(&mut self, lease: LeaseId) -> u32 {
        self.give_back(lease, |_, expiries| {
            *expiries += 1;
            *expiries
        })
    }

    /// Back from a worker that did not touch it.
    pub(super) fn return_unharmed(&mut self, lease: LeaseId) {
        self.give_back(lease, |_, _| 0);
    }

    fn give_back(&mut self, lease: LeaseId, count: impl FnOnce(&mut u32, &mut u32) -> u32) -> u32 {
        match self {
            Self::Open { leases, failures, expiries } => {
                leases.retain(|other| *other != lease);
                count(failures, expiries)
            }
            Self::Settled(_) => 0,
        }
    }
}

impl OpenTrial {
    /// Number of settled shards.
    pub(super) fn settled(&self) -> u32 {
        self.shards.iter().filter(|shard| shard.is_settled()).count() as u32
    }

    /// The places of its shards among the pending ones.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let indexes = 0..self.shards.len() as u32;
        indexes.map(|index| (self.order, index))
    }

    /// The sum over all shards; `None` while one is open.
    pub(super) fn sum(&self) -> Option<Result<Evidence, CannotAdd>> {
        let mut total = Counts::zero(self.trial.trial.network.population_count());
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

    /// How the trial ended, given the sum of its shards.
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

/// Where a shard stands among the pending ones: the trial's order, then the shard's index.
pub(super) type Place = (u64, u32);
