//! Least squares with unknowns that are never negative: what fits measured sums best.
//!
//! One unknown at a time is set to what is best for it while the others stay, or to zero, in a fixed order until none moves
//! any more. The problem is convex, so that is where the conditions of the best hold: each unknown that is positive has a
//! slope of zero, and none would gain by growing.
//!
//! Source: Franc, Hlavac and Navara, "Sequential coordinate-wise algorithm for the non-negative least squares problem", CAIP
//! 2005.

/// Row: a sum of unknowns that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Coefficient of every unknown.
    pub coefficients: Vec<f64>,
    /// Value that was measured.
    pub value: f64,
    /// Weight of its squared error.
    pub weight: f64,
}

/// Passes over all unknowns at most.
const PASSES: usize = 20_000;
/// Move of an unknown, as a share of the largest, that is none.
const STILL: f64 = 1e-13;

/// Unknowns of 0 or more that minimise the weighted squared errors of rows. `start` has one of each, from where they move:
/// what no row says anything of stays there.
pub(crate) fn non_negative(rows: &[Row], start: &[f64]) -> Vec<f64> {
    let count = start.len();
    // Of the sum of squares, half the second derivatives, and half the slope.
    let (mut squares, mut slope) = (vec![vec![0.0; count]; count], vec![0.0; count]);
    let mut unknowns: Vec<f64> = start.iter().map(|value| value.max(0.0)).collect();
    for Row { coefficients, value, weight } in rows {
        for (i, a) in coefficients.iter().enumerate() {
            for (j, b) in coefficients.iter().enumerate() {
                squares[i][j] += weight * a * b;
            }
            slope[i] -= weight * a * value;
        }
    }
    for (i, slope) in slope.iter_mut().enumerate() {
        *slope += squares[i].iter().zip(&unknowns).map(|(square, unknown)| square * unknown).sum::<f64>();
    }
    for _ in 0..PASSES {
        let mut moved = 0.0f64;
        for i in 0..count {
            let curvature = squares[i][i];
            if curvature <= 0.0 {
                continue;
            }
            let to = (unknowns[i] - slope[i] / curvature).max(0.0);
            let by = to - unknowns[i];
            unknowns[i] = to;
            moved = moved.max(by.abs());
            slope.iter_mut().zip(&squares[i]).for_each(|(slope, square)| *slope += square * by);
        }
        let largest = unknowns.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        if moved <= STILL * largest {
            break;
        }
    }
    unknowns
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn row(coefficients: Vec<f64>, value: f64) -> Row {
        Row { coefficients, value, weight: 1.0 }
    }

    fn slopes(rows: &[Row], unknowns: &[f64]) -> Vec<f64> {
        let error =
            |row: &Row| row.coefficients.iter().zip(unknowns).map(|(a, x)| a * x).sum::<f64>() - row.value;
        let slope = |i: usize| rows.iter().map(|row| row.weight * row.coefficients[i] * error(row)).sum();
        (0..unknowns.len()).map(slope).collect()
    }

    #[test]
    fn the_conditions_of_the_best_hold() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let count = 1 + seed as usize % 9;
            let mut number = |low: i32, high: i32| f64::from(rng.random_range(low..high)) / 100.0;
            let rows: Vec<Row> = (0..count * 2)
                .map(|_| Row {
                    coefficients: (0..count).map(|_| number(-100, 300)).collect(),
                    value: number(-100, 300),
                    weight: number(1, 200),
                })
                .collect();
            let start: Vec<f64> = (0..count).map(|_| number(-100, 100)).collect();
            let unknowns = non_negative(&rows, &start);
            for (unknown, slope) in unknowns.iter().zip(slopes(&rows, &unknowns)) {
                assert!(*unknown >= 0.0 && slope > -1e-6, "seed {seed}: {unknown} {slope}");
                assert!(*unknown == 0.0 || slope.abs() < 1e-6, "seed {seed}: {unknown} {slope}");
            }
        }
    }

    #[test]
    fn it_recovers_what_each_group_of_a_quadratic_network_costs() {
        // Losses of 9 groups alone, and of all of them at steps of their own.
        let costs: Vec<f64> = (1..=9).map(|group| 0.003 * f64::from(group * group)).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let alone = |group: usize| {
            let mut coefficients = vec![0.0; 9];
            coefficients[group] = 1.4 * 1.4;
            row(coefficients, costs[group] * 1.4 * 1.4)
        };
        let together = |_| {
            let coefficients: Vec<f64> = (0..9)
                .map(|_| f64::from(rng.random_range(30..200)) / 100.0)
                .map(|step| step * step)
                .collect();
            let value = coefficients.iter().zip(&costs).map(|(a, c)| a * c).sum();
            row(coefficients, value)
        };
        let alone: Vec<Row> = (0..9).map(alone).collect();
        let all: Vec<Row> = alone.into_iter().chain((0..8).map(together)).collect();
        for (fitted, cost) in non_negative(&all, &[0.0; 9]).iter().zip(&costs) {
            assert!((fitted - cost).abs() < 1e-9, "{fitted} {cost}");
        }
    }

    #[test]
    fn what_no_row_speaks_of_stays_and_what_would_be_negative_is_zero() {
        let rows = [row(vec![1.0, 0.0, 1.0], 3.0), row(vec![0.0, 0.0, 1.0], -1.0)];
        let unknowns = non_negative(&rows, &[0.0, 7.0, 0.0]);
        assert_eq!(unknowns, [3.0, 7.0, 0.0]);
        assert_eq!(non_negative(&rows[1..], &[0.0, 0.0, 2.0]), [0.0, 0.0, 0.0]);
        assert_eq!(non_negative(&[], &[]), [0.0; 0]);
        // Two that always go together share what they sum up to.
        let twins = non_negative(&[row(vec![1.0, 1.0], 4.0)], &[1.0, 1.0]);
        assert_eq!(twins.iter().sum::<f64>(), 4.0);
    }
}
