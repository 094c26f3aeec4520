//! A whole run of training: the float network teaches the quantized one.
//!
//! The student starts from the teacher's weights on the grids of a candidate, and follows its logits and the text, or the
//! classes of sentences, in the shares that are asked for. What comes out is what a file stores: codes with their scales, and vectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::Codes;

use crate::draw::Draw;
use crate::fake_quant::CannotTrain;
use crate::lessons::{Lessons, NoLessons};
use crate::network::{BatchLoss, Objective, Window};
use crate::step::{Settings, Trainer};
use crate::tensors::Tensors;

/// The float network that a run learns from; several share it.
pub type Teacher = Arc<SpikeGpt>;

/// Plan of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Steps, rates, optimizer, threads.
    pub settings: Settings,
    /// Weight of the divergence from the teacher; the rest is that of cross entropy. 0 does without a teacher.
    pub share: f32,
    /// Predictions of a window; without a meaning for sentences, which enter whole.
    pub window: usize,
    /// Windows or sentences of a batch.
    pub batch: usize,
    /// Seed of the batches.
    pub seed: u64,
}

/// Reason why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum CannotDistil {
    /// The candidate cannot be trained.
    #[error(transparent)]
    Student(#[from] CannotTrain),
    /// The float network cannot be built.
    #[error("the teacher: {0}")]
    Teacher(#[from] qslm_engine::model::CannotBuild),
    /// A loss that is no number: rates were too high.
    #[error("the loss of step {step} is not finite: try lower rates")]
    Diverged {
        /// The step, the first being 0.
        step: u32,
    },
    /// Nothing to learn from.
    #[error(transparent)]
    Lessons(#[from] NoLessons),
}

/// What a run leaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    /// The codes of every unit whose scheme has some.
    pub codes: BTreeMap<String, Codes>,
    /// All tensors of the network as it computes with them, codes and rounded vectors included.
    pub tensors: Tensors,
    /// Tokens that entered the network on the way.
    pub tokens: u64,
}

impl Trained {
    /// Adds what the run of another part left. Parts of one network see the same batches.
    pub fn extend(&mut self, other: Self) {
        self.tokens = self.tokens.max(other.tokens);
        self.codes.extend(other.codes);
        other.tensors.iter().for_each(|(name, values)| self.tensors.insert(name, values.to_vec()));
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Run<'t> {
    trainer: Trainer,
    teacher: Option<Teacher>,
    draw: Draw,
    lessons: Lessons<'t>,
    plan: Plan,
    /// Tokens that entered the network so far.
    tokens: u64,
}

impl<'t> Run<'t> {
    /// A run at its start. The teacher is the float network; without one, cross entropy alone is learned from.
    ///
    /// # Errors
    /// [`CannotDistil`].
    pub fn new(
        checkpoint: &Checkpoint,
        teacher: Option<Teacher>,
        candidate: &Candidate,
        lessons: Lessons<'t>,
        plan: Plan,
    ) -> Result<Self, CannotDistil> {
        lessons.check(checkpoint.network(), plan.window)?;
        let trainer = Trainer::new(checkpoint, candidate, plan.settings)?;
        let draw = lessons.draw(plan.window, plan.seed);
        Ok(Self { trainer, teacher, draw, lessons, plan, tokens: 0 })
    }

    /// Lets a backend find the gradients; see [`Trainer::compute_on`]. `checkpoint` is that of the run.
    ///
    /// # Errors
    /// [`CannotDistil::Student`], if this program does not train on it.
    pub fn compute_on(&mut self, backend: Backend, checkpoint: &Checkpoint) -> Result<(), CannotDistil> {
        Ok(self.trainer.compute_on(backend, checkpoint)?)
    }

    /// Steps that are done.
    pub fn steps(&self) -> u32 {
        self.trainer.steps()
    }

    /// Goes on from what another run left: its codes stay, its vectors are where these start, and of what has codes scales
    /// alone are trained.
    ///
    /// # Panics
    /// If codes or vectors do not fit the candidate.
    pub fn freeze(&mut self, trained: &Trained) {
        trained.codes.iter().for_each(|(unit, codes)| self.trainer.freeze(unit, codes.clone()));
        trained.tensors.iter().for_each(|(name, values)| self.trainer.put(name, values));
    }

    /// Does a step. The loss is that before it.
    ///
    /// # Panics
    /// If a token is not below the vocabulary, or a class not below their number.
    pub fn step(&mut self) -> BatchLoss {
        let objective = match &self.teacher {
            None => Objective::CrossEntropy,
            Some(teacher) => Objective::Distillation { teacher, share: self.plan.share },
        };
        let batch = self.lessons.batch(&mut self.draw, self.plan.batch);
        self.tokens += tokens_of(&batch);
        self.trainer.step(&batch, objective)
    }

    /// A checkpoint of the run, from which another one with the same plan goes on.
    pub fn save(&self) -> Vec<u8> {
        self.trainer.save()
    }

    /// Goes on from a checkpoint. One that is none of such a run is left alone, and false is the answer.
    pub fn restore(&mut self, checkpoint: &[u8]) -> bool {
        if !self.trainer.restore(checkpoint) {
            return false;
        }
        (self.draw, self.tokens) = (self.lessons.draw(self.plan.window, self.plan.seed), 0);
        for _ in 0..self.trainer.steps() {
            self.tokens += tokens_of(&self.lessons.batch(&mut self.draw, self.plan.batch));
        }
        true
    }

    /// What the run leaves, as a file stores it.
    pub fn trained(&self) -> Trained {
        Trained { tokens: self.tokens, ..trained(&self.trainer) }
    }
}

/// Tokens that enter the network with a batch.
pub(crate) fn tokens_of(batch: &[Window<'_>]) -> u64 {
    batch.iter().map(|window| window.tokens.len() as u64).sum()
}

/// Trains a checkpoint under a candidate; `watch` sees every step with the loss before it.
///
/// # Errors
/// [`CannotDistil`].
///
/// # Panics
/// If a token is not below the vocabulary, or a class not below their number.
pub fn distil(
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    lessons: Lessons<'_>,
    plan: &Plan,
    mut watch: impl FnMut(u32, BatchLoss),
) -> Result<Trained, CannotDistil> {
    let float = Candidate::float(checkpoint.network());
    let teacher = match plan.share {
        0.0 => None,
        _ => Some(SpikeGpt::new(checkpoint, &float, Backend::Native)?.into()),
    };
    let mut run = Run::new(checkpoint, teacher, candidate, lessons, *plan)?;
    while run.steps() < plan.settings.schedule.steps {
        let step = run.steps();
        let loss = run.step();
        if !loss.objective.is_finite() {
            return Err(CannotDistil::Diverged { step });
        }
        watch(step, loss);
    }
    Ok(run.trained())
}

/// The state of a trainer as a file stores it.
pub(crate) fn trained(trainer: &Trainer) -> Trained {
    let network = trainer.network();
    let units = network.units().into_iter().map(|unit| unit.name);
    let codes = units.clone().filter_map(|name| Some((name.clone(), trainer.codes(&name)?))).collect();
    let names = units.chain(network.vectors().into_iter().map(|vector| vector.name));
    let names = names.filter(|name| trainer.part().contains(name));
    let tensors = names.map(|name| (name.clone(), trainer.values(&name))).collect();
    Trained { codes, tensors, tokens: 0 }
}
