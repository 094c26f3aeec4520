//! All candidates of an experiment as a bounded number of spots.
//!
//! A plot of a million points is neither readable nor small. A [`Cloud`] keeps a grid over saving and
//! quality, per stage, whose cells start so small that every candidate has one of its own. Whenever more than
//! [`MOST_SPOTS`] are occupied, cells are twice as wide. To add a candidate takes constant time on average,
//! whatever came before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use qslm_common::candidate::CandidateId;
use qslm_common::measurement::Counts;
use serde::{Deserialize, Serialize};

/// Spots that a cloud may have.
pub const MOST_SPOTS: usize = 2000;

/// The width of a cell at first: finer than any plot shows.
const FINEST: f64 = 1.0 / (1u64 << 20) as f64;

/// Candidates that lie close together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spot {
    /// Index into the stages of the report.
    pub stage: usize,
    /// Number of candidates, 1 or more.
    pub count: u64,
    /// Mean share of the float bytes that is saved, up to 1.
    pub saving: f64,
    /// Mean [`badness`]: nats per token, or the share of sentences that are wrong.
    pub badness: f64,
    /// The beginning of the candidate's id, if it is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
}

/// All candidates that were added so far.
#[derive(Debug, Clone, Default)]
pub struct Cloud {
    /// Number of times that cells were widened.
    level: u32,
    cells: HashMap<(usize, i64, i64), Cell>,
}

#[derive(Debug, Clone)]
struct Cell {
    count: u64,
    saving: f64,
    badness: f64,
    /// Id of the candidate that was added first.
    candidate: CandidateId,
}

impl Cell {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.saving += other.saving;
        self.badness += other.badness;
    }
}

/// Distance from perfect: the mean loss in nats per token of a language model, the share of wrong sentences
/// of a classifier. Finite, 0 or more. It does not depend on the float model, which may be measured later.
pub fn badness(counts: &Counts) -> f64 {
    counts.quality().mean_loss(counts)
}

impl Cloud {
    /// Adds a candidate that saves `saving` of the float bytes, with its [`badness`].
    pub fn insert(&mut self, stage: usize, saving: f64, badness: f64, candidate: CandidateId) {
        let cell = Cell { count: 1, saving, badness, candidate };
        let width = FINEST * f64::from(self.level).exp2();
        // Whatever is no number or out of range ends in the cells at the edge.
        let at = |value: f64| (value / width).floor() as i64;
        self.put((stage, at(cell.saving), at(cell.badness)), cell);
        while self.cells.len() > MOST_SPOTS {
            self.widen();
        }
    }

    fn put(&mut self, at: (usize, i64, i64), cell: Cell) {
        match self.cells.entry(at) {
            Entry::Vacant(vacant) => drop(vacant.insert(cell)),
            Entry::Occupied(mut known) => known.get_mut().add(&cell),
        }
    }

    fn widen(&mut self) {
        self.level += 1;
        for ((stage, x, y), cell) in std::mem::take(&mut self.cells) {
            self.put((stage, x >> 1, y >> 1), cell);
        }
    }

    /// Spots as they are now, in the order of stages, then of savings.
    pub fn spots(&self) -> Vec<Spot> {
        let spot = |(&(stage, ..), cell): (&(usize, i64, i64), &Cell)| Spot {
            stage,
            count: cell.count,
            saving: cell.saving / cell.count as f64,
            badness: cell.badness / cell.count as f64,
            candidate: (cell.count == 1).then(|| cell.candidate.short()),
        };
        let mut spots: Vec<Spot> = self.cells.iter().map(spot).collect();
        let order = |a: &Spot, b: &Spot| {
            let by_place = a.saving.total_cmp(&b.saving).then(a.badness.total_cmp(&b.badness));
            a.stage.cmp(&b.stage).then(by_place)
        };
        spots.sort_by(order);
        spots
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::measurement::Nll;

    use super::*;

    fn counts(nats: f64) -> Counts {
        Counts { nll: Nll::from_nats(nats * 100.0).unwrap(), scored_tokens: 100, ..Counts::zero(0) }
    }

    fn cloud(points: &[(usize, f64, f64)]) -> Cloud {
        let mut cloud = Cloud::default();
        for (index, (stage, saving, nats)) in points.iter().enumerate() {
            cloud.insert(*stage, *saving, badness(&counts(*nats)), CandidateId::of(&index.to_le_bytes()));
        }
        cloud
    }

    proptest! {
        #[test]
        fn no_candidate_is_lost_and_spots_lie_among_the_candidates(
            points in prop::collection::vec((0usize..4, -0.5..1.0, 0.0..40.0), 1..5000)
        ) {
            let spots = cloud(&points).spots();
            prop_assert!(spots.len() <= MOST_SPOTS);
            prop_assert_eq!(spots.iter().map(|spot| spot.count).sum::<u64>(), points.len() as u64);
            for stage in 0..4 {
                let of = |points: &[(usize, f64, f64)]| points.iter().filter(|p| p.0 == stage).count() as u64;
                let mine = spots.iter().filter(|spot| spot.stage == stage);
                prop_assert_eq!(mine.map(|spot| spot.count).sum::<u64>(), of(&points));
            }
            let mean = |values: Vec<f64>| values.iter().sum::<f64>() / points.len() as f64;
            let before = mean(points.iter().map(|point| point.1).collect());
            let after = mean(spots.iter().map(|spot| spot.saving * spot.count as f64).collect());
            prop_assert!((before - after).abs() < 1e-9);
        }
    }

    #[test]
    fn few_candidates_keep_their_places_and_names() {
        let spots = cloud(&[(0, 0.5, 3.0), (0, 0.5001, 3.0), (1, 0.5, 3.0)]).spots();
        assert_eq!(spots.len(), 3);
        assert!(spots.iter().all(|spot| spot.count == 1 && spot.candidate.is_some()));
        assert_eq!((spots[1].saving, spots[1].badness), (0.5001, 3.0));
    }

    #[test]
    fn absurd_values_have_a_place() {
        let mut cloud = cloud(&[(0, 0.5, 3.0)]);
        cloud.insert(0, -1e300, badness(&Counts::zero(0)), CandidateId::of(b"a"));
        cloud.insert(0, 0.1, badness(&counts(Nll::LARGEST / 100.0)), CandidateId::of(b"b"));
        for index in 0..3000u32 {
            let id = CandidateId::of(&index.to_le_bytes());
            cloud.insert(0, f64::from(index) / 3000.0, badness(&counts(3.0)), id);
        }
        assert!(cloud.spots().len() <= MOST_SPOTS);
        assert_eq!(cloud.spots().iter().map(|spot| spot.count).sum::<u64>(), 3003);
    }
}
