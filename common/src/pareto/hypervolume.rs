//! The volume that a set of points dominates, below a reference point: exact, in O(n log n).
//!
//! Two losses: one sweep over the sorted staircase. Three: sweep the third loss upwards, keep the area
//! that the staircase of the first two dominates, and add one slab per step. Every point enters and
//! leaves the staircase once. Source: Fonseca, Paquete, Lopez-Ibanez, "An improved dimension-sweep
//! algorithm for the hypervolume indicator", CEC 2006; optimality in Beume et al., IEEE TEC 2009.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::front::OrderedLoss;

/// Hypervolume of `points` below `reference`, in the product of the losses' units.
///
/// Points that are not below the reference in every loss add nothing. Dominated points and duplicates
/// change nothing.
///
/// # Panics
/// If the reference has other than 2 or 3 losses, or a point another number of them.
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    assert!(matches!(reference.len(), 2 | 3), "2 or 3 losses, not {}", reference.len());
    let depth = reference.get(2).copied().unwrap_or(1.0);
    let mut below: Vec<[f64; 3]> = Vec::with_capacity(points.len());
    for point in points {
        assert_eq!(point.len(), reference.len(), "a point and the reference differ in length");
        // Also leaves NaN out.
        if point.iter().zip(reference).all(|(loss, limit)| loss < limit) {
            below.push([point[0], point[1], point.get(2).copied().unwrap_or(0.0)]);
        }
    }
    below.sort_by(|a, b| OrderedLoss(a[2]).cmp(&OrderedLoss(b[2])));

    let mut area = Area::new(reference[0], reference[1]);
    let mut volume = 0.0;
    for (index, [x, y, z]) in below.iter().enumerate() {
        area.enter(*x, *y);
        let next = below.get(index + 1).map_or(depth, |point| point[2]);
        volume += area.area * (next - z);
    }
    volume
}

/// The area that a staircase of (x, y) dominates below a corner; as x grows, y falls.
struct Area {
    steps: BTreeMap<OrderedLoss, f64>,
    corner: (f64, f64),
    area: f64,
}

impl Area {
    fn new(x: f64, y: f64) -> Self {
        Self { steps: BTreeMap::new(), corner: (x, y), area: 0.0 }
    }

    /// Adds a point strictly below the corner.
    fn enter(&mut self, x: f64, y: f64) {
        // The height of the free space above x: the step at or left of it, else the corner.
        let mut top = match self.steps.range(..=OrderedLoss(x)).next_back() {
            Some((_, height)) if *height <= y => return,
            Some((_, height)) => *height,
            None => self.corner.1,
        };
        // Walk right over the steps that the new point covers, adding the area gained above each.
        let mut left = x;
        let mut covered = Vec::new();
        for (step_x, step_y) in self.steps.range((Excluded(OrderedLoss(x)), Unbounded)) {
            self.area += (step_x.0 - left) * (top - y);
            left = step_x.0;
            top = *step_y;
            if top <= y {
                break;
            }
            covered.push(*step_x);
        }
        if top > y {
            self.area += (self.corner.0 - left) * (top - y);
        }
        for step in covered {
            self.steps.remove(&step);
        }
        self.steps.insert(OrderedLoss(x), y);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::points;
    use super::*;

    /// Counts the unit cells of an integer grid that some point dominates: the definition.
    fn oracle(points: &[Vec<f64>], reference: &[f64]) -> f64 {
        let cells = |axis: usize| 0..reference.get(axis).map_or(1, |limit| *limit as i32);
        let mut count = 0;
        for x in cells(0) {
            for y in cells(1) {
                for z in cells(2) {
                    let cell = [x, y, z].map(f64::from);
                    let dominated =
                        points.iter().any(|point| point.iter().zip(cell).all(|(loss, low)| *loss <= low));
                    count += i32::from(dominated);
                }
            }
        }
        f64::from(count)
    }

    proptest! {
        #[test]
        fn two_losses_agree_with_counting_cells(points in points(2)) {
            prop_assert_eq!(hypervolume(&points, &[6.0, 7.0]), oracle(&points, &[6.0, 7.0]));
        }

        #[test]
        fn three_losses_agree_with_counting_cells(points in points(3)) {
            prop_assert_eq!(hypervolume(&points, &[6.0, 7.0, 5.0]), oracle(&points, &[6.0, 7.0, 5.0]));
        }

        #[test]
        fn the_volume_is_that_of_the_front_alone(points in points(3)) {
            let reference = [8.0, 8.0, 8.0];
            let kept: Vec<_> = super::super::front(&points).into_iter().map(|i| points[i].clone()).collect();
            prop_assert_eq!(hypervolume(&points, &reference), hypervolume(&kept, &reference));
        }
    }

    #[test]
    fn closed_forms() {
        assert_eq!(hypervolume(&[vec![0.25, 0.5]], &[1.0, 1.0]), 0.375);
        assert_eq!(hypervolume(&[vec![0.0, 0.0, 0.0]], &[2.0, 3.0, 4.0]), 24.0);
        assert_eq!(hypervolume(&[], &[1.0, 1.0]), 0.0);
        // n points on the line x + y = n dominate the cells strictly below their staircase.
        let line: Vec<_> = (0..=10).map(|i| vec![f64::from(i), f64::from(10 - i)]).collect();
        assert_eq!(hypervolume(&line, &[10.0, 10.0]), 45.0);
    }

    #[test]
    fn a_point_at_or_beyond_the_reference_adds_nothing() {
        assert_eq!(hypervolume(&[vec![1.0, 0.0], vec![2.0, -5.0], vec![f64::NAN, 0.0]], &[1.0, 1.0]), 0.0);
    }
}
