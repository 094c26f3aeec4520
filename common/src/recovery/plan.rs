//! Plan of a training run: which trainer, how long, how fast, on what loss.

use serde::{Deserialize, Serialize};

use super::InvalidRecovery;
use crate::network::Network;
use crate::task::MAX_WINDOW;

/// Modules of MREM, at most: a job reads the states of all before it.
const MOST_MODULES: u32 = 60;

/// Plan of a training run. What is as it was when there was one trainer is left out of its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// The trainer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trainer: Trainer,
    /// Predictions of a window; 1 for a classifier, whose sentences enter whole.
    pub window: u32,
    /// Windows of a batch, or sentences.
    pub batch: u32,
    /// Steps: of the whole network (qat), of each block (block_ap), of each module over all rounds (mrem).
    pub steps: u32,
    /// Highest learning rate of matrices and vectors, after a warm-up and before a cosine down to a fiftieth.
    pub rate: f64,
    /// Share of the divergence from the float network's predictions in the loss; the rest is cross entropy.
    pub distillation: f64,
    /// Seed of the order of windows or sentences.
    pub seed: u64,
    /// The optimizer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer: Optimizer,
    /// How weights, gradients and moments are held while they train.
    #[serde(default, skip_serializing_if = "is_default")]
    pub states: States,
    /// What a bit costs, in nats, of the mean over weights whose codes an entropy coder stores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bit_cost: f64,
}

/// A trainer: what is trained towards what, and in which pieces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Trainer {
    /// Quantization-aware training, end to end.
    #[default]
    Qat,
    /// EfficientQAT (arXiv 2407.11062): all parameters block by block towards the outputs of the float blocks, on inputs from
    /// the quantized prefix; then, with codes frozen, steps only, end to end.
    BlockAp {
        /// Steps of the second phase; 0 leaves it out.
        end_to_end_steps: u32,
        /// Its highest learning rate: of steps, as a share of their mean.
        end_to_end_rate: f64,
    },
    /// MREM (arXiv 2109.15082): modules of several blocks side by side, in rounds, with inputs that go from the float
    /// network's to the quantized one's (annealed teacher forcing).
    Mrem {
        /// Modules that the blocks are cut into; the last has the head.
        modules: u32,
        /// Rounds. In the first, inputs are those of the float network.
        rounds: u32,
    },
}

/// An optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam (arXiv 1412.6980).
    #[default]
    Adam,
    /// Lion (arXiv 2302.06675): the sign of a momentum; wants a third to a tenth of the rate.
    Lion,
}

/// How weights, gradients and moments are held while they train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum States {
    /// In single precision.
    #[default]
    F32,
    /// In eight bits, with stochastic rounding and a sparse part for outliers (QFT, arXiv 2310.07147).
    Int8,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for TrainingPlan {
    fn default() -> Self {
        Self {
            trainer: Trainer::Qat,
            window: 128,
            batch: 16,
            steps: 400,
            rate: 5e-4,
            distillation: 1.0,
            seed: 0,
            optimizer: Optimizer::Adam,
            states: States::F32,
            bit_cost: 0.0,
        }
    }
}

impl TrainingPlan {
    /// Everything that makes no sense.
    pub(super) fn problems(&self, network: &Network) -> impl Iterator<Item = InvalidRecovery> {
        let windows = (1.0..=f64::from(MAX_WINDOW), "1 to 65536");
        let steps = (1.0..=1e7, "1 to 10000000");
        let mut checked = vec![
            ("window", f64::from(self.window), windows),
            ("batch", f64::from(self.batch), (1.0..=4096.0, "1 to 4096")),
            ("steps", f64::from(self.steps), steps),
            ("rate", self.rate, (1e-9..=1.0, "1e-9 to 1")),
            ("distillation", self.distillation, (0.0..=1.0, "0 to 1")),
            ("bit_cost", self.bit_cost, (0.0..=1e3, "0 to 1000")),
        ];
        match self.trainer {
            Trainer::Qat => {}
            Trainer::BlockAp { end_to_end_steps, end_to_end_rate } => {
                checked.push(("end_to_end_steps", f64::from(end_to_end_steps), (0.0..=1e7, "0 to 10000000")));
                checked.push(("end_to_end_rate", end_to_end_rate, (1e-9..=1.0, "1e-9 to 1")));
            }
            Trainer::Mrem { modules, rounds } => {
                let most = f64::from(network.blocks.min(MOST_MODULES));
                let bound = "1 to the number of blocks, at most 60";
                checked.push(("modules", f64::from(modules), (1.0..=most, bound)));
                let most = f64::from(self.steps.min(1000));
                checked.push((
                    "rounds",
                    f64::from(rounds),
                    (1.0..=most, "1 to the number of steps, at most 1000"),
                ));
            }
        }
        InvalidRecovery::of(checked)
    }

    /// The training that a float network is given to tell what a candidate gained by learning the text, not by recovering: the
    /// same text and steps, end to end. `None` if candidates learn from the float network alone, of which it would learn
    /// nothing.
    pub fn control(&self) -> Option<Self> {
        let steps = match self.trainer {
            Trainer::Qat => self.steps,
            Trainer::BlockAp { end_to_end_steps, .. } => end_to_end_steps,
            Trainer::Mrem { .. } => 0,
        };
        let learns_text = steps > 0 && self.distillation < 1.0;
        let plan = Self { trainer: Trainer::Qat, steps, bit_cost: 0.0, ..self.clone() };
        learns_text.then_some(plan)
    }
}
