//! Rounds with a regression: after each of them the model is fitted to all that was measured, and the front of bytes and
//! predicted losses is worked out anew; what the bounds ask for of it is tried next.
//!
//! ```text
//!             fit (non-negative least squares)      exact program                bounds
//! measured -----------------------------------> model -----------> front --------------------> next round
//!    ^                                                                                            |
//!    +--------------------------------------------------------------------------------------------+
//! ```
//!
//! A budget ends where a round has nothing to propose that could gain anything, or brought nothing better than those
//! before: the first allocation tells what groups lose together, which moves no choice, so its answer is often the last.
//!
//! It looks at nothing but groups alone and what it proposed itself, so a search that starts over takes the same path.

use qslm_common::archive::Archive;
use qslm_common::candidate::CandidateId;

use super::aims::{Aims, Tried, is_settled};
use super::model::Model;
use super::probes::Probes;
use super::{ALLOCATION, AT_A_TIME, NEIGHBOUR, NEIGHBOURS, ROUNDS, Round, Rounds};
use crate::knapsack::{Answer, Front};
use crate::prediction::nats_per_item;

/// States of the program after each group: 128 groups of 9 levels take 0.4 s, and then less is lost than on the hull.
const STATES: usize = 1 << 14;
/// Allocations that are tried at a time within a budget: all are much alike, and a fit to a few of them tells more.
const AT_A_LIMIT: usize = 3;
/// Answers of which the costs are worked out, to find those within the bounds.
const CONSIDERED: usize = 256;

/// Rounds with a regression.
#[derive(Default)]
pub(super) struct Regression {
    /// The model, once groups were measured alone.
    model: Option<Model>,
    tried: Vec<Tried>,
    /// Place of the first that the last round tried.
    last: usize,
    /// Rounds so far.
    rounds: usize,
    is_over: bool,
}

impl Rounds for Regression {
    fn next(&mut self, probes: &Probes, archive: &Archive) -> Option<Round> {
        if self.is_over {
            return None;
        }
        if self.model.is_none() {
            self.model = Model::new(probes, archive);
        }
        let round = self.propose(probes, archive);
        self.is_over |= round.is_none();
        round
    }

    fn remaining_at_most(&self, _probes: &Probes) -> u64 {
        if self.is_over { 0 } else { ((ROUNDS - self.rounds) * AT_A_TIME + NEIGHBOURS) as u64 }
    }

    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        self.tried.iter().map(|tried| (tried.id, tried.predicted.loss)).collect()
    }
}

impl Regression {
    fn propose(&mut self, probes: &Probes, archive: &Archive) -> Option<Round> {
        let Self { model, tried, last, rounds, is_over } = self;
        let (model, float) = (model.as_mut()?, archive.float(&probes.experiment)?);
        if is_settled(probes, archive, tried, *last) {
            return None;
        }
        let before = nats_per_item(&float.counts);
        model.refit(tried.iter().filter_map(|tried| {
            let entry = archive.get(&tried.id)?;
            Some((&tried.predicted.choices[..], nats_per_item(&entry.counts) - before))
        }));
        let units = model.units();
        let front = Front::new(&units, STATES);
        let aims = Aims::new(probes, archive, model, &units, &front, tried)?;
        let mut round = None;
        if *rounds < ROUNDS {
            let asked = aims.next(*rounds);
            let most = if aims.is_budget() { AT_A_LIMIT } else { AT_A_TIME };
            round = Some((ALLOCATION, new_ones(&aims, asked, most)));
            *rounds += 1;
        }
        let (stage, new) = match round.filter(|(_, new)| !new.is_empty()) {
            Some(round) => round,
            None => {
                *is_over = true;
                (NEIGHBOUR, new_ones(&aims, aims.neighbours(), NEIGHBOURS))
            }
        };
        let candidates: Vec<_> =
            new.iter().map(|answer| probes.candidate(&model.levels(&answer.choices))).collect();
        let noted =
            candidates.iter().zip(new).map(|(candidate, predicted)| Tried { id: candidate.id(), predicted });
        *last = tried.len();
        tried.extend(noted);
        (!candidates.is_empty()).then_some(Round { stage, candidates })
    }
}

/// The first of these answers that were not tried, that no bound rules out, and that may be what is looked for.
fn new_ones(aims: &Aims<'_>, asked: Vec<Answer>, most: usize) -> Vec<Answer> {
    let mut new: Vec<Answer> = Vec::new();
    for answer in asked.into_iter().take(CONSIDERED) {
        let is_new = |other: &Answer| other.choices != answer.choices;
        if new.len() < most
            && new.iter().all(is_new)
            && !aims.was_tried(&answer)
            && aims.may_be_tried(&answer)
            && aims.may_win(&answer)
        {
            new.push(answer);
        }
    }
    new
}
