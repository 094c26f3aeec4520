//! Radial basis functions: an interpolant of scattered points, cubic with a linear tail.
//!
//! `s(x) = sum_i w_i |x - x_i|^3 + a + b x` with `sum_i w_i = 0` and `sum_i w_i x_i = 0` goes through every point exactly
//! and is the line itself where the points lie on one. Only `+ - * /` and square roots, in one order: the same bits
//! everywhere.
//!
//! Source: Powell, "The theory of radial basis function approximation in 1990", 1992; as a predictor of a search in
//! Regis and Shoemaker, INFORMS Journal on Computing 19, 2007.

/// Interpolant of some points, with as many values each.
#[derive(Debug, Clone)]
pub(crate) struct Rbf {
    /// Points, each once.
    points: Vec<Vec<f64>>,
    /// Weights of the points, for each value.
    weights: Vec<Vec<f64>>,
    /// Coordinates that the tail has a slope for: those that the points tell apart.
    sloped: Vec<usize>,
    /// Constant and slopes, for each value.
    tails: Vec<Vec<f64>>,
}

/// Pivots below this share of the largest coefficient are nothing but rounding.
const LEAST_PIVOT: f64 = 1e-14;
/// Share of a column that has to be its own for the tail to have it.
const OWN_SHARE: f64 = 1e-10;
/// What is added to the diagonal, as a share of the largest coefficient, until there is a solution.
const RIDGES: [f64; 3] = [0.0, 1e-10, 1e-6];

impl Rbf {
    /// The interpolant of points with their values; the mean where a point is there more than once. `None` without points.
    pub(crate) fn fit(samples: &[(Vec<f64>, Vec<f64>)]) -> Option<Self> {
        let (points, values) = merged(samples);
        let outputs = values.first()?.len();
        let sloped = sloped(&points);
        let solution = RIDGES.iter().find_map(|ridge| solve(system(&points, &values, &sloped, *ridge)));
        let rows = solution.unwrap_or_else(|| constant(&values, points.len() + 1 + sloped.len()));
        let column = |rows: &[Vec<f64>], output: usize| rows.iter().map(|row| row[output]).collect();
        let weights = (0..outputs).map(|output| column(&rows[..points.len()], output)).collect();
        let tails = (0..outputs).map(|output| column(&rows[points.len()..], output)).collect();
        Some(Self { points, weights, sloped, tails })
    }

    /// Values at a point.
    pub(crate) fn predict(&self, point: &[f64]) -> Vec<f64> {
        let cubes: Vec<f64> = self.points.iter().map(|other| cube(point, other)).collect();
        let value = |(weights, tail): (&Vec<f64>, &Vec<f64>)| {
            let slopes = self.sloped.iter().zip(&tail[1..]).map(|(at, slope)| point[*at] * slope);
            let bumps = cubes.iter().zip(weights).map(|(cube, weight)| cube * weight);
            tail[0] + slopes.sum::<f64>() + bumps.sum::<f64>()
        };
        self.weights.iter().zip(&self.tails).map(value).collect()
    }
}

/// Third power of the distance.
fn cube(a: &[f64], b: &[f64]) -> f64 {
    let squared = squared_distance(a, b);
    squared * squared.sqrt()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Different points in the order of their first samples, and the means of their values.
fn merged(samples: &[(Vec<f64>, Vec<f64>)]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let mut points: Vec<Vec<f64>> = Vec::new();
    let mut sums: Vec<(f64, Vec<f64>)> = Vec::new();
    for (point, values) in samples {
        // Distances that vanish would leave two equal rows.
        match points.iter().position(|known| cube(known, point) == 0.0) {
            None => {
                points.push(point.clone());
                sums.push((1.0, values.clone()));
            }
            Some(at) => {
                let (count, sum) = &mut sums[at];
                *count += 1.0;
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }
    let mean = |(count, sum): (f64, Vec<f64>)| sum.into_iter().map(|sum| sum / count).collect();
    (points, sums.into_iter().map(mean).collect())
}

/// Coordinates whose columns do not follow from the constant and those before them: with the others, the tail would have
/// many solutions. By Gram and Schmidt.
fn sloped(points: &[Vec<f64>]) -> Vec<usize> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut basis: Vec<Vec<f64>> = vec![vec![1.0 / (points.len() as f64).sqrt(); points.len()]];
    let mut sloped = Vec::new();
    for at in 0..points.first().map_or(0, Vec::len) {
        let mut column: Vec<f64> = points.iter().map(|point| point[at]).collect();
        let whole = dot(&column, &column);
        for known in &basis {
            let share = dot(&column, known);
            column.iter_mut().zip(known).for_each(|(value, known)| *value -= share * known);
        }
        let own = dot(&column, &column);
        if own > OWN_SHARE * whole {
            let length = own.sqrt();
            basis.push(column.into_iter().map(|value| value / length).collect());
            sloped.push(at);
        }
    }
    sloped
}

/// Equations of weights and tail, with the values beside them: `[row][unknowns, then values]`.
fn system(points: &[Vec<f64>], values: &[Vec<f64>], sloped: &[usize], ridge: f64) -> Vec<Vec<f64>> {
    let tail = |point: &Vec<f64>| {
        let slopes: Vec<f64> = sloped.iter().map(|at| point[*at]).collect();
        std::iter::once(1.0).chain(slopes)
    };
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (point, values) in points.iter().zip(values) {
        let cubes = points.iter().map(|other| cube(point, other));
        rows.push(cubes.chain(tail(point)).chain(values.iter().copied()).collect());
    }
    let tails: Vec<Vec<f64>> = points.iter().map(|point| tail(point).collect()).collect();
    let beside = 1 + sloped.len() + values.first().map_or(0, Vec::len);
    for at in 0..=sloped.len() {
        let sums = tails.iter().map(|tail| tail[at]);
        rows.push(sums.chain(std::iter::repeat_n(0.0, beside)).collect());
    }
    let added = ridge * largest(&rows);
    rows.iter_mut().take(points.len()).enumerate().for_each(|(at, row)| row[at] += added);
    rows
}

/// The constant that is the mean of all values, as a solution of so many unknowns.
fn constant(values: &[Vec<f64>], unknowns: usize) -> Vec<Vec<f64>> {
    let outputs = values.first().map_or(0, Vec::len);
    let mean = |at: usize| values.iter().map(|values| values[at]).sum::<f64>() / values.len() as f64;
    let mut rows = vec![vec![0.0; outputs]; unknowns];
    rows[values.len()] = (0..outputs).map(mean).collect();
    rows
}

fn largest(rows: &[Vec<f64>]) -> f64 {
    let unknowns = rows.len();
    rows.iter().flat_map(|row| &row[..unknowns]).fold(0.0, |most, value| value.abs().max(most))
}

/// Solution by Gaussian elimination with partial pivoting: `[unknown][value]`. `None` if there is not exactly one.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let unknowns = rows.len();
    let least = LEAST_PIVOT * largest(&rows);
    for column in 0..unknowns {
        // The first of the largest.
        let size = |row: usize| rows[row][column].abs();
        let pivot = (column..unknowns).rev().max_by(|a, b| size(*a).total_cmp(&size(*b)))?;
        if size(pivot).is_nan() || size(pivot) <= least {
            return None;
        }
        rows.swap(column, pivot);
        let (above, below) = rows.split_at_mut(column + 1);
        let pivot = &above[column];
        for row in below {
            let times = row[column] / pivot[column];
            if times != 0.0 {
                row[column..]
                    .iter_mut()
                    .zip(&pivot[column..])
                    .for_each(|(value, pivot)| *value -= times * pivot);
            }
        }
    }
    let outputs = rows.first().map_or(0, Vec::len) - unknowns;
    let mut solution = vec![vec![0.0; outputs]; unknowns];
    for at in (0..unknowns).rev() {
        for output in 0..outputs {
            let known =
                (at + 1..unknowns).map(|other| rows[at][other] * solution[other][output]).sum::<f64>();
            solution[at][output] = (rows[at][unknowns + output] - known) / rows[at][at];
        }
    }
    solution.iter().flatten().all(|value| value.is_finite()).then_some(solution)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Points of `levels` levels in each of `coordinates`, and what `values` says of them.
    fn samples(
        count: usize,
        coordinates: usize,
        levels: u32,
        values: impl Fn(&[f64]) -> Vec<f64>,
    ) -> Vec<(Vec<f64>, Vec<f64>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut point = || -> Vec<f64> {
            (0..coordinates).map(|_| f64::from(rng.random_range(0..levels)) / f64::from(levels - 1)).collect()
        };
        (0..count).map(|_| point()).map(|point| (point.clone(), values(&point))).collect()
    }

    fn curved(point: &[f64]) -> Vec<f64> {
        let sum = point.iter().zip(1..).map(|(x, at)| f64::from(at) * x * x * x).sum::<f64>();
        vec![sum, point[0] - 2.0 * point[1] * point[1]]
    }

    fn assert_close(given: &[f64], wanted: &[f64]) {
        for (given, wanted) in given.iter().zip(wanted) {
            assert!((given - wanted).abs() <= 1e-9 * (1.0 + wanted.abs()), "{given} {wanted}");
        }
    }

    #[test]
    fn it_goes_through_its_points() {
        for (count, coordinates, levels) in [(1, 2, 5), (2, 5, 5), (40, 15, 5), (300, 6, 5), (400, 30, 3)] {
            let samples = samples(count, coordinates, levels, curved);
            let rbf = Rbf::fit(&samples).unwrap();
            for (point, values) in &samples {
                assert_close(&rbf.predict(point), values);
            }
        }
    }

    #[test]
    fn lines_are_lines_everywhere() {
        let line = |point: &[f64]| vec![7.0 - 3.0 * point[0] + 0.5 * point[2], point[1]];
        let rbf = Rbf::fit(&samples(30, 4, 7, line)).unwrap();
        for (point, values) in samples(100, 4, 1000, line) {
            assert_close(&rbf.predict(&point), &values);
        }
    }

    #[test]
    fn between_points_it_is_closer_than_the_nearest_point() {
        let known = samples(200, 3, 1000, curved);
        let rbf = Rbf::fit(&known).unwrap();
        let (mut of_rbf, mut of_nearest) = (0.0, 0.0);
        for (point, values) in samples(300, 3, 997, curved) {
            let distance = |sample: &&(Vec<f64>, Vec<f64>)| squared_distance(&sample.0, &point);
            let nearest = known.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            of_nearest += (nearest.1[0] - values[0]).abs();
            of_rbf += (rbf.predict(&point)[0] - values[0]).abs();
        }
        assert!(of_rbf < of_nearest / 20.0, "{of_rbf} {of_nearest}");
    }

    #[test]
    fn bits_are_the_same_on_every_platform() {
        let rbf = Rbf::fit(&samples(60, 7, 5, curved)).unwrap();
        let values = samples(3, 7, 997, curved).into_iter().flat_map(|(point, _)| rbf.predict(&point));
        let bits = [
            4_621_309_306_857_853_304,
            13_827_738_026_315_339_772,
            4_617_542_999_861_176_170,
            13_831_069_004_342_932_474,
            4_618_411_120_881_262_896,
            4_603_523_557_513_541_655,
        ];
        assert_eq!(values.map(f64::to_bits).collect::<Vec<u64>>(), bits);
    }

    #[test]
    fn points_that_are_there_twice_count_as_one_with_their_mean() {
        let mut samples = samples(20, 3, 9, curved);
        let (point, values) = samples[4].clone();
        samples.push((point.clone(), values.iter().map(|value| value + 1.0).collect()));
        samples.extend(samples[..3].to_vec());
        let rbf = Rbf::fit(&samples).unwrap();
        let means: Vec<f64> = values.iter().map(|value| value + 0.5).collect();
        assert_close(&rbf.predict(&point), &means);
        let same = vec![(vec![0.25, 0.5], vec![3.0]), (vec![0.25, 0.5], vec![5.0])];
        assert_close(&Rbf::fit(&same).unwrap().predict(&[9.0, 9.0]), &[4.0]);
    }

    #[test]
    fn coordinates_that_tell_nothing_apart_break_nothing() {
        // The second is a constant, the third the first once more; all lie on a line.
        let line = |x: f64| (vec![x, 0.3, x, 1.0 - x], vec![5.0 * x]);
        let samples: Vec<_> = (0..9).map(|at| line(f64::from(at) / 8.0)).collect();
        let rbf = Rbf::fit(&samples).unwrap();
        assert_eq!(rbf.sloped, [0]);
        assert_close(&rbf.predict(&line(0.33).0), &[1.65]);
        assert!(Rbf::fit(&[]).is_none());
        assert_close(&Rbf::fit(&[(vec![], vec![2.0])]).unwrap().predict(&[]), &[2.0]);
    }

    #[test]
    fn what_has_no_solution_is_none() {
        assert_eq!(solve(vec![vec![1.0, 2.0, 1.0], vec![2.0, 4.0, 3.0]]), None);
        assert_eq!(solve(vec![vec![0.0, 2.0, 4.0], vec![3.0, 0.0, 9.0]]), Some(vec![vec![3.0], vec![2.0]]));
        assert_eq!(constant(&[vec![1.0], vec![3.0]], 4), [[0.0], [0.0], [2.0], [0.0]]);
    }
}
