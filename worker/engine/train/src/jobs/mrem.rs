//! The kinds `mrem`, a round of a module, and `mrem_join`, which makes an artifact as that of `qat` of the last states.
//!
//! A round leaves the *state* of its module, from which the next round goes on and from which those of later modules take
//! their inputs: the magic, 32 bytes of a hash of the run's parameters, the module and the round (4 bytes little endian
//! each), the tokens that it saw (8 bytes), and what its trainer saves, all parameters and moments. A state is taken only if
//! all of that is as expected and its parameters are finite, so a file that is cut, or that of another run, is refused with
//! its name.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::recovery::{Parameters, Trainer as Kinds, TrainingPlan, kinds};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};

use super::block_ap::plan_of_parts;
use super::qat::{artifact, candidate_of, teacher, text};
use super::stepping::{Stepping, go_on};
use crate::distil::{Trained, trained};
use crate::lessons::Lessons;
use crate::mrem::{modules, share_of_float, steps_before};
use crate::part::Part;
use crate::reconstruct::{PartRun, Setting};
use crate::step::Trainer;
use crate::weights::Weights;

/// The kind of a round.
pub const MREM: Kind = Kind {
    name: kinds::MREM,
    about: "state of a module of a candidate after a round of training",
    make: round,
};

/// The kind of the end.
pub const MREM_JOIN: Kind = Kind {
    name: kinds::MREM_JOIN,
    about: "codes, scales and vectors of a candidate's modules, joined",
    make: join,
};

/// What a state begins with: another form of it begins otherwise.
const MAGIC: &[u8; 8] = b"qslmmod1";

/// A run of modules, as all of its jobs see it.
struct Modules {
    /// Parameters without those of a single job.
    of_run: Parameters,
    candidate: Candidate,
    parts: Vec<Part>,
    rounds: u32,
}

impl Modules {
    fn of(of_run: Parameters, checkpoint: &Checkpoint) -> Result<Self, JobError> {
        let candidate = candidate_of(&of_run.candidate)?;
        let Kinds::Mrem { modules: count, rounds } = of_run.plan.trainer else {
            return Err(JobError::invalid("plan: modules are of the trainer mrem"));
        };
        let blocks = checkpoint.network().blocks;
        if !(1..=blocks).contains(&count) {
            return Err(JobError::Invalid(format!("modules = {count}: expected 1 to {blocks}, the blocks")));
        }
        Ok(Self { of_run, candidate, parts: modules(checkpoint.network(), count), rounds })
    }

    fn plan(&self) -> &TrainingPlan {
        &self.of_run.plan
    }

    /// What the state of a module after a round begins with.
    fn header(&self, module: u32, round: u32) -> Result<Vec<u8>, JobError> {
        let text = serde_json::to_vec(&self.of_run).map_err(JobError::invalid)?;
        let mut header = Vec::from(*MAGIC);
        header.extend(ContentHash::of(&text).as_bytes());
        header.extend([module, round].iter().flat_map(|number| number.to_le_bytes()));
        Ok(header)
    }

    /// A module before the first round.
    fn trainer(&self, checkpoint: &Checkpoint, module: u32) -> Result<Trainer, JobError> {
        let (part, settings) = (self.parts[module as usize].clone(), plan_of_parts(self.plan()).settings);
        Trainer::of_part(checkpoint, &self.candidate, part, settings).map_err(JobError::invalid)
    }

    /// A module after a round, from an input that has its state.
    fn state_of(
        &self,
        (inputs, name): (&Inputs, &str),
        checkpoint: &Checkpoint,
        module: u32,
        round: u32,
    ) -> Result<State, JobError> {
        let bytes = std::fs::read(inputs.path(name)?)
            .map_err(|error| JobError::Io { name: name.to_owned(), error })?;
        let refuse = |reason: &str| Err(JobError::Invalid(format!("{name}: {reason}")));
        let Some(state) = bytes.strip_prefix(self.header(module, round)?.as_slice()) else {
            return refuse(&format!(
                "it is not the state of module {module} after round {round} of this run"
            ));
        };
        let mut trainer = self.trainer(checkpoint, module)?;
        let tokens = match state.split_first_chunk() {
            Some((tokens, saved)) if trainer.restore(saved) => u64::from_le_bytes(*tokens),
            _ => return refuse("the state of a module is not whole"),
        };
        let steps = steps_before(round + 1, self.rounds, self.plan().steps);
        if trainer.steps() != steps {
            return refuse(&format!("{} steps were done, expected {steps}", trainer.steps()));
        }
        if !trainer.parameters().iter().all(|(_, values)| values.iter().all(|value| value.is_finite())) {
            return refuse("a parameter is not finite");
        }
        Ok(State { trainer, tokens })
    }
}

/// What a round left of a module.
struct State {
    trainer: Trainer,
    /// Tokens that it saw.
    tokens: u64,
}

/// A round under way.
struct Round<'a> {
    part: PartRun,
    setting: &'a Setting<'a>,
    before: &'a Weights,
}

impl Stepping for Round<'_> {
    fn done(&self) -> u64 {
        self.part.steps().into()
    }

    fn step(&mut self) -> Result<f64, JobError> {
        Ok(self.part.step(self.setting, self.before).objective)
    }

    fn save(&self) -> Vec<u8> {
        self.part.save()
    }
}

fn round(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let parameters: Parameters = parameters(job)?;
    let Some((module, round)) = parameters.module else {
        return Err(JobError::invalid("module: a round is one of a module"));
    };
    let checkpoint = super::checkpoint_to_train(inputs, parameters.member)?;
    let run = Modules::of(Parameters { module: None, ..parameters }, &checkpoint)?;
    let (count, rounds) = (run.parts.len(), run.rounds);
    if module as usize >= count || round >= rounds {
        let reason = format!("module = ({module}, {round}): expected one of {count} and a round of {rounds}");
        return Err(JobError::Invalid(reason));
    }
    let (plan, part) = (run.plan(), &run.parts[module as usize]);
    let data = text(inputs, checkpoint.network(), plan)?;
    let teacher = if part.head { teacher(inputs, checkpoint.network(), plan)? } else { None };
    let setting = Setting::new(&checkpoint, teacher, part, Lessons::of(&data), plan_of_parts(plan));
    let setting = setting.map_err(JobError::invalid)?;
    let (share, mut before) = (share_of_float(round, rounds), Weights::new(checkpoint.network()));
    if share < 1.0 {
        for index in 0..module {
            let name = format!("before_{index}");
            run.state_of((inputs, &name), &checkpoint, index, round - 1)?.trainer.lend(&mut before);
        }
    }
    let begin = || match round {
        0 => run.trainer(&checkpoint, module),
        _ => Ok(run.state_of((inputs, "state"), &checkpoint, module, round - 1)?.trainer),
    };
    let (first, last) =
        (steps_before(round, rounds, plan.steps), steps_before(round + 1, rounds, plan.steps));
    let mut trainer = begin()?;
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the round begins anew.
        let is_one = trainer.restore(saved) && (first..=last).contains(&trainer.steps());
        if !is_one {
            trainer = begin()?;
        }
    }
    let part = PartRun::going_on(&setting, trainer, share);
    let mut going = Round { part, setting: &setting, before: &before };
    go_on(&mut going, (first.into(), last.into()), watch)?;
    let part = going.part;
    for bytes in [run.header(module, round)?, part.tokens().to_le_bytes().to_vec(), part.save()] {
        out.write_all(&bytes).map_err(JobError::artifact)?;
    }
    Ok(())
}

fn join(job: &Job, inputs: &Inputs, _: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let parameters: Parameters = parameters(job)?;
    let checkpoint = super::checkpoint_to_train(inputs, parameters.member)?;
    let run = Modules::of(parameters, &checkpoint)?;
    let last =
        run.rounds.checked_sub(1).ok_or_else(|| JobError::invalid("rounds = 0: expected 1 at least"))?;
    let mut all = Trained::default();
    for module in 0..run.parts.len() as u32 {
        let name = format!("module_{module}");
        let State { trainer, tokens } = run.state_of((inputs, &name), &checkpoint, module, last)?;
        all.extend(Trained { tokens, ..trained(&trainer) });
    }
    let artifact = artifact(checkpoint.network(), &run.candidate, &all);
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}
