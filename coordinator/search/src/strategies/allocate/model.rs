//! Model of what whole allocations lose: the losses of their groups added up, each of which grows with the squared error of
//! the group's codes.
//!
//! A group has one unknown, its loss at the level that told most when it was alone. Once whole allocations are measured, the
//! unknowns are fitted anew to everything that is, by least squares that are never negative. Groups lose more or less together
//! than they do alone, nearly all of them by one factor (0.7 in wikitext2-xs), which comes first: what groups lost alone is
//! multiplied with it. A measured loss is off by its noise, and by a share of itself that the law does not know of; it weighs
//! by both, so that the large losses of lone groups do not drown the small ones of allocations near a bound.

use qslm_common::archive::Archive;
use qslm_common::space::Group;

use super::probes::{LEAST_LOSS, Probes};
use crate::knapsack::Choice;
use crate::least_squares::{Row, non_negative};

/// Noise of a measured loss, in nats per token or sentence.
pub(super) const NOISE: f64 = 1e-3;
/// Share of a loss that the law does not know of.
pub(super) const MISFIT: f64 = 0.25;
/// Largest factor between losses together and alone, and its inverse the smallest.
const LARGEST_TOGETHER: f64 = 10.0;
/// Largest factor between the squared errors of two levels of a group.
const LARGEST_FACTOR: f64 = 1e9;

/// Model of an experiment.
pub(super) struct Model {
    /// Bytes of what does not move.
    fixed: u64,
    groups: Vec<Fitted>,
}

struct Fitted {
    levels: Vec<Level>,
    /// Loss alone that told how sensitive the group is; `None` if it could not be measured.
    alone: Option<f64>,
    /// The same as everything that was measured says.
    loss: f64,
}

/// A level that a group may take.
struct Level {
    level: usize,
    bytes: u64,
    /// Squared error of its codes, divided by that at the level that told.
    factor: f64,
}

impl Model {
    /// The model of groups measured alone; `None` if there is nothing to compare them with.
    pub(super) fn new(probes: &Probes, archive: &Archive) -> Option<Self> {
        probes.float_loss(archive)?;
        let whole = probes.base_bytes();
        let (mut fixed, mut groups) = (i128::from(whole), Vec::new());
        for group in &probes.groups {
            let telling = probes.telling(archive, group);
            let told = telling.map_or(1.0, |telling| probes.error_at(group, telling.level));
            let levels: Vec<(usize, u64)> = levels(probes, archive, group)
                .into_iter()
                .map(|level| (level, probes.bytes(group, level)))
                .collect();
            let least = levels.iter().map(|(_, bytes)| *bytes).min().unwrap_or(whole);
            fixed -= i128::from(whole) - i128::from(least);
            let level = |(level, bytes): (usize, u64)| {
                let factor = probes.error_at(group, level) / told.max(f64::MIN_POSITIVE);
                Level { level, bytes: bytes - least, factor: factor.min(LARGEST_FACTOR) }
            };
            let levels = levels.into_iter().map(level).collect();
            let alone = telling.map(|telling| telling.loss);
            groups.push(Fitted { levels, alone, loss: alone.unwrap_or(0.0) });
        }
        Some(Self { fixed: u64::try_from(fixed).unwrap_or(0), groups })
    }

    /// Fits the model to groups alone and to whole allocations, of which these choices lost so much.
    pub(super) fn refit<'a>(&mut self, measured: impl Iterator<Item = (&'a [usize], f64)>) {
        let whole: Vec<Row> = measured.map(|(choices, value)| self.whole(choices, value)).collect();
        let together = together(&whole, &self.alone());
        let start: Vec<f64> = self.alone().iter().map(|alone| together * alone).collect();
        let lone = (0..start.len()).filter(|index| self.groups[*index].alone.is_some()).map(|index| {
            let mut coefficients = vec![0.0; start.len()];
            coefficients[index] = 1.0;
            Row { coefficients, value: start[index], weight: weight(start[index]) }
        });
        let rows: Vec<Row> = lone.chain(whole).collect();
        for (group, loss) in self.groups.iter_mut().zip(non_negative(&rows, &start)) {
            group.loss = group.alone.map_or(0.0, |_| loss.max(LEAST_LOSS));
        }
    }

    /// Losses of groups alone, nothing where they could not be measured.
    fn alone(&self) -> Vec<f64> {
        self.groups.iter().map(|group| group.alone.unwrap_or(0.0)).collect()
    }

    /// A whole allocation as a sum of unknowns.
    fn whole(&self, choices: &[usize], value: f64) -> Row {
        let of_group = |(group, choice): (&Fitted, &usize)| match group.alone {
            Some(_) => group.levels[*choice].factor,
            None => 0.0,
        };
        let coefficients = self.groups.iter().zip(&choices[1..]).map(of_group).collect();
        Row { coefficients, value, weight: weight(value) }
    }

    /// Choices of a knapsack: what does not move, then every group at each of its levels.
    pub(super) fn units(&self) -> Vec<Vec<Choice>> {
        let of_group = |group: &Fitted| {
            let choice = |level: &Level| Choice { bytes: level.bytes, loss: group.loss * level.factor };
            group.levels.iter().map(choice).collect()
        };
        let fixed = vec![Choice { bytes: self.fixed, loss: 0.0 }];
        std::iter::once(fixed).chain(self.groups.iter().map(of_group)).collect()
    }

    /// Levels of groups that choices mean.
    pub(super) fn levels(&self, choices: &[usize]) -> Vec<usize> {
        self.groups.iter().zip(&choices[1..]).map(|(group, choice)| group.levels[*choice].level).collect()
    }
}

/// Weight of a measured loss.
fn weight(loss: f64) -> f64 {
    1.0 / (NOISE * NOISE + (MISFIT * loss) * (MISFIT * loss))
}

/// Factor between what groups lose together and the sum of what they lose alone, by least squares.
fn together(whole: &[Row], alone: &[f64]) -> f64 {
    let (mut products, mut squares) = (0.0, 0.0);
    for Row { coefficients, value, weight } in whole {
        let sum: f64 = coefficients.iter().zip(alone).map(|(factor, alone)| factor * alone).sum();
        products += weight * sum * value;
        squares += weight * sum * sum;
    }
    if squares > 0.0 { (products / squares).clamp(1.0 / LARGEST_TOGETHER, LARGEST_TOGETHER) } else { 1.0 }
}

/// Levels that a group may take: those that did not fail when it was alone, and the first alone if both did.
fn levels(probes: &Probes, archive: &Archive, group: &Group) -> Vec<usize> {
    let has_failed = |level: &usize| probes.added(archive, group, *level).is_none();
    let failed: Vec<usize> = probes.probed(group).into_iter().filter(has_failed).collect();
    if failed.len() == probes.probed(group).len() {
        return vec![0];
    }
    (0..=probes.last(group)).filter(|level| !failed.contains(level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(alone: &[f64]) -> Model {
        let level = |level: usize| Level { level, bytes: 10 - level as u64, factor: [0.1, 0.3, 1.0][level] };
        let group =
            |alone: &f64| Fitted { levels: (0..3).map(level).collect(), alone: Some(*alone), loss: *alone };
        Model { fixed: 100, groups: alone.iter().map(group).collect() }
    }

    fn loss(model: &Model, choices: &[usize]) -> f64 {
        model.units().iter().zip(choices).map(|(unit, choice)| unit[*choice].loss).sum()
    }

    #[test]
    fn groups_that_lose_less_together_are_fitted_to_that() {
        let mut model = model(&[0.02, 0.04, 0.08]);
        let whole = [vec![0, 2, 1, 0], vec![0, 1, 2, 1], vec![0, 0, 1, 2], vec![0, 1, 1, 1]];
        let before: Vec<f64> = whole.iter().map(|choices| loss(&model, choices)).collect();
        let measured = || whole.iter().zip(&before).map(|(choices, loss)| (&choices[..], 0.6 * loss));
        model.refit(measured());
        for (choices, before) in whole.iter().zip(&before) {
            let after = loss(&model, choices);
            assert!((after - 0.6 * before).abs() < 1e-6 * before, "{after} {before}");
        }
        // What is measured as it was predicted changes nothing.
        let mut same = self::model(&[0.02, 0.04, 0.08]);
        same.refit(whole.iter().zip(&before).map(|(choices, loss)| (&choices[..], *loss)));
        for (group, alone) in same.groups.iter().zip([0.02, 0.04, 0.08]) {
            assert!((group.loss - alone).abs() < 1e-9);
        }
    }
}
