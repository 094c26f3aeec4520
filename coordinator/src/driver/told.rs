//! Tells: what somebody outside proposes for an experiment, what is pruned of it, and what becomes of the rest.
//!
//! Numbers are the caller's, one after the other from 1, so that a call that was not answered can be repeated: the same
//! candidates under the same number change nothing. What is told or pruned is on disk before that is acknowledged, and
//! a coordinator that starts anew hands it to the search again.

use std::sync::Arc;

use qslm_common::candidate::CandidateId;
use qslm_common::trial::TrialKey;
use qslm_search::{MAX_TOLD_BYTES, Tell};

use super::request::Refusal;
use super::search_run::{Addresses, SearchRun};
use super::told_view::{ToldCandidate, ToldState, ToldView};
use super::{Driver, ExperimentRun};
use crate::ledger::Ledger;
use crate::store::Write;

impl Driver {
    /// Takes a tell under its number. Returns how many tells there are.
    pub(super) fn take_tell(&mut self, id: &str, number: u64, tell: Tell) -> Result<u64, Refusal> {
        let index = self.find(id)?;
        let search = &mut self.experiments[index].search;
        let told = search.playback().tells().len() as u64;
        if is_known(search, number, &tell)? {
            return Ok(told);
        }
        may_follow(search, number, &tell)?;
        let (id, tell) = (search.id().to_owned(), Arc::new(tell));
        let last = if tell.last { ", the last one" } else { "" };
        let words = format!("told generation {number}: {} candidates{last}", tell.candidates.len());
        search.tell(tell.clone());
        self.journal.note(&id, words);
        self.outbox.write(Write::Tell(id, number, tell));
        Ok(number)
    }

    /// Prunes candidates of a tell, by their places from 0. Returns those that are pruned.
    pub(super) fn prune(&mut self, id: &str, number: u64, places: &[u32]) -> Result<Vec<u32>, Refusal> {
        let (index, _, addresses) = self.addresses(id, number)?;
        let Self { experiments, ledger, outbox, .. } = self;
        let search = &mut experiments[index].search;
        let mut pruned = Vec::new();
        for place in places {
            let Some((candidate, trial)) = addresses.get(*place as usize) else {
                let words =
                    format!("place {place}: tell {number} has {} candidates, from 0", addresses.len());
                return Err(Refusal::NotFound(words));
            };
            if !search.playback().may_be_told_off(candidate, trial) {
                continue;
            }
            search.tell_off(*candidate, *trial, ledger);
            outbox.write(Write::Prune(search.id().to_owned(), *candidate));
            pruned.push(*place);
        }
        Ok(pruned)
    }

    /// What has become of the candidates of a tell so far.
    pub(super) fn told(&mut self, id: &str, number: u64) -> Result<ToldView, Refusal> {
        let (index, tell, addresses) = self.addresses(id, number)?;
        let ExperimentRun { search, .. } = &self.experiments[index];
        let playback = search.playback();
        let told = |&(candidate, trial): &(CandidateId, TrialKey)| ToldCandidate {
            candidate,
            trial,
            state: state(search, &self.ledger, &candidate, &trial),
        };
        Ok(ToldView {
            tell,
            candidates: addresses.iter().map(told).collect(),
            float: playback.archive().float(playback.experiment()).cloned(),
            float_shards: playback.float_shards().to_vec(),
            has_ended: search.has_ended(),
        })
    }

    fn addresses(&mut self, id: &str, number: u64) -> Result<(usize, Arc<Tell>, Addresses), Refusal> {
        let index = self.find(id)?;
        let search = &mut self.experiments[index].search;
        match search.told(number) {
            Some((tell, addresses)) => Ok((index, tell, addresses)),
            None => {
                let told = search.playback().tells().len();
                let words = format!("number {number}: {} was told {told} generations, from 1", search.id());
                Err(Refusal::NotFound(words))
            }
        }
    }
}

/// True if this was told before, under the same number.
fn is_known(search: &SearchRun, number: u64, tell: &Tell) -> Result<bool, Refusal> {
    let tells = search.playback().tells();
    let place = number.checked_sub(1).and_then(|place| usize::try_from(place).ok());
    match place.and_then(|place| tells.get(place)) {
        None => Ok(false),
        Some(known) if **known == *tell => Ok(true),
        Some(_) => {
            let next = tells.len() + 1;
            let id = search.id();
            let words =
                format!("number {number}: {id} was told other candidates under it; the next one is {next}");
            Err(Refusal::Conflict(words))
        }
    }
}

/// Refuses what cannot be told to an experiment now.
fn may_follow(search: &SearchRun, number: u64, tell: &Tell) -> Result<(), Refusal> {
    let (id, playback) = (search.id(), search.playback());
    let refuse = |words: String| Err(Refusal::NotNow(words));
    if !playback.takes_tells() {
        let kind = playback.experiment().strategy.kind();
        return refuse(format!("{id} has the strategy {kind}: candidates are told to one that is external"));
    }
    let (told, next) = (playback.tells(), playback.tells().len() as u64 + 1);
    if told.last().is_some_and(|tell| tell.last) {
        return refuse(format!("number {number}: {id} was told its last generation, {}", told.len()));
    }
    if number != next {
        return refuse(format!("number {number}: expected {next}, the next one of {id}"));
    }
    if search.has_ended() {
        return refuse(format!("{id} is cancelled: resume it first"));
    }
    let bytes = told.iter().map(|tell| tell.bytes()).sum::<usize>() + tell.bytes();
    if bytes > MAX_TOLD_BYTES {
        return refuse(format!("{id} was told {bytes} bytes with this: expected at most {MAX_TOLD_BYTES}"));
    }
    Ok(())
}

fn state(search: &SearchRun, ledger: &Ledger, candidate: &CandidateId, trial: &TrialKey) -> ToldState {
    let playback = search.playback();
    if let Some(entry) = playback.archive().get(candidate) {
        return ToldState::Measured(Box::new(entry.clone()));
    }
    if playback.is_pruned(candidate) {
        return ToldState::Pruned;
    }
    if let Some(reason) = search.failures().get(&(*trial).into()) {
        return ToldState::Failed(reason.clone());
    }
    let Some((_, settled, of)) = ledger.shard_results(trial) else {
        return ToldState::Open { prefix: Vec::new(), of: 0 };
    };
    let first = settled.iter().enumerate().take_while(|(place, (shard, _))| shard.index as usize == *place);
    ToldState::Open { prefix: first.map(|(_, (_, evidence))| evidence.counts.clone()).collect(), of }
}
