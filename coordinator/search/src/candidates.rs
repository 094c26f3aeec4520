//! The candidates of a generation. A grid may have a million, which nobody wants in memory at once: they are made
//! when they are asked for.

use qslm_common::candidate::{Candidate, Patch};
use qslm_common::space::{Group, Space};

/// Candidates in an order that depends on the experiment and the archive alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    List(Vec<Candidate>),
    Combinations(Box<Combinations>),
}

/// Combinations of levels, after some candidates that come first.
#[derive(Debug, Clone, PartialEq)]
struct Combinations {
    first: Vec<Candidate>,
    /// Base: the candidate that the others are made from.
    base: Candidate,
    /// Patches of the base: one for every group at every level.
    moves: Vec<Vec<Patch>>,
    numbers: Numbers,
}

/// Numbers of combinations: the digits are the levels of the groups, the first group's the lowest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    /// Numbers below this one.
    Below(u64),
    /// Numbers in this list.
    Some(Vec<u64>),
}

impl Candidates {
    /// `first`, then the combinations of the levels of `moving` with these numbers, made from `base`.
    pub(crate) fn combinations(
        first: Vec<Candidate>,
        space: &Space,
        base: Candidate,
        moving: &[Group],
        numbers: Numbers,
    ) -> Self {
        let moves = |group: &Group| {
            let at = |level| space.place(base.clone(), group, level).patch_from(&base);
            (0..group.levels).map(at).collect()
        };
        let moves = moving.iter().map(moves).collect();
        Self(Form::Combinations(Box::new(Combinations { first, base, moves, numbers })))
    }

    /// The first of them, `most` at most.
    #[must_use]
    pub(crate) fn first(self, most: usize) -> Self {
        if self.len() <= most {
            return self;
        }
        Self(match self.0 {
            Form::List(mut list) => {
                list.truncate(most);
                Form::List(list)
            }
            Form::Combinations(mut combinations) => {
                combinations.first.truncate(most);
                let left = most - combinations.first.len();
                match &mut combinations.numbers {
                    Numbers::Below(end) => *end = (*end).min(left as u64),
                    Numbers::Some(numbers) => numbers.truncate(left),
                }
                Form::Combinations(combinations)
            }
        })
    }

    /// Number of candidates.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::List(list) => list.len(),
            Form::Combinations(combinations) => combinations.first.len() + combinations.numbers.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidate at a place; `None` beyond the last.
    pub fn get(&self, index: usize) -> Option<Candidate> {
        match &self.0 {
            Form::List(list) => list.get(index).cloned(),
            Form::Combinations(combinations) => combinations.get(index),
        }
    }

    /// Candidates, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl FromIterator<Candidate> for Candidates {
    fn from_iter<T: IntoIterator<Item = Candidate>>(candidates: T) -> Self {
        Self(Form::List(candidates.into_iter().collect()))
    }
}

impl Combinations {
    fn get(&self, index: usize) -> Option<Candidate> {
        let Some(index) = index.checked_sub(self.first.len()) else { return self.first.get(index).cloned() };
        let mut number = self.numbers.get(index)?;
        let mut candidate = self.base.clone();
        for levels in &self.moves {
            candidate.apply(levels.get((number % levels.len() as u64) as usize)?);
            number /= levels.len() as u64;
        }
        Some(candidate)
    }
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Self::Below(end) => usize::try_from(*end).unwrap_or(usize::MAX),
            Self::Some(numbers) => numbers.len(),
        }
    }

    fn get(&self, index: usize) -> Option<u64> {
        match self {
            Self::Below(end) => Some(index as u64).filter(|number| number < end),
            Self::Some(numbers) => numbers.get(index).copied(),
        }
    }
}
