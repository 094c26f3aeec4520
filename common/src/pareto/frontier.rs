//! A front that grows point by point: what [`super::front`] computes from all points, kept up to date.
//!
//! Two losses: a staircase ordered by the first, where a new point is placed and what it dominates is removed in
//! O(log n) plus what is removed. Three: a scan over the front, which is short beside everything measured.
//! The result does not depend on the order of arrival.

use std::collections::BTreeMap;

use super::dominates;
use super::front::OrderedLoss;
use crate::candidate::CandidateId;

/// The non-dominated points so far, with a key each. Equal points are all kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Frontier {
    points: Points,
    len: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Points {
    None,
    /// Staircase from the first loss to the second, which falls as the first grows, with the keys of the
    /// point.
    Two(BTreeMap<OrderedLoss, (f64, Vec<CandidateId>)>),
    Three(Vec<([f64; 3], CandidateId)>),
}

impl Default for Frontier {
    fn default() -> Self {
        Self { points: Points::None, len: 0 }
    }
}

impl Frontier {
    /// Adds a point, unless a point of the front dominates it. Returns whether it is on the front now.
    ///
    /// # Panics
    /// If a loss is NaN or infinite, or there are other than 2 or 3, or another number than before: the callers
    /// build points from finite losses of validated objectives.
    pub fn insert(&mut self, point: &[f64], key: CandidateId) -> bool {
        assert!(point.iter().all(|loss| loss.is_finite()), "losses are finite: {point:?}");
        if matches!(self.points, Points::None) {
            self.points = if point.len() == 2 { Points::Two(BTreeMap::new()) } else { Points::Three(vec![]) };
        }
        match (&mut self.points, point) {
            (Points::Two(steps), &[x, y]) => insert_two(steps, &mut self.len, x, y, key),
            (Points::Three(points), &[x, y, z]) => {
                let point = [x, y, z];
                if points.iter().any(|(other, _)| dominates(other, &point)) {
                    return false;
                }
                points.retain(|(other, _)| !dominates(&point, other));
                points.push((point, key));
                self.len = points.len();
                true
            }
            _ => panic!("a front has 2 or 3 losses, always as many, not {}", point.len()),
        }
    }

    /// Number of points, equal ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no point.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys of all points, in no particular order.
    pub fn keys(&self) -> Vec<CandidateId> {
        match &self.points {
            Points::None => Vec::new(),
            Points::Two(steps) => steps.values().flat_map(|(_, keys)| keys.iter().copied()).collect(),
            Points::Three(points) => points.iter().map(|(_, key)| *key).collect(),
        }
    }

    /// The points, equal ones at least once.
    pub fn points(&self) -> Vec<Vec<f64>> {
        match &self.points {
            Points::None => Vec::new(),
            Points::Two(steps) => steps.iter().map(|(x, (y, _))| vec![x.0, *y]).collect(),
            Points::Three(points) => points.iter().map(|(point, _)| point.to_vec()).collect(),
        }
    }
}

fn insert_two(
    steps: &mut BTreeMap<OrderedLoss, (f64, Vec<CandidateId>)>,
    len: &mut usize,
    x: f64,
    y: f64,
    key: CandidateId,
) -> bool {
    if let Some((left, (height, keys))) = steps.range_mut(..=OrderedLoss(x)).next_back() {
        if left.0 == x && *height == y {
            keys.push(key);
            *len += 1;
            return true;
        }
        if *height <= y {
            return false;
        }
    }
    let right = steps.range(OrderedLoss(x)..);
    let covered: Vec<_> = right.take_while(|(_, (height, _))| *height >= y).map(|(x, _)| *x).collect();
    for step in covered {
        *len -= steps.remove(&step).map_or(0, |(_, keys)| keys.len());
    }
    steps.insert(OrderedLoss(x), (y, vec![key]));
    *len += 1;
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::front;
    use super::super::tests::points;
    use super::*;

    /// A key for each index.
    fn key(index: usize) -> CandidateId {
        CandidateId::of(&index.to_le_bytes())
    }

    fn grown(points: &[Vec<f64>], order: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut frontier = Frontier::default();
        for index in order {
            let on = frontier.insert(&points[index], key(index));
            assert_eq!(on, frontier.keys().contains(&key(index)));
        }
        let keys = frontier.keys();
        assert_eq!(frontier.len(), keys.len());
        assert_eq!(frontier.is_empty(), keys.is_empty());
        let kept: Vec<usize> = (0..points.len()).filter(|index| keys.contains(&key(*index))).collect();
        assert_eq!(kept.len(), keys.len());
        kept
    }

    proptest! {
        #[test]
        fn a_grown_front_of_two_losses_is_the_front_of_all(points in points(2)) {
            prop_assert_eq!(grown(&points, 0..points.len()), front(&points));
            prop_assert_eq!(grown(&points, (0..points.len()).rev()), front(&points));
        }

        #[test]
        fn a_grown_front_of_three_losses_is_the_front_of_all(points in points(3)) {
            prop_assert_eq!(grown(&points, 0..points.len()), front(&points));
            prop_assert_eq!(grown(&points, (0..points.len()).rev()), front(&points));
        }

        #[test]
        fn its_points_span_the_same_volume(points in points(3)) {
            let mut frontier = Frontier::default();
            for point in &points {
                frontier.insert(point, key(0));
            }
            let reference = [6.0, 7.0, 5.0];
            prop_assert_eq!(
                super::super::hypervolume(&frontier.points(), &reference),
                super::super::hypervolume(&points, &reference)
            );
        }
    }

    #[test]
    fn zero_and_minus_zero_are_one_loss() {
        let mut frontier = Frontier::default();
        assert!(frontier.insert(&[0.0, 1.0], key(0)));
        assert!(frontier.insert(&[-0.0, 1.0], key(1)));
        assert!(!frontier.insert(&[-0.0, 2.0], key(2)));
        assert_eq!(frontier.len(), 2);
    }
}
