//! Rounds by the law alone: what was measured of groups alone decides the allocations once and for all, and what whole ones
//! lose decides which are tried next. Experiments from before there was a regression are searched so.
//!
//! ```text
//! allocation    of all allocations those on the convex hull are tried around the bound, then between what was good enough
//!     |         and what was not
//!     |
//! neighbours    the best of them with one more group a level lower
//! ```

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::{Candidate, CandidateId};

use super::probes::Probes;
use super::{ALLOCATION, AT_A_TIME, NEIGHBOUR, NEIGHBOURS, ROUNDS, Round, Rounds};

/// Predicted losses of the first allocations, as multiples of the bound.
const AROUND_THE_BOUND: [f64; AT_A_TIME] = [0.5, 0.7, 0.85, 1.0, 1.2, 1.5];
/// Loss from which on a prediction has a group in it that could not be measured.
const UNKNOWN: f64 = 1e100;

/// Rounds by the law.
#[derive(Default)]
pub(super) struct Law {
    /// Bytes of the whole and predicted loss of every group at each of its levels, the others at their first.
    tables: Vec<Vec<(u64, f64)>>,
    /// Allocations on the convex hull, the largest first.
    path: Vec<Allocation>,
    /// Candidates that were proposed, with the losses that were predicted.
    tried: BTreeMap<CandidateId, f64>,
    /// Candidates that were measured on all data before.
    before: BTreeSet<CandidateId>,
    /// Rounds so far.
    rounds: usize,
    is_over: bool,
}

/// A level for every group.
#[derive(Debug, Clone, PartialEq)]
struct Allocation {
    levels: Vec<usize>,
    bytes: u64,
    /// Predicted loss in nats per token or sentence.
    loss: f64,
}

impl Rounds for Law {
    fn next(&mut self, probes: &Probes, archive: &Archive) -> Option<Round> {
        if self.is_over {
            return None;
        }
        if self.path.is_empty() {
            let Some(sensitivities) = sensitivities(probes, archive) else {
                self.is_over = true;
                return None;
            };
            let before = if probes.subset.is_some() { vec![probes.float()] } else { probes.all() };
            self.before = before.iter().map(Candidate::id).collect();
            self.tables = tables(probes, &sensitivities);
            self.path = hull(probes.base_bytes(), &self.tables);
        }
        let places = match self.rounds {
            0 => self.first(probes),
            _ => {
                let (good, bad) = self.bracket(probes, archive);
                self.between(bad, good)
            }
        };
        if self.rounds < ROUNDS
            && let Some(round) = self.propose(probes, places)
        {
            self.rounds += 1;
            return Some(round);
        }
        self.is_over = true;
        self.neighbours(probes, archive)
    }

    fn remaining_at_most(&self, probes: &Probes) -> u64 {
        let neighbours = NEIGHBOURS.min(probes.groups.len());
        if self.is_over { 0 } else { ((ROUNDS - self.rounds) * AT_A_TIME + neighbours) as u64 }
    }

    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        // With a group that could not be measured there is nothing to predict from.
        let told = self.tried.iter().filter(|(_, loss)| **loss < UNKNOWN);
        told.map(|(id, loss)| (*id, *loss)).collect()
    }
}

/// Loss of every group per token or sentence, divided by the squared error of its codes then.
fn sensitivities(probes: &Probes, archive: &Archive) -> Option<Vec<f64>> {
    probes.float_loss(archive)?;
    let of_group = |group| {
        let telling = probes.telling(archive, group);
        // What could not be measured stays as it is.
        telling.map_or(f64::MAX.sqrt(), |telling| {
            telling.loss / probes.error_at(group, telling.level).max(f64::MIN_POSITIVE)
        })
    };
    Some(probes.groups.iter().map(of_group).collect())
}

/// Bytes of the whole and predicted loss of every group at each of its levels.
fn tables(probes: &Probes, sensitivities: &[f64]) -> Vec<Vec<(u64, f64)>> {
    let of_group = |(group, per_error)| {
        let at = |level| (probes.bytes(group, level), per_error * probes.error_at(group, level));
        (0..=probes.last(group)).map(at).collect()
    };
    probes.groups.iter().zip(sensitivities).map(of_group).collect()
}

/// True if a candidate is within the bounds; without any, nothing is too much.
fn is_good_enough(probes: &Probes, archive: &Archive, entry: &Entry) -> bool {
    let Some(float) = archive.float(&probes.experiment) else { return false };
    probes.experiment.constraints.allow_loss(&float.counts, entry.measured())
}

impl Law {
    /// Bytes of the smallest allocation that is good enough, and of the largest below it that is not.
    fn bracket(&self, probes: &Probes, archive: &Archive) -> (u64, u64) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for allocation in &self.path {
            let id = probes.candidate(&allocation.levels).id();
            // A search that starts over finds more in the archive than it asked for yet.
            let is_known = self.tried.contains_key(&id) || self.before.contains(&id);
            match archive.get(&id).filter(|_| is_known) {
                Some(entry) if is_good_enough(probes, archive, entry) => good.push(allocation.bytes),
                _ if self.tried.contains_key(&id) => bad.push(allocation.bytes),
                _ => {}
            }
        }
        let good = good.into_iter().min().or_else(|| Some(self.path.first()?.bytes)).unwrap_or_default();
        (good, bad.into_iter().filter(|bytes| *bytes < good).max().unwrap_or_default())
    }

    /// Allocations to try first: around the bound on perplexity as it is predicted, else evenly.
    fn first(&self, probes: &Probes) -> Vec<usize> {
        match probes.bound() {
            Some(bound) => {
                let last_below = |times: &f64| self.path.iter().rposition(|one| one.loss <= times * bound);
                AROUND_THE_BOUND.iter().filter_map(last_below).collect()
            }
            None => self.between(self.path.last().map_or(0, |last| last.bytes), u64::MAX),
        }
    }

    /// Allocations evenly between two numbers of bytes, both of which were tried.
    fn between(&self, low: u64, high: u64) -> Vec<usize> {
        let high = high.min(self.path.first().map_or(0, |first| first.bytes));
        let low = low.max(self.path.last().map_or(0, |last| last.bytes));
        let at = |step: usize| {
            let target = high - (high - low.min(high)) * step as u64 / (AT_A_TIME as u64 + 1);
            self.path.iter().position(|one| one.bytes <= target)
        };
        (1..=AT_A_TIME).filter_map(at).collect()
    }

    /// Proposes those of these allocations that were not tried; `None` if all were.
    fn propose(&mut self, probes: &Probes, places: Vec<usize>) -> Option<Round> {
        let mut candidates = Vec::new();
        for place in places {
            let Allocation { levels, loss, .. } = &self.path[place];
            let candidate = probes.candidate(levels);
            if self.note(&candidate, *loss) {
                candidates.push(candidate);
            }
        }
        (!candidates.is_empty()).then_some(Round { stage: ALLOCATION, candidates })
    }

    /// Notes a candidate that is proposed, with its predicted loss. Returns whether it is new.
    fn note(&mut self, candidate: &Candidate, loss: f64) -> bool {
        let id = candidate.id();
        let is_new = !self.tried.contains_key(&id);
        self.tried.entry(id).or_insert(loss);
        is_new
    }

    /// The smallest allocation that was good enough, with one more group a level lower.
    fn neighbours(&mut self, probes: &Probes, archive: &Archive) -> Option<Round> {
        let (good, _) = self.bracket(probes, archive);
        let best = self.path.iter().find(|one| one.bytes == good)?;
        let mut lowered = Vec::new();
        for (index, table) in self.tables.iter().enumerate() {
            let Some((price, level)) = cheapest(table, best.levels[index]) else { continue };
            let mut levels = best.levels.clone();
            levels[index] = level;
            let loss = best.loss + table[level].1 - table[best.levels[index]].1;
            lowered.push((price, probes.candidate(&levels), loss));
        }
        // Those that are likeliest to be good enough still.
        lowered.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut candidates = Vec::new();
        for (_, candidate, loss) in lowered {
            if candidates.len() < NEIGHBOURS && self.note(&candidate, loss) {
                candidates.push(candidate);
            }
        }
        (!candidates.is_empty()).then_some(Round { stage: NEIGHBOUR, candidates })
    }
}

/// Allocations on the convex hull: from every group at its first level on, the lowering that adds least loss for a byte
/// comes next. `tables` has bytes of the whole and added loss of each group at each of its levels.
fn hull(bytes: u64, tables: &[Vec<(u64, f64)>]) -> Vec<Allocation> {
    let first = |table: &Vec<(u64, f64)>| table.first().map_or(0.0, |(_, loss)| *loss);
    let mut current =
        Allocation { levels: vec![0; tables.len()], bytes, loss: tables.iter().map(first).sum() };
    let mut path = vec![current.clone()];
    loop {
        let moves = tables.iter().enumerate().filter_map(|(index, table)| {
            cheapest(table, current.levels[index]).map(|(price, level)| (price, index, level))
        });
        let Some((_, index, level)) = moves.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) else {
            return path;
        };
        let (before, after) = (tables[index][current.levels[index]], tables[index][level]);
        current.levels[index] = level;
        current.bytes -= before.0 - after.0;
        current.loss += after.1 - before.1;
        path.push(current.clone());
    }
}

/// The level below one of a group that adds least loss for a byte, and how much. From each to the next is the group's own
/// convex hull.
fn cheapest(table: &[(u64, f64)], from: usize) -> Option<(f64, usize)> {
    let (bytes, loss) = table[from];
    let smaller = (from + 1..table.len()).filter(|level| table[*level].0 < bytes);
    let priced = smaller.map(|level| {
        let (saved, added) = (bytes - table[level].0, (table[level].1 - loss).max(0.0));
        (added / saved as f64, level)
    });
    // Of equals the lowest level: it saves most.
    priced.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
}

#[cfg(test)]
mod tests;
