//! Training of a part of a network towards what the float network does there.
//!
//! What the parts of a run share, the float network and what there is to learn, is a [`Setting`]; a [`PartRun`] is one of
//! them under way. Batch by batch inputs are computed anew from the tokens, so nothing is kept that grows with the text.

use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;

use crate::distil::{CannotDistil, Plan, Teacher, Trained, tokens_of, trained};
use crate::draw::Draw;
use crate::fake_quant::CannotTrain;
use crate::gradients::Gradients;
use crate::lessons::Lessons;
use crate::network::module::{PartLoss, Surroundings};
use crate::network::{Objective, Window, Workspace};
use crate::part::Part;
use crate::step::{Pass, Trainer};
use crate::tensors::Tensors;
use crate::weights::{Passes, Weights};

/// What the parts of a run share.
#[derive(Debug)]
pub struct Setting<'t> {
    /// The float network, forward.
    float: Weights,
    /// Whose logits the head follows.
    teacher: Option<Teacher>,
    lessons: Lessons<'t>,
    plan: Plan,
}

/// A part under training.
#[derive(Debug)]
pub struct PartRun {
    trainer: Trainer,
    /// Share of the float network's residual stream in what enters the part.
    share: f32,
    draw: Draw,
    /// Tokens that entered the network so far.
    tokens: u64,
}

impl<'t> Setting<'t> {
    /// A float network up to the last block of a part, with what there is to learn. The teacher is the same network, for a head
    /// that follows its logits.
    ///
    /// # Errors
    /// [`CannotDistil::Lessons`].
    pub fn new(
        checkpoint: &Checkpoint,
        teacher: Option<Teacher>,
        last: &Part,
        lessons: Lessons<'t>,
        plan: Plan,
    ) -> Result<Self, CannotDistil> {
        lessons.check(checkpoint.network(), plan.window)?;
        let mut float = Weights::new(checkpoint.network());
        let part = Part { embedding: true, blocks: 0..last.blocks.end, head: last.head };
        let parameters = Tensors::of_part(checkpoint, &part);
        float.load_part(&part, Passes::Forward, &parameters, &mut buffers(&plan));
        Ok(Self { float, teacher, lessons, plan })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A draw that has given the batches of so many steps, and the tokens in them.
    fn draw_after(&self, steps: u32) -> (Draw, u64) {
        let mut draw = self.lessons.draw(self.plan.window, self.plan.seed);
        let batches = (0..steps).map(|_| tokens_of(&self.lessons.batch(&mut draw, self.plan.batch)));
        let tokens = batches.sum();
        (draw, tokens)
    }
}

impl PartRun {
    /// A part at its start, with a share of the float network's residual stream in its inputs.
    ///
    /// # Errors
    /// [`CannotTrain`].
    pub fn new(
        setting: &Setting<'_>,
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        part: Part,
        share: f32,
    ) -> Result<Self, CannotTrain> {
        let trainer = Trainer::of_part(checkpoint, candidate, part, setting.plan.settings)?;
        Ok(Self::going_on(setting, trainer, share))
    }

    /// The part that a trainer has, from where it is.
    pub fn going_on(setting: &Setting<'_>, trainer: Trainer, share: f32) -> Self {
        let (draw, tokens) = setting.draw_after(trainer.steps());
        Self { trainer, share, draw, tokens }
    }

    /// Tokens that entered the network so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Steps that are done.
    pub fn steps(&self) -> u32 {
        self.trainer.steps()
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Does a step, on inputs from the quantized network in front of the part, `before`. The loss is that before it.
    ///
    /// # Panics
    /// If a token is not below the vocabulary or a class not below their number, or if the setting reaches less far than the part.
    pub fn step(&mut self, setting: &Setting<'_>, before: &Weights) -> PartLoss {
        let objective = match &setting.teacher {
            None => Objective::CrossEntropy,
            Some(teacher) => Objective::Distillation { teacher, share: setting.plan.share },
        };
        let around = Surroundings { float: &setting.float, before, share: self.share, objective };
        let batch = setting.lessons.batch(&mut self.draw, setting.plan.batch);
        self.tokens += tokens_of(&batch);
        let part = self.trainer.part().clone();
        self.trainer.step_with(OfPart { part: &part, around, batch: &batch })
    }

    /// A checkpoint of the part, from which another run of the same plan goes on.
    pub fn save(&self) -> Vec<u8> {
        self.trainer.save()
    }

    /// Goes on from a checkpoint. One that is none of such a part is left alone, and false is the answer.
    pub fn restore(&mut self, setting: &Setting<'_>, saved: &[u8]) -> bool {
        let is_one = self.trainer.restore(saved);
        (self.draw, self.tokens) = setting.draw_after(self.trainer.steps());
        is_one
    }

    /// Puts what the part computes with into the weights of a network that runs forward alone.
    pub fn lend(&mut self, to: &mut Weights) {
        self.trainer.lend(to);
    }

    /// What the part leaves, as a file stores it.
    pub fn trained(&self) -> Trained {
        Trained { tokens: self.tokens, ..trained(&self.trainer) }
    }
}

/// The pass through a part.
struct OfPart<'a> {
    part: &'a Part,
    around: Surroundings<'a>,
    batch: &'a [Window<'a>],
}

impl Pass for OfPart<'_> {
    type Loss = PartLoss;

    fn run(self, workspace: &mut Workspace, weights: &Weights, gradients: &mut impl Gradients) -> PartLoss {
        workspace.backward_part(self.part, weights, self.around, self.batch, gradients)
    }
}

/// Buffers of as many threads as a plan has.
fn buffers(plan: &Plan) -> Vec<Vec<f32>> {
    vec![Vec::new(); plan.settings.threads.max(1)]
}
