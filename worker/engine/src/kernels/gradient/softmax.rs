//! Gradients of cross entropy, with a target that is given or drawn, and of distillation in a row of logits.
//!
//! Powers, sums and logarithms are our own, so gradients and losses have the same bits everywhere.

use qslm_common::elementary::ln;

use super::super::exp::exp;
use super::super::loss::PIECE;
use super::super::simd::per_instruction_set;
use super::LANES;

/// Loss of a row: the part that trains, and both that make it up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowLoss {
    /// Cross entropy with the target, in nats.
    pub cross_entropy: f64,
    /// Divergence `KL(teacher || row)`, in nats; 0 without a teacher.
    pub divergence: f64,
}

/// Replaces a row of logits by `scale (softmax - target)`, the gradient of `scale` cross entropies.
///
/// # Panics
/// If the target is not an index of the row.
pub fn cross_entropy(logits: &mut [f32], target: usize, scale: f32) -> RowLoss {
    let (largest, logit) = (largest(logits), logits[target]);
    let sum = exponentials(logits, largest);
    multiply(logits, (f64::from(scale) / sum) as f32);
    logits[target] -= scale;
    RowLoss { cross_entropy: f64::from(largest) + ln(sum) - f64::from(logit), divergence: 0.0 }
}

/// As [`cross_entropy`] with a target that the row itself draws, index `i` with probability `softmax_i`: the first whose
/// cumulated probability is above `draw / 2^32`. Over all draws the gradient's mean is zero, and the mean of its square the
/// Fisher information.
///
/// # Panics
/// If the row is empty.
pub fn sampled(logits: &mut [f32], draw: u32, scale: f32) -> RowLoss {
    let largest = largest(logits);
    let sum = exponentials(logits, largest);
    let wanted = sum * (f64::from(draw) + 0.5) / 4_294_967_296.0;
    let mut cumulated = 0.0;
    let mut reached = logits.iter().position(|power| {
        cumulated += f64::from(*power);
        cumulated > wanted
    });
    // Both sums round in their own way, so that the largest draw may be reached by none.
    let target = *reached.get_or_insert(logits.len() - 1);
    let probability = f64::from(logits[target]) / sum;
    multiply(logits, (f64::from(scale) / sum) as f32);
    logits[target] -= scale;
    RowLoss { cross_entropy: -ln(probability), divergence: 0.0 }
}

/// Replaces a row of logits by the gradient of `scale ((1 - share) cross entropy + share KL(teacher || row))`, which is
/// `scale (softmax - (1 - share) target - share teacher)`. The teacher's logits are overwritten.
///
/// # Panics
/// If the rows differ in length, or the target is not an index of them.
pub fn distillation(
    logits: &mut [f32],
    teacher: &mut [f32],
    target: usize,
    share: f32,
    scale: f32,
) -> RowLoss {
    assert_eq!(logits.len(), teacher.len());
    let (top, teacher_top, logit) = (largest(logits), largest(teacher), logits[target]);
    let (teacher_sum, crossed) = teacher_exponentials(teacher, logits, teacher_top);
    let sum = exponentials(logits, top);
    let of_row = (f64::from(scale) / sum) as f32;
    let of_teacher = (f64::from(scale) * f64::from(share) / teacher_sum) as f32;
    subtract(logits, of_row, teacher, of_teacher);
    logits[target] -= scale * (1.0 - share);
    let log_sum = f64::from(top) + ln(sum);
    let teacher_log_sum = f64::from(teacher_top) + ln(teacher_sum);
    RowLoss {
        cross_entropy: log_sum - f64::from(logit),
        divergence: crossed / teacher_sum - teacher_log_sum + log_sum,
    }
}

per_instruction_set! {
    /// The largest number of a row.
    fn largest(row: &[f32]) -> f32 {
        let mut tops = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                tops[lane] = if chunk[lane] > tops[lane] { chunk[lane] } else { tops[lane] };
            }
        }
        tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

per_instruction_set! {
    /// `x = e^(x - largest)`, and their sum: of [`PIECE`] numbers in lanes, of pieces in 64 bits.
    fn exponentials(row: &mut [f32], largest: f32) -> f64 {
        let mut sum = 0.0;
        for piece in row.chunks_mut(PIECE) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = piece.as_chunks_mut::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    chunk[lane] = exp(chunk[lane] - largest);
                    lanes[lane] += chunk[lane];
                }
            }
            for (x, lane) in rest.iter_mut().zip(&mut lanes) {
                *x = exp(*x - largest);
                *lane += *x;
            }
            sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        sum
    }
}

per_instruction_set! {
    /// `t = e^(t - largest)`, their sum, and the sum of `e^(t - largest) (t - x)`.
    fn teacher_exponentials(teacher: &mut [f32], row: &[f32], largest: f32) -> (f64, f64) {
        let (mut sum, mut crossed) = (0.0, 0.0);
        for (teacher, row) in teacher.chunks_mut(PIECE).zip(row.chunks(PIECE)) {
            let (mut sums, mut products) = ([0.0f32; LANES], [0.0f32; LANES]);
            let ((chunks, rest), (rows, row_rest)) =
                (teacher.as_chunks_mut::<LANES>(), row.as_chunks::<LANES>());
            for (chunk, row) in chunks.iter_mut().zip(rows) {
                for lane in 0..LANES {
                    let (t, x) = (chunk[lane], row[lane]);
                    chunk[lane] = exp(t - largest);
                    sums[lane] += chunk[lane];
                    products[lane] += chunk[lane] * (t - x);
                }
            }
            let lanes = sums.iter_mut().zip(&mut products);
            for ((t, x), (sum, product)) in rest.iter_mut().zip(row_rest).zip(lanes) {
                let power = exp(*t - largest);
                *sum += power;
                *product += power * (*t - *x);
                *t = power;
            }
            sum += sums.iter().map(|lane| f64::from(*lane)).sum::<f64>();
            crossed += products.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        (sum, crossed)
    }
}

per_instruction_set! {
    fn multiply(row: &mut [f32], by: f32) {
        row.iter_mut().for_each(|x| *x *= by);
    }
}

per_instruction_set! {
    /// `x = x by - t t_by`.
    fn subtract(row: &mut [f32], by: f32, teacher: &[f32], teacher_by: f32) {
        row.iter_mut().zip(teacher).for_each(|(x, t)| *x = *x * by - *t * teacher_by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, by: f32, times: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * by).sin() * times).collect()
    }

    fn softmax(row: &[f32]) -> (Vec<f64>, f64) {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        (row.iter().map(|x| f64::from(*x).exp() / sum).collect(), sum.ln())
    }

    #[test]
    fn losses_and_gradients_are_those_of_double_precision() {
        for width in [1, 2, 15, 16, 17, 1000, 1025, 3000] {
            let (row, teacher) = (wave(width, 0.37, 6.0), wave(width, 0.71, 5.0));
            let ((p, log_sum), (t, teacher_log_sum)) = (softmax(&row), softmax(&teacher));
            let target = width / 2;
            let cross = log_sum - f64::from(row[target]);
            let each =
                |i: usize| t[i] * (f64::from(teacher[i]) - teacher_log_sum - f64::from(row[i]) + log_sum);
            let divergence: f64 = (0..width).map(each).sum();
            for share in [0.0f32, 0.25, 1.0] {
                let (mut row, mut teacher) = (row.clone(), teacher.clone());
                let loss = distillation(&mut row, &mut teacher, target, share, 0.5);
                assert!(
                    (loss.cross_entropy - cross).abs() < 1e-5 && (loss.divergence - divergence).abs() < 1e-4
                );
                let share = f64::from(share);
                for i in 0..width {
                    let hit = if i == target { 1.0 - share } else { 0.0 };
                    let expected = 0.5 * (p[i] - hit - share * t[i]);
                    assert!((f64::from(row[i]) - expected).abs() < 1e-6, "width {width}, {i}");
                }
            }
            let mut plain = row.clone();
            assert!((cross_entropy(&mut plain, target, 2.0).cross_entropy - cross).abs() < 1e-5);
            for i in 0..width {
                let hit = if i == target { 1.0 } else { 0.0 };
                assert!((f64::from(plain[i]) - 2.0 * (p[i] - hit)).abs() < 4e-6, "width {width}, {i}");
            }
        }
    }

    #[test]
    fn a_target_is_drawn_as_often_as_it_is_likely() {
        let row = wave(9, 0.9, 1.5);
        let (p, _) = softmax(&row);
        let draws = 4096u32;
        let (mut hits, mut gradient) = ([0u32; 9], [0.0f64; 9]);
        for draw in 0..draws {
            let mut drawn = row.clone();
            let loss = sampled(&mut drawn, draw << 20, 1.0);
            let target = drawn.iter().position(|x| *x < 0.0).unwrap();
            hits[target] += 1;
            assert!((loss.cross_entropy + p[target].ln()).abs() < 1e-5);
            gradient.iter_mut().zip(&drawn).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for i in 0..9 {
            let share = f64::from(hits[i]) / f64::from(draws);
            assert!((share - p[i]).abs() < 1.0 / f64::from(draws), "{i}: {share} {}", p[i]);
            assert!((gradient[i] / f64::from(draws)).abs() < 1e-3, "the score has no mean");
        }
        for draw in [0, u32::MAX] {
            let mut drawn = row.clone();
            sampled(&mut drawn, draw, 1.0);
            assert_eq!(drawn.iter().position(|x| *x < 0.0), Some(if draw == 0 { 0 } else { 8 }));
        }
    }

    #[test]
    fn a_row_that_is_its_teacher_has_no_divergence_and_no_gradient() {
        let mut row = wave(300, 0.37, 6.0);
        let loss = distillation(&mut row.clone(), &mut row, 3, 1.0, 1.0);
        assert!(loss.divergence.abs() < 1e-6);
        let mut same = wave(300, 0.37, 6.0);
        distillation(&mut same, &mut wave(300, 0.37, 6.0), 3, 1.0, 1.0);
        assert!(same.iter().all(|x| x.abs() < 1e-7));
    }
}
