//! Agent: an actor and a critic that learn from episodes.

use rand::{Rng, RngExt};

use super::adam::Adam;
use super::mlp::Mlp;
use super::replay::{Episode, Replay};
use qslm_common::elementary::sigmoid;

/// Agent: answers states with actions from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agent {
    actor: Learner,
    critic: Learner,
    replay: Replay,
    /// Moving average of the mean rewards of batches; none before the first.
    baseline: Option<f64>,
}

/// A network that learns, and a copy that follows it slowly.
#[derive(Debug, Clone, PartialEq)]
struct Learner {
    network: Mlp,
    target: Mlp,
    adam: Adam,
}

/// Rates of actor and critic.
const ACTOR_RATE: f64 = 1e-4;
const CRITIC_RATE: f64 = 1e-3;
/// Steps of a batch.
const BATCH: usize = 64;
/// Share of the way to its network that a copy goes with each update.
const TAU: f64 = 0.01;
/// Worth of a reward one step later.
const DISCOUNT: f64 = 1.0;
/// Weight of a batch in the moving average of rewards.
const BASELINE_WEIGHT: f64 = 0.5;

impl Agent {
    /// Agent that knows nothing, for states of so many numbers, with so many hidden units.
    pub(crate) fn new(state: usize, hidden: usize, rng: &mut impl Rng) -> Self {
        let mut network = |sizes: &[usize], own: usize| {
            // Bounds as torch.nn.Linear has them, where the action enters by a layer of its own.
            Mlp::new(sizes, |layer, input, inputs| {
                let inputs = match (layer, input) {
                    (0, Some(input)) if input >= own => inputs - own,
                    (0, _) => own,
                    _ => inputs,
                };
                let bound = 1.0 / (inputs.max(1) as f64).sqrt();
                bound * rng.random_range(-1.0..1.0)
            })
        };
        Self {
            actor: Learner::new(network(&[state, hidden, hidden, 1], state), ACTOR_RATE),
            critic: Learner::new(network(&[state + 1, hidden, hidden, 1], state), CRITIC_RATE),
            replay: Replay::default(),
            baseline: None,
        }
    }

    /// Answer of the actor, from 0 to 1.
    pub(crate) fn act(&self, state: &[f64]) -> f64 {
        actions(&self.actor.network, state.to_vec())[0]
    }

    /// Remembers an episode.
    pub(crate) fn observe(&mut self, episode: Episode) {
        self.replay.push(episode);
    }

    /// One update by a batch of remembered steps.
    pub(crate) fn learn(&mut self, rng: &mut impl Rng) {
        let Self { actor, critic, replay, baseline } = self;
        let batch = replay.sample(BATCH, rng);
        if batch.is_empty() {
            return;
        }
        let mean = batch.iter().map(|step| step.reward).sum::<f64>() / batch.len() as f64;
        let average = baseline.map_or(mean, |average| average + BASELINE_WEIGHT * (mean - average));
        *baseline = Some(average);

        let states: Vec<f64> = batch.iter().flat_map(|step| step.state).copied().collect();
        // The last step has no next state; any will do, since it does not count.
        let next: Vec<f64> = batch.iter().flat_map(|step| step.next.unwrap_or(step.state)).copied().collect();
        let next = joined(&next, &actions(&actor.target, next.clone()));
        let next = critic.target.forward(next).pop().unwrap_or_default();
        let targets: Vec<f64> = batch
            .iter()
            .zip(next)
            .map(|(step, next)| {
                step.reward - average + if step.next.is_some() { DISCOUNT * next } else { 0.0 }
            })
            .collect();
        let taken: Vec<f64> = batch.iter().map(|step| step.action).collect();
        critic.fit(joined(&states, &taken), &targets);
        actor.improve(&critic.network, states);
        critic.follow();
        actor.follow();
    }
}

impl Learner {
    fn new(network: Mlp, rate: f64) -> Self {
        Self { target: network.clone(), adam: Adam::new(rate, network.parameters.len()), network }
    }

    /// A step of a critic towards these values of states with actions: down the mean squared error.
    fn fit(&mut self, batch: Vec<f64>, targets: &[f64]) {
        let values = self.network.forward(batch);
        let outputs = values.last().map_or(&[][..], Vec::as_slice);
        let count = targets.len() as f64;
        let by_outputs = outputs.iter().zip(targets).map(|(output, target)| 2.0 * (output - target) / count);
        let by_outputs = by_outputs.collect();
        let mut gradient = vec![0.0; self.network.parameters.len()];
        self.network.backward(&values, by_outputs, Some(&mut gradient));
        self.adam.step(&mut self.network.parameters, &gradient);
    }

    /// A step of an actor towards what the critic thinks better of in these states.
    fn improve(&mut self, critic: &Mlp, states: Vec<f64>) {
        let values = self.network.forward(states);
        let answers: Vec<f64> =
            values.last().map_or(&[][..], Vec::as_slice).iter().map(|output| sigmoid(*output)).collect();
        let judged = critic.forward(joined(&values[0], &answers));
        let width = judged[0].len() / answers.len();
        let down = vec![-1.0 / answers.len() as f64; answers.len()];
        let by_inputs = critic.backward(&judged, down, None);
        let by_answers = by_inputs.chunks_exact(width).map(|row| row[width - 1]);
        let by_outputs = by_answers.zip(&answers).map(|(by, answer)| by * answer * (1.0 - answer)).collect();
        let mut gradient = vec![0.0; self.network.parameters.len()];
        self.network.backward(&values, by_outputs, Some(&mut gradient));
        self.adam.step(&mut self.network.parameters, &gradient);
    }

    /// Lets the copy follow.
    fn follow(&mut self) {
        let pairs = self.target.parameters.iter_mut().zip(&self.network.parameters);
        pairs.for_each(|(copy, parameter)| *copy += TAU * (parameter - *copy));
    }
}

/// Answers of an actor to a batch of states.
fn actions(actor: &Mlp, states: Vec<f64>) -> Vec<f64> {
    let outputs = actor.forward(states).pop().unwrap_or_default();
    outputs.into_iter().map(sigmoid).collect()
}

/// Each state with its action behind it.
fn joined(states: &[f64], actions: &[f64]) -> Vec<f64> {
    let width = states.len() / actions.len().max(1);
    let rows = states.chunks(width.max(1)).zip(actions);
    rows.flat_map(|(state, action)| state.iter().chain(Some(action)).copied()).collect()
}

/// Multiplications of one update: ten passes through networks of this size, and what is done with each parameter.
pub(crate) fn products_of_update(state: u64, hidden: u64) -> u64 {
    let parameters = (state + 1 + hidden + 1) * hidden;
    parameters * (10 * BATCH as u64 + 20)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::explore;
    use super::*;

    #[test]
    fn the_targets_of_a_critic_are_rewards_less_their_average_and_what_comes_next() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut agent = Agent::new(2, 8, &mut rng);
        assert!((0.0..=1.0).contains(&agent.act(&[0.3, 0.7])));
        agent.learn(&mut rng);
        assert_eq!(agent.baseline, None, "without episodes there is nothing to learn");
        let episode = |reward| Episode { states: vec![vec![0.0, 1.0]], actions: vec![0.5], reward };
        agent.observe(episode(-3.0));
        agent.learn(&mut rng);
        assert_eq!(agent.baseline, Some(-3.0));
        (0..1000).for_each(|_| agent.observe(episode(1.0)));
        agent.learn(&mut rng);
        assert_eq!(agent.baseline, Some(-1.0), "half of the way");
        // All rewards are alike by now, so a lone step is worth what they have in common: nothing.
        (0..2000).for_each(|_| agent.learn(&mut rng));
        let worth = agent.critic.network.forward(vec![0.0, 1.0, 0.5]).pop().unwrap()[0];
        assert!(worth.abs() < 0.02, "{worth}");
    }

    #[test]
    fn it_learns_the_best_width_of_one_layer_within_200_episodes() {
        const LEVELS: f64 = 7.0;
        for (seed, best) in [(1, 1.0), (5, 3.0)] {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            // As wide as published: with fewer units, a layer alone gives too few updates.
            let mut agent = Agent::new(3, 300, &mut rng);
            let state = vec![1.0, 0.0, 0.5];
            for episode in 0..200 {
                let action = match episode {
                    0..20 => rng.random_range(0.0..1.0),
                    _ => explore(agent.act(&state), 0.5 * 0.99f64.powi(episode - 20), &mut rng),
                };
                let width = (action * LEVELS).floor().min(LEVELS - 1.0);
                let reward = -(width - best).abs();
                agent.observe(Episode { states: vec![state.clone()], actions: vec![action], reward });
                if episode >= 20 {
                    agent.learn(&mut rng);
                }
            }
            assert_eq!((agent.act(&state) * LEVELS).floor(), best, "seed {seed}: {}", agent.act(&state));
            let worth = |width: &f64| {
                let taken = joined(&state, &[(width + 0.5) / LEVELS]);
                agent.critic.network.forward(taken).pop().unwrap()[0]
            };
            let widths = (0..7).map(f64::from);
            let judged = widths.max_by(|a, b| worth(a).total_cmp(&worth(b))).unwrap();
            assert_eq!(judged, best, "seed {seed}: what the critic thinks");
        }
    }
}
