//! Cursor: how far a generation is drawn.

use std::ops::Range;

use crate::Candidates;

/// Candidates that are looked up at a time.
pub(crate) const CHUNK: usize = 2048;

/// Cursor over the candidates of a generation. Workers get them in order, so what is measured is, but for some that were
/// out, the beginning. A search that starts from a store skips it at first, so that nobody waits until a million results
/// are read, and comes back to it when nobody waits.
pub(crate) struct Cursor {
    candidates: Candidates,
    /// Candidates still to be drawn for workers, in order.
    ahead: Range<usize>,
    /// Candidates that are very likely measured; drawn when no worker waits.
    behind: Range<usize>,
}

impl Cursor {
    /// Cursor before the first draw. `is_measured` tells whether the candidate at a place has a result; it is
    /// asked about a few.
    pub(crate) fn new<E>(
        candidates: Candidates,
        mut is_measured: impl FnMut(&Candidates, usize) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let (mut low, mut high) = (0, candidates.len());
        while low < high && candidates.len() > CHUNK {
            let middle = low.midpoint(high);
            if is_measured(&candidates, middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Self { ahead: low..candidates.len(), behind: 0..low, candidates })
    }

    pub(crate) fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// Number of candidates that were drawn.
    pub(crate) fn drawn(&self) -> usize {
        self.candidates.len() - self.ahead.len() - self.behind.len()
    }

    /// True if there is more to draw for workers.
    pub(crate) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// True if there is more to draw that is very likely measured.
    pub(crate) fn has_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Draws up to `most` for workers.
    pub(crate) fn take_ahead(&mut self, most: usize) -> Range<usize> {
        take(&mut self.ahead, most)
    }

    /// Draws up to `most` of what is very likely measured.
    pub(crate) fn take_behind(&mut self, most: usize) -> Range<usize> {
        take(&mut self.behind, most)
    }
}

/// Takes up to `most` off the front of a range.
fn take(range: &mut Range<usize>, most: usize) -> Range<usize> {
    let taken = range.start..range.end.min(range.start.saturating_add(most));
    range.start = taken.end;
    taken
}

#[cfg(test)]
mod tests {
    use qslm_common::space::Tier;
    use qslm_testing::experiment;

    use super::*;
    use crate::testing::start;
    use crate::{Random, Step};

    #[test]
    fn what_is_measured_is_skipped_and_comes_last() {
        let experiment = experiment(Random { tier: Tier::Matrix, trials: 5000, seed: 1 });
        let Step::Measure(generation) = start(&experiment).next(&Default::default()) else { panic!() };
        let asked = |measured: usize| {
            let of = |_: &Candidates, index| Ok::<_, ()>(index < measured);
            Cursor::new(generation.candidates.clone(), of).unwrap()
        };
        for measured in [0, 1, 2047, 3000, 5001] {
            let mut cursor = asked(measured);
            assert_eq!((cursor.drawn(), cursor.has_behind()), (0, measured > 0));
            assert_eq!(cursor.take_ahead(10), measured..(measured + 10).min(5001));
            assert_eq!(cursor.take_behind(usize::MAX), 0..measured);
            assert!(!cursor.has_behind());
        }
    }
}
