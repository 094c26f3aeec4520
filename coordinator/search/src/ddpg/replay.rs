//! Replay: the last episodes, of which steps are drawn.

use std::collections::{BTreeSet, VecDeque};

use rand::{Rng, RngExt};

/// Episode: what an agent saw and did, step by step, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Episode {
    /// State before each step.
    pub states: Vec<Vec<f64>>,
    /// Action of each step, 0 to 1.
    pub actions: Vec<f64>,
    /// Reward of each of its steps.
    pub reward: f64,
}

/// Episodes that are kept.
const EPISODES: usize = 128;

/// The last episodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Replay(VecDeque<Episode>);

/// A step of an episode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transition<'a> {
    pub state: &'a [f64],
    pub action: f64,
    pub reward: f64,
    /// State that it led to; `None` at the end of an episode.
    pub next: Option<&'a [f64]>,
}

impl Replay {
    pub(super) fn push(&mut self, episode: Episode) {
        self.0.push_back(episode);
        if self.0.len() > EPISODES {
            self.0.pop_front();
        }
    }

    /// Steps drawn with equal chances, none twice where there are enough; none where there are none. All episodes have as
    /// many steps.
    pub(super) fn sample(&self, count: usize, rng: &mut impl Rng) -> Vec<Transition<'_>> {
        let steps = self.0.front().map_or(0, |episode| episode.actions.len());
        let all = self.0.len() * steps;
        let (mut drawn, mut seen) = (Vec::new(), BTreeSet::new());
        while all > 0 && drawn.len() < count {
            let number = rng.random_range(0..all as u64) as usize;
            if seen.insert(number) || all < count {
                drawn.push(self.transition(number / steps, number % steps));
            }
        }
        drawn
    }

    fn transition(&self, episode: usize, step: usize) -> Transition<'_> {
        let Episode { states, actions, reward } = &self.0[episode];
        let next = states.get(step + 1).map(Vec::as_slice);
        Transition { state: &states[step], action: actions[step], reward: *reward, next }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn episode(reward: f64) -> Episode {
        Episode { states: vec![vec![reward, 0.0], vec![reward, 1.0]], actions: vec![0.25, 0.75], reward }
    }

    #[test]
    fn steps_are_drawn_once_each_and_know_where_they_lead() {
        let mut replay = Replay::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!(replay.sample(4, &mut rng).is_empty());
        replay.push(episode(1.0));
        assert_eq!(replay.sample(4, &mut rng).len(), 4, "again where there are too few");
        replay.push(episode(2.0));
        let drawn = replay.sample(4, &mut rng);
        let each: BTreeSet<String> =
            drawn.iter().map(|step| format!("{} {}", step.reward, step.action)).collect();
        assert_eq!(each.len(), 4);
        for step in drawn {
            assert_eq!(step.next.is_none(), step.action == 0.75);
            assert_eq!(step.state[0], step.reward);
        }
    }

    #[test]
    fn the_oldest_episodes_go() {
        let mut replay = Replay::default();
        (0..200).for_each(|number| replay.push(episode(f64::from(number))));
        assert_eq!((replay.0.len(), replay.0[0].reward), (EPISODES, 72.0));
    }
}
