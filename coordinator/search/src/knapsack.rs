//! Knapsack: one choice for every unit, so that the least is lost in so many bytes.
//!
//! ```text
//! front   units in order; every state (bytes, loss) is extended by each choice of the next unit, and a state that another
//!         one beats in bytes and loss is dropped. What is left is every answer that some budget asks for.
//! hull    of these, the answers of a fixed price of a byte: from the least loss on, the move that adds least loss for a byte
//!         it saves comes next. It takes no states, and leaves gaps.
//! ```
//!
//! The front is exact as long as there are no more states than asked for. From there on the bytes between the smallest and
//! the largest state are cut into so many bins, of which each keeps the state that loses least, with its own bytes: a
//! budget still holds to the byte, and what is lost is at most what a budget smaller by a bin for every unit loses.
//!
//! Sources: Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 36, 1988 (hull);
//! the program of HIGGS, arXiv 2411.17525, and of HAWQ-V3, arXiv 2011.10680, here solved by dominance.

/// Choice of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Bytes of the unit.
    pub bytes: u64,
    /// Loss that it adds. A choice whose loss is no number is never taken.
    pub loss: f64,
}

/// Answer: a choice of every unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Index of each unit's choice.
    pub choices: Vec<usize>,
    /// Bytes of all.
    pub bytes: u64,
    /// Loss of all.
    pub loss: f64,
}

/// Front: the answers that no other beats in bytes and loss, from the smallest to the largest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Front {
    states: Vec<State>,
    /// For every unit the step that led to each of its states.
    steps: Vec<Vec<Step>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    bytes: u64,
    loss: f64,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    /// Index of the state before it, among those of the unit before.
    from: u32,
    choice: u32,
}

impl Front {
    /// The front of units with their choices, of no more than about `most` states after each unit. Empty if a unit has no
    /// choice.
    pub(crate) fn new(units: &[Vec<Choice>], most: usize) -> Self {
        let mut states = vec![State { bytes: 0, loss: 0.0, step: Step { from: 0, choice: 0 } }];
        let mut steps = Vec::with_capacity(units.len());
        for unit in units {
            states = thinned(extended(&states, unit), most);
            steps.push(states.iter().map(|state| state.step).collect());
        }
        Self { states, steps }
    }

    /// Number of answers.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Bytes of an answer.
    pub(crate) fn bytes(&self, place: usize) -> u64 {
        self.states[place].bytes
    }

    /// The place of the answer that loses least within so many bytes.
    pub(crate) fn within(&self, bytes: u64) -> Option<usize> {
        self.states.partition_point(|state| state.bytes <= bytes).checked_sub(1)
    }

    /// The place of the smallest answer that loses no more than this.
    pub(crate) fn losing(&self, loss: f64) -> Option<usize> {
        let place = self.states.partition_point(|state| state.loss > loss);
        (place < self.states.len()).then_some(place)
    }

    /// The answer at a place.
    pub(crate) fn answer(&self, place: usize) -> Answer {
        let State { bytes, loss, .. } = self.states[place];
        let (mut choices, mut place) = (vec![0; self.steps.len()], place);
        for (choice, steps) in choices.iter_mut().zip(&self.steps).rev() {
            let step = steps[place];
            (*choice, place) = (step.choice as usize, step.from as usize);
        }
        Answer { choices, bytes, loss }
    }
}

/// Every state with each choice of the next unit, but for those that another one beats.
fn extended(states: &[State], unit: &[Choice]) -> Vec<State> {
    let with = |(choice, taken): (u32, &Choice)| -> Vec<State> {
        let extend = |(from, state): (u32, &State)| State {
            bytes: state.bytes.saturating_add(taken.bytes),
            loss: state.loss + taken.loss,
            step: Step { from, choice },
        };
        (0..).zip(states).map(extend).collect()
    };
    let mut runs: Vec<Vec<State>> =
        (0..).zip(unit).filter(|(_, taken)| taken.loss.is_finite()).map(with).collect();
    while runs.len() > 1 {
        runs = runs.chunks(2).map(merged).collect();
    }
    runs.pop().unwrap_or_default()
}

/// States of one or two runs in the order of their bytes, of which each loses less than the one before.
fn merged(runs: &[Vec<State>]) -> Vec<State> {
    let (mut a, mut b) = (runs[0].iter().peekable(), runs.get(1).into_iter().flatten().peekable());
    let (mut all, mut least) = (Vec::new(), f64::INFINITY);
    loop {
        let is_second = match (a.peek(), b.peek()) {
            (Some(one), Some(other)) => (other.bytes, other.loss) < (one.bytes, one.loss),
            (one, _) => one.is_none(),
        };
        let Some(state) = (if is_second { b.next() } else { a.next() }) else { return all };
        if state.loss < least {
            least = state.loss;
            all.push(*state);
        }
    }
}

/// The smallest state, and of every bin of bytes the one that loses least, which is its last.
fn thinned(states: Vec<State>, most: usize) -> Vec<State> {
    let (Some(first), Some(last)) = (states.first(), states.last()) else { return states };
    if states.len() <= most {
        return states;
    }
    let (low, span) = (first.bytes, u128::from(last.bytes - first.bytes) + 1);
    let bin = |state: &State| u128::from(state.bytes - low) * most as u128 / span;
    let is_kept = |(place, state): &(usize, &State)| {
        *place == 0 || states.get(place + 1).is_none_or(|next| bin(next) > bin(state))
    };
    states.iter().enumerate().filter(is_kept).map(|(_, state)| *state).collect()
}

/// Answers on the convex hull of the front, from the one that loses least to the smallest. Empty if a unit has no choice.
pub(crate) fn hull(units: &[Vec<Choice>]) -> Vec<Answer> {
    let least = |unit: &Vec<Choice>| {
        let numbers = (0..unit.len()).filter(|choice| unit[*choice].loss.is_finite());
        numbers.min_by(|a, b| {
            let (a, b) = (unit[*a], unit[*b]);
            a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes))
        })
    };
    let Some(choices) = units.iter().map(least).collect::<Option<Vec<usize>>>() else { return Vec::new() };
    let mut moves: Vec<Move> = Vec::new();
    for (index, (unit, start)) in units.iter().zip(&choices).enumerate() {
        moves.extend(moves_of(unit, *start).into_iter().map(|(price, choice)| (price, index, choice)));
    }
    // Moves of one unit stay in order: none is cheaper than the one before.
    moves.sort_by(|a, b| a.0.total_cmp(&b.0));
    let taken = || units.iter().zip(&choices).map(|(unit, choice)| unit[*choice]);
    let (bytes, loss) = (taken().map(|choice| choice.bytes).sum(), taken().map(|choice| choice.loss).sum());
    let mut answer = Answer { choices, bytes, loss };
    let mut path = vec![answer.clone()];
    for (_, index, choice) in moves {
        let (before, after) = (units[index][answer.choices[index]], units[index][choice]);
        answer.choices[index] = choice;
        answer.bytes -= before.bytes - after.bytes;
        answer.loss += after.loss - before.loss;
        path.push(answer.clone());
    }
    path
}

/// Price of a byte, unit and choice of a move.
type Move = (f64, usize, usize);

/// Moves along a unit's own convex hull, with the loss that each adds for a byte it saves.
fn moves_of(unit: &[Choice], start: usize) -> Vec<(f64, usize)> {
    let (mut at, mut moves) = (unit[start], Vec::<(f64, usize)>::new());
    loop {
        let smaller = unit.iter().enumerate().filter(|(_, to)| to.bytes < at.bytes && to.loss.is_finite());
        let priced = smaller.map(|(choice, to)| ((to.loss - at.loss) / (at.bytes - to.bytes) as f64, choice));
        // Of equals the smallest: it saves most.
        let next = priced.min_by(|a, b| a.0.total_cmp(&b.0).then(unit[a.1].bytes.cmp(&unit[b.1].bytes)));
        let Some((price, choice)) = next else { return moves };
        let price = moves.last().map_or(price, |(before, _)| price.max(*before));
        moves.push((price, choice));
        at = unit[choice];
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Units with choices at random, losses falling with bytes for the most part.
    fn units(seed: u64, count: usize, choices: usize) -> Vec<Vec<Choice>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut unit = || {
            let (size, weight) = (rng.random_range(1..500u64), rng.random_range(1..1000) as f64 / 1000.0);
            let mut choice = |at: usize| Choice {
                bytes: size * (choices - at) as u64 + rng.random_range(0..5),
                loss: weight * ((at + 1) * (at + 1)) as f64 * rng.random_range(50..100) as f64,
            };
            (0..choices).map(&mut choice).collect()
        };
        (0..count).map(|_| unit()).collect()
    }

    /// Every answer.
    fn all(units: &[Vec<Choice>]) -> Vec<(u64, f64)> {
        units.iter().fold(vec![(0, 0.0)], |all, unit| {
            let extend =
                |(bytes, loss): (u64, f64)| unit.iter().map(move |to| (bytes + to.bytes, loss + to.loss));
            all.into_iter().flat_map(extend).collect()
        })
    }

    fn best(all: &[(u64, f64)], budget: u64) -> Option<f64> {
        let within = all.iter().filter(|(bytes, _)| *bytes <= budget).map(|(_, loss)| *loss);
        within.min_by(f64::total_cmp)
    }

    const EXACT: usize = 1 << 20;

    #[test]
    fn the_front_has_the_best_of_all_answers_for_every_budget() {
        for seed in 0..60 {
            let units = units(seed, 1 + seed as usize % 6, 1 + seed as usize % 5);
            let (front, all) = (Front::new(&units, EXACT), all(&units));
            let largest = all.iter().map(|(bytes, _)| *bytes).max().unwrap();
            let mut before = f64::INFINITY;
            for budget in (0..=largest).step_by(1 + largest as usize / 97) {
                let place = front.within(budget);
                let answer = place.map(|place| front.answer(place));
                let Some(answer) = answer else {
                    assert_eq!(best(&all, budget), None, "seed {seed}, budget {budget}");
                    continue;
                };
                assert!(answer.bytes <= budget, "seed {seed}: {} of {budget}", answer.bytes);
                assert!(answer.loss <= before, "seed {seed}: more bytes never lose more");
                let least = best(&all, budget).unwrap();
                assert!((answer.loss - least).abs() < 1e-9, "seed {seed}: {} {least}", answer.loss);
                let taken: Vec<_> = units.iter().zip(&answer.choices).map(|(unit, at)| unit[*at]).collect();
                assert_eq!(taken.iter().map(|choice| choice.bytes).sum::<u64>(), answer.bytes);
                assert_eq!(taken.iter().map(|choice| choice.loss).sum::<f64>(), answer.loss);
                before = answer.loss;
            }
            for place in 0..front.len() {
                let answer = front.answer(place);
                assert_eq!(front.within(front.bytes(place)), Some(place), "seed {seed}");
                assert_eq!(front.losing(answer.loss), Some(place), "seed {seed}");
            }
        }
    }

    #[test]
    fn the_order_of_units_does_not_matter() {
        for seed in 0..30 {
            let units = units(seed, 7, 4);
            let turned: Vec<_> = units.iter().rev().cloned().collect();
            let (one, other) = (Front::new(&units, EXACT), Front::new(&turned, EXACT));
            for budget in (0..16_000).step_by(61) {
                let loss = |front: &Front| front.within(budget).map(|place| front.answer(place).loss);
                match (loss(&one), loss(&other)) {
                    (Some(one), Some(other)) => assert!((one - other).abs() < 1e-9, "seed {seed}"),
                    (one, other) => assert_eq!(one, other, "seed {seed}"),
                }
            }
        }
    }

    #[test]
    fn the_hull_is_part_of_the_front_and_convex() {
        for seed in 0..60 {
            let units = units(seed, 6, 5);
            let (front, hull) = (Front::new(&units, EXACT), hull(&units));
            for answer in &hull {
                let place = front.within(answer.bytes).unwrap();
                assert_eq!(front.bytes(place), answer.bytes, "seed {seed}");
                assert!((front.answer(place).loss - answer.loss).abs() < 1e-9, "seed {seed}");
            }
            let price =
                |pair: &[Answer]| (pair[1].loss - pair[0].loss) / (pair[0].bytes - pair[1].bytes) as f64;
            let prices: Vec<f64> = hull.windows(2).map(price).collect();
            assert!(prices.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9), "seed {seed}: {prices:?}");
            let (largest, smallest) = (hull.first().unwrap(), hull.last().unwrap());
            assert_eq!((smallest.bytes, largest.bytes), (front.bytes(0), front.bytes(front.len() - 1)));
        }
    }

    #[test]
    fn with_few_states_budgets_hold_and_little_is_lost() {
        for seed in 0..10 {
            let units = units(seed, 12, 5);
            let (exact, few) = (Front::new(&units, EXACT), Front::new(&units, 200));
            assert!(few.len() <= 201 && exact.len() > 201, "{} {}", few.len(), exact.len());
            assert_eq!(few.bytes(0), exact.bytes(0), "the smallest stays");
            let (low, high) = (exact.bytes(0), exact.bytes(exact.len() - 1));
            let bins = units.len() as u64 * (high - low).div_ceil(200);
            for budget in (low + bins..high).step_by(101) {
                let within = few.answer(few.within(budget).unwrap());
                assert!(within.bytes <= budget);
                let bound = exact.answer(exact.within(budget - bins).unwrap()).loss;
                assert!(within.loss <= bound + 1e-9, "seed {seed}: {} {bound}", within.loss);
            }
        }
    }

    #[test]
    fn what_has_no_choice_has_no_answer() {
        let none = [vec![Choice { bytes: 1, loss: 0.0 }], vec![]];
        assert_eq!((Front::new(&none, 10).len(), hull(&none).len()), (0, 0));
        let no_number = [vec![Choice { bytes: 1, loss: f64::NAN }, Choice { bytes: 2, loss: 1.0 }]];
        let front = Front::new(&no_number, 10);
        assert_eq!((front.len(), front.answer(0).choices), (1, vec![1]));
        assert_eq!(hull(&no_number)[0].choices, [1]);
        assert_eq!(Front::new(&[], 10).answer(0), Answer { choices: vec![], bytes: 0, loss: 0.0 });
    }

    /// `cargo test --release -p qslm-search how_long -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    #[expect(clippy::disallowed_macros, reason = "the figures are what it is for")]
    fn how_long_a_large_network_takes() {
        let units = units(1, 128, 9);
        for most in [1 << 12, 1 << 13, 1 << 14, 1 << 15] {
            let began = std::time::Instant::now();
            let front = Front::new(&units, most);
            let whole = began.elapsed();
            let began = std::time::Instant::now();
            let budget = (front.bytes(0) + front.bytes(front.len() - 1)) / 2;
            let answer = front.answer(front.within(budget).unwrap());
            let one = began.elapsed();
            let began = std::time::Instant::now();
            let hull = hull(&units);
            let near = hull.iter().find(|on| on.bytes <= budget).unwrap().loss;
            println!(
                "{most} states: front {whole:?}, one budget more {one:?}, hull of {} {:?}; loss {}, hull's {near}",
                hull.len(),
                began.elapsed(),
                answer.loss
            );
        }
    }
}
