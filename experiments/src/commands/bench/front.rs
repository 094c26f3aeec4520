//! `qslm bench front`: how fast a front follows new points, and how fast it and its volume are computed anew.

use clap::Args;
use qslm_common::candidate::CandidateId;
use qslm_common::pareto::{Frontier, front, hypervolume};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{median_seconds, show};
use crate::exit::Outcome;
use crate::output::Output;

/// Measure the Pareto front: updates per second, and computing it anew
#[derive(Debug, Args)]
pub struct FrontBench {
    /// Times that each measurement is made; the median is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row; its keys are part of the interface.
#[derive(Serialize)]
struct FrontTiming {
    what: &'static str,
    points: usize,
    /// Points on the front at the end.
    front: usize,
    milliseconds: f64,
    points_per_second: f64,
}

/// Points, and what to do with them; returns the size of the front.
type Measurement = (&'static str, Vec<Vec<f64>>, fn(&[Vec<f64>]) -> usize);

impl FrontBench {
    pub(super) fn run(self) -> Outcome {
        let measurements: [Measurement; 5] = [
            ("updates, 2 losses, random", random(100_000, 2), grow),
            ("updates, 2 losses, all on the front", line(100_000), grow),
            ("updates, 3 losses, front of 1,000", around_a_sphere(20_000, 1_000), grow),
            ("front anew, 3 losses", sphere(20_000), |points| front(points).len()),
            ("hypervolume anew, 3 losses", sphere(20_000), |points| {
                assert!(hypervolume(points, &[1.0, 1.0, 1.0]) > 0.0);
                points.len()
            }),
        ];
        let rows: Vec<FrontTiming> =
            measurements.into_iter().map(|measurement| self.measure(measurement)).collect();
        show(&rows, &["what", "points", "front", "milliseconds", "points_per_second"], self.output)
    }

    fn measure(&self, (what, points, run): Measurement) -> FrontTiming {
        let mut front = 0;
        let seconds = median_seconds(self.repeat, || front = run(&points));
        let points = points.len();
        FrontTiming {
            what,
            points,
            front,
            milliseconds: seconds * 1e3,
            points_per_second: points as f64 / seconds,
        }
    }
}

fn grow(points: &[Vec<f64>]) -> usize {
    let mut frontier = Frontier::default();
    // Which candidates they are makes no difference.
    let candidate = CandidateId::of(b"");
    for point in points {
        frontier.insert(point, candidate);
    }
    frontier.len()
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

fn random(count: usize, losses: usize) -> Vec<Vec<f64>> {
    let mut rng = rng();
    (0..count).map(|_| (0..losses).map(|_| rng.random::<f64>()).collect()).collect()
}

/// Points of which none dominates another, in random order.
fn line(count: usize) -> Vec<Vec<f64>> {
    let mut points: Vec<_> = (0..count).map(|i| vec![i as f64, (count - i) as f64]).collect();
    let mut rng = rng();
    for last in (1..points.len()).rev() {
        points.swap(last, rng.random_range(0..=last));
    }
    points
}

/// Points on an eighth of the unit sphere: none dominates another.
fn sphere(count: usize) -> Vec<Vec<f64>> {
    let unit = |point: Vec<f64>| {
        let length = point.iter().map(|x| x * x).sum::<f64>().sqrt();
        point.into_iter().map(|x| x / length).collect()
    };
    random(count, 3).into_iter().map(unit).collect()
}

/// `front` points of the sphere, and others above it.
fn around_a_sphere(count: usize, front: usize) -> Vec<Vec<f64>> {
    let mut points = sphere(front);
    let above = sphere(count - front).into_iter();
    points.extend(above.map(|point| point.into_iter().map(|x| x * 1.5 + 0.1).collect()));
    points
}
