//! Front of many points: those that no other point dominates, in O(n log n).
//!
//! Points are visited in lexicographic order, so that only earlier ones can dominate later ones, and a
//! staircase of the points so far answers "is there one that is smaller in the other losses?" in
//! O(log n). Source: Kung, Luccio, Preparata, "On finding the maxima of a set of vectors", JACM 1975.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Indices of the points that no other point dominates, in ascending order.
///
/// # Panics
/// If a loss is NaN or infinite, points differ in length, or have other than 2 or 3 losses: the callers
/// build points from finite losses of validated objectives.
pub fn front(points: &[Vec<f64>]) -> Vec<usize> {
    let Some(first) = points.first() else { return Vec::new() };
    let axes = first.len();
    assert!(axes == 2 || axes == 3, "a front has 2 or 3 losses, not {axes}");
    for point in points {
        assert!(point.len() == axes && point.iter().all(|loss| loss.is_finite()));
    }
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| lexicographic(&points[*a], &points[*b]));

    let mut kept = Vec::new();
    let mut staircase = Staircase::default();
    // Equal points stand together in this order; they are asked together, then entered together.
    for equal in order.chunk_by(|a, b| points[*a] == points[*b]) {
        let point = &points[equal[0]];
        let (y, z) = (point[1], point.get(2).copied().unwrap_or(0.0));
        if !staircase.covers(y, z) {
            staircase.enter(y, z);
            kept.extend_from_slice(equal);
        }
    }
    kept.sort_unstable();
    kept
}

fn lexicographic(a: &[f64], b: &[f64]) -> Ordering {
    let differences = a.iter().zip(b).map(|(a, b)| OrderedLoss(*a).cmp(&OrderedLoss(*b)));
    differences.fold(Ordering::Equal, Ordering::then)
}

/// A finite loss as a key: -0.0 and 0.0 are one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OrderedLoss(pub(super) f64);

impl Eq for OrderedLoss {}

impl Ord for OrderedLoss {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for OrderedLoss {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The non-dominated (y, z) pairs so far: as y grows, z falls.
#[derive(Default)]
struct Staircase {
    steps: BTreeMap<OrderedLoss, f64>,
}

impl Staircase {
    /// True if a pair so far is no larger in both.
    fn covers(&self, y: f64, z: f64) -> bool {
        self.steps.range(..=OrderedLoss(y)).next_back().is_some_and(|(_, lowest)| *lowest <= z)
    }

    /// Adds a pair that is not covered and drops those that it covers.
    fn enter(&mut self, y: f64, z: f64) {
        let covered: Vec<_> = self
            .steps
            .range(OrderedLoss(y)..)
            .take_while(|(_, other)| **other >= z)
            .map(|(y, _)| *y)
            .collect();
        for y in covered {
            self.steps.remove(&y);
        }
        self.steps.insert(OrderedLoss(y), z);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dominates;
    use super::super::tests::points;
    use super::*;

    /// The definition, in O(n^2).
    fn oracle(points: &[Vec<f64>]) -> Vec<usize> {
        let free = |i: &usize| !points.iter().any(|other| dominates(other, &points[*i]));
        (0..points.len()).filter(free).collect()
    }

    proptest! {
        #[test]
        fn the_front_of_two_losses_is_that_of_the_definition(points in points(2)) {
            prop_assert_eq!(front(&points), oracle(&points));
        }

        #[test]
        fn the_front_of_three_losses_is_that_of_the_definition(points in points(3)) {
            prop_assert_eq!(front(&points), oracle(&points));
        }

        #[test]
        fn the_front_of_a_front_is_itself(points in points(3)) {
            let kept: Vec<_> = front(&points).into_iter().map(|i| points[i].clone()).collect();
            prop_assert_eq!(front(&kept).len(), kept.len());
        }
    }

    #[test]
    fn duplicates_are_all_kept() {
        assert_eq!(front(&[vec![1.0, 2.0], vec![1.0, 2.0], vec![2.0, 2.0], vec![0.0, 3.0]]), [0, 1, 3]);
    }

    #[test]
    fn zero_and_minus_zero_are_one_loss() {
        assert_eq!(front(&[vec![0.0, 1.0], vec![-0.0, 2.0]]), [0]);
        assert_eq!(front(&[vec![0.0, 1.0], vec![-0.0, 1.0]]), [0, 1]);
    }

    #[test]
    fn no_points_have_no_front() {
        assert!(front(&[]).is_empty());
    }
}
