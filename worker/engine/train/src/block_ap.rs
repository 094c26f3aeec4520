//! Block-AP of EfficientQAT (arXiv 2407.11062): blocks one after the other, each with all its parameters, on inputs from the
//! quantized blocks in front of it, towards the float network; the head after them.
//!
//! What is different here: the loss is in front of the spikes, see [`crate::network::module`]; the head is trained, too.

use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;

use crate::distil::{CannotDistil, Plan, Teacher, Trained};
use crate::fake_quant::CannotTrain;
use crate::lessons::Lessons;
use crate::network::module::PartLoss;
use crate::part::Part;
use crate::reconstruct::{PartRun, Setting};
use crate::weights::Weights;

/// What a checkpoint begins with: another form of it begins otherwise. Then come the states of the stages so far, the last of
/// them under way: of each its length, 8 bytes little endian, and what its trainer saved.
const MAGIC: &[u8; 8] = b"qslmbap1";

/// A run under way.
#[derive(Debug)]
pub struct BlockAp<'t> {
    setting: Setting<'t>,
    checkpoint: &'t Checkpoint,
    candidate: &'t Candidate,
    stages: Vec<Part>,
    progress: Progress,
}

/// How far a run is.
#[derive(Debug)]
struct Progress {
    /// Stages that are done, as they were saved.
    saved: Vec<Vec<u8>>,
    /// What they left.
    trained: Trained,
    /// The same as a network that runs forward.
    before: Weights,
    /// The stage under way; none when all are done.
    run: Option<PartRun>,
}

impl<'t> BlockAp<'t> {
    /// A run at its start. The plan's steps are those of each block. The teacher is the float network; without one the head
    /// learns from targets alone.
    ///
    /// # Errors
    /// [`CannotDistil`].
    pub fn new(
        checkpoint: &'t Checkpoint,
        teacher: Option<Teacher>,
        candidate: &'t Candidate,
        lessons: Lessons<'t>,
        plan: Plan,
    ) -> Result<Self, CannotDistil> {
        let network = checkpoint.network();
        let setting = Setting::new(checkpoint, teacher, &Part::whole(network), lessons, plan)?;
        let stages = Part::stages(network);
        let run = Some(PartRun::new(&setting, checkpoint, candidate, stages[0].clone(), 0.0)?);
        let before = Weights::new(network);
        let progress = Progress { saved: Vec::new(), trained: Trained::default(), before, run };
        Ok(Self { setting, checkpoint, candidate, stages, progress })
    }

    /// Steps that are done, of all stages.
    pub fn steps(&self) -> u64 {
        let done = self.progress.saved.len() as u64 * u64::from(self.steps_of_stage());
        done + self.progress.run.as_ref().map_or(0, |run| u64::from(run.steps()))
    }

    /// Steps of the whole run.
    pub fn all_steps(&self) -> u64 {
        self.stages.len() as u64 * u64::from(self.steps_of_stage())
    }

    /// Does a step of the stage under way, and goes on to the next stage after its last one. The stage, a block or after them
    /// the head, and its loss before the step; `None` if all are done.
    ///
    /// # Errors
    /// [`CannotTrain`].
    ///
    /// # Panics
    /// If a token is not below the vocabulary, or a class not below their number.
    pub fn step(&mut self) -> Result<Option<(usize, PartLoss)>, CannotTrain> {
        let stage = self.progress.saved.len();
        let Some(run) = &mut self.progress.run else { return Ok(None) };
        let loss = run.step(&self.setting, &self.progress.before);
        if run.steps() >= self.steps_of_stage() {
            self.finish_stage()?;
        }
        Ok(Some((stage, loss)))
    }

    /// A checkpoint of the run, from which another one with the same plan goes on.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = Vec::from(*MAGIC);
        let under_way = self.progress.run.as_ref().map(PartRun::save);
        for state in self.progress.saved.iter().chain(&under_way) {
            bytes.extend((state.len() as u64).to_le_bytes());
            bytes.extend(state);
        }
        bytes
    }

    /// Goes on from a checkpoint. One that is none of such a run is left alone, and false is the answer.
    ///
    /// # Errors
    /// [`CannotTrain`].
    pub fn restore(&mut self, saved: &[u8]) -> Result<bool, CannotTrain> {
        let Some(states) = states_of(saved).filter(|states| states.len() <= self.stages.len()) else {
            return Ok(false);
        };
        let start = Progress {
            saved: Vec::new(),
            trained: Trained::default(),
            before: Weights::new(self.checkpoint.network()),
            run: Some(self.run_of(0)?),
        };
        let began = std::mem::replace(&mut self.progress, start);
        for (stage, state) in states.into_iter().enumerate() {
            // Only the last one is under way.
            let is_next = stage == self.progress.saved.len();
            let is_one = match &mut self.progress.run {
                Some(run) => is_next && run.restore(&self.setting, state),
                None => false,
            };
            if !is_one {
                self.progress = began;
                return Ok(false);
            }
            if self.progress.run.as_ref().is_some_and(|run| run.steps() >= self.steps_of_stage()) {
                self.finish_stage()?;
            }
        }
        Ok(true)
    }

    /// What the stages so far leave, as a file stores it.
    pub fn trained(self) -> Trained {
        self.progress.trained
    }

    fn steps_of_stage(&self) -> u32 {
        self.setting.plan().settings.schedule.steps
    }

    fn run_of(&self, stage: usize) -> Result<PartRun, CannotTrain> {
        let part = self.stages[stage].clone();
        PartRun::new(&self.setting, self.checkpoint, self.candidate, part, 0.0)
    }

    /// Keeps what the stage under way has become, and starts the next.
    fn finish_stage(&mut self) -> Result<(), CannotTrain> {
        let next = self.progress.saved.len() + 1;
        let next = if next < self.stages.len() { Some(self.run_of(next)?) } else { None };
        let Progress { saved, trained, before, run } = &mut self.progress;
        if let Some(mut done) = std::mem::replace(run, next) {
            done.lend(before);
            trained.extend(done.trained());
            saved.push(done.save());
        }
        Ok(())
    }
}

/// The states in a checkpoint; `None` if it is none.
fn states_of(saved: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = saved.strip_prefix(MAGIC)?;
    let mut states = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (state, after) = after.split_at_checked(length)?;
        states.push(state);
        rest = after;
    }
    Some(states)
}
