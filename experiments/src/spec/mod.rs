//! Specs: the TOML files that people write, and what they resolve to.
//!
//! A spec names files and leaves things out; an [`Experiment`] names contents and leaves nothing out.
//! Resolving reads every file, so that bad input is told before anything is searched.

mod calibration;
mod check;
mod contents;
mod draft;
mod files;
mod position;
pub mod recovery;
pub mod reference;
mod space;
mod table;
mod tasks;
mod warm;
mod written;

use std::collections::BTreeMap;
use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::demands::Demands;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::{Member, Network};
use qslm_common::space::{Axis, Space, Tier};
use qslm_common::task::Data;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::sensitivity::{Sensitivity, UNITS_AT_ONCE};
use qslm_engine::task::sensitivity::Needs;
use qslm_search::{AnyStrategy, List, Ranked, Strategy, Tiered};

use crate::codes::{MadeCodes, coded_sizes, unit_schemes, with_codes};
use crate::control::{self, Control};
use crate::data::{load_data, warn_of_fewer};
use crate::exit::{Exit, Failure, Outcome};
use crate::front_file;
use crate::holdout::{HeldOut, Holdout};
use crate::input::{Input, read_checkpoint, unreadable};
use crate::listed::{self, Listed};
use crate::making::{Here, Maker};
use crate::member::Base;
use crate::sensitivity::{self, Metric, UnitSensitivity};
use calibration::calibrate;
pub use check::{Problem, problems, problems_of_text};
use draft::{Draft, Found};
use files::{Files, find, find_addresses, missing, origins};
pub use written::refuse_toml;
use written::{HoldoutSpec, Spec, WrittenList, WrittenRanked, WrittenStrategy};

/// A spec with everything found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Experiment that it means.
    pub experiment: Experiment,
    /// Strategy of the experiment.
    pub strategy: AnyStrategy,
    /// Shards per trial.
    pub shards: u32,
    /// Every file by its content hash: the checkpoint, the data, the tokenizer, and artifacts that were made here.
    pub files: Vec<(ContentHash, Input)>,
    /// Tokens that one candidate processes, in all tasks together.
    pub positions: u64,
    /// Windows or sentences of the data.
    pub sequences: u64,
    /// Demands on the workers that may evaluate it.
    pub demands: Demands,
    /// Data that the search does not see, on which the chosen candidate is measured when it has ended.
    pub holdout: Option<Holdout>,
    /// Addresses that files were fetched from, by content hash. They change no id.
    pub origins: BTreeMap<ContentHash, String>,
}

impl Resolved {
    /// Lets `maker` measure the chosen candidate of a front on the data that was held out, if there is any.
    ///
    /// # Errors
    /// One line that says what failed.
    pub fn measure_held_out(&self, front: &FrontDocument, maker: &dyn Maker) -> Outcome<Option<HeldOut>> {
        let (Some(holdout), Some(chosen)) = (&self.holdout, &front.chosen) else { return Ok(None) };
        let candidate = front_file::candidate(chosen, &self.experiment.network)?;
        let files: Vec<_> = self.files.iter().map(|(hash, input)| (*hash, input)).collect();
        holdout.measure(&self.experiment, &files, &candidate, maker).map(Some)
    }

    /// Lets `maker` measure what the float model gains by the training of the recovery, if there is one.
    ///
    /// # Errors
    /// One line that says what failed.
    pub fn measure_control(&self, maker: &dyn Maker) -> Outcome<Option<Control>> {
        let files: Vec<_> = self.files.iter().map(|(hash, input)| (*hash, input)).collect();
        control::measure(&self.experiment, &files, maker)
    }

    /// Trials that are measured on a subset of the data, and the share of the data that this is.
    pub fn on_subset(&self) -> (u64, f64) {
        let subset = self.strategy.subset(&self.experiment);
        subset.map_or((0, 1.0), |subset| {
            (subset.candidates, f64::from(subset.sequences) / self.sequences as f64)
        })
    }
}

/// Reads a spec, applies `KEY=VALUE` settings on top, and finds everything that it names.
pub fn resolve(path: &Path, settings: &[String]) -> Outcome<Resolved> {
    resolve_with(path, settings, &Here)
}

/// As [`resolve`]; what takes a forward pass is made by `maker`.
pub fn resolve_with(path: &Path, settings: &[String], maker: &dyn Maker) -> Outcome<Resolved> {
    examine(path, &mut written::read(path, settings)?, maker).map_err(|refused| match refused {
        Refused::Spec(problems) => {
            let words: Vec<String> = problems.into_iter().map(|problem| problem.words).collect();
            refuse(path, &words.join("; "))
        }
        Refused::Other(failure) => failure,
    })
}

/// Reasons why a spec cannot be resolved.
enum Refused {
    /// Problems of its values, all of them.
    Spec(Vec<KeyProblem>),
    /// A file, or the form of the spec.
    Other(Failure),
}

/// A problem of a value in a spec.
#[derive(Debug, Clone, PartialEq)]
struct KeyProblem {
    /// Key path of the value; `None` if it is about no key.
    key: Option<String>,
    words: String,
}

impl KeyProblem {
    fn new(key: &str, words: String) -> Self {
        Self { key: Some(key.to_owned()), words }
    }
}

impl From<qslm_search::Invalid> for KeyProblem {
    fn from(invalid: qslm_search::Invalid) -> Self {
        Self { key: invalid.key(), words: invalid.to_string() }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

fn examine(path: &Path, spec: &mut Spec, maker: &dyn Maker) -> Result<Resolved, Refused> {
    let (fetched, failed) = find_addresses(spec);
    let spec = &*spec;
    if let Some((key, failure)) = failed.into_iter().next() {
        return Err(Failure::new(failure.exit(), format!("{}: {key}: {failure}", path.display())).into());
    }
    let (files, task) = find(path, spec)?;
    let further = tasks::find(&spec.tasks, path.parent().unwrap_or(Path::new("")), |key| missing(path, key))?;
    let base = Base::said(&files.checkpoint, spec.checkpoint.family)?;
    let member = spec.checkpoint.member(base).map_err(|problem| Refused::Spec(vec![problem]))?;
    // A list that is too long is told before anything large is read.
    let Listed { candidates: listed, names } = listed(path, spec, member, &files)?;
    let network = float_network(path, member, &files)?;
    let checkpoint = Input::checkpoint(&files.checkpoint)?;
    let (tokenizer, text) = (Input::tokenizer(&files.tokenizer)?, Input::data(&files.text, &task)?);
    let inputs = [(checkpoint.hash()?, &checkpoint), (tokenizer.hash()?, &tokenizer)];
    spec.space.problems()?;
    let found = Found {
        network,
        checkpoint: inputs[0].0,
        data: Data { text: text.hash()?, tokenizer: inputs[1].0 },
        tasks: tasks::further(&further),
        task,
        listed: &listed,
        names,
    };
    // Whatever is wrong besides is told before anything is made.
    let mut draft = Draft::new(spec, &spec.space, found);
    let trained_on = match &spec.recovery {
        Some(written) => {
            let (recovery, text) = recovery::resolve(path, written, &tokenizer, &draft.experiment)?;
            draft.experiment.recovery = Some(recovery);
            Some(text)
        }
        None => None,
    };
    let problems = draft.problems(spec);
    if !problems.is_empty() {
        return Err(Refused::Spec(problems));
    }
    let (shards, demands) = (spec.run.shards, spec.run.workers.clone());
    let Draft { mut space, mut experiment, mut strategy, ranking } = draft;
    let holdout = &spec.holdout;
    let holdout =
        holdout.as_ref().map(|holdout| held_out(path, holdout, &tokenizer, &experiment)).transpose()?;
    let data = load_data(&text, &tokenizer, &experiment.task, &network)?;
    let (key, asked) = tasks::asked(&experiment.task);
    warn_of_fewer(&format!("task.{key}"), asked, &text, &data);
    let positions = data.positions() + tasks::read(&further, &tokenizer, &experiment)?;
    let sequences = data.len() as u64;
    let task = &experiment.task;
    let calibrated = calibrate(path, spec, (&space, &listed), inputs, task, &network, maker)?;
    let MadeCodes { by_unit, files: code_files } = calibrated.codes;
    space.codes = by_unit;
    if let Some(activations) = &mut space.activations {
        activations.calibration = calibrated.ranges;
    }
    if space.is_coded() {
        let of_lists = listed.iter().flat_map(|candidate| unit_schemes(&network, candidate));
        let all: Vec<_> = space.unit_schemes(&network).chain(of_lists).collect();
        let files = inputs.into_iter().chain(code_files.iter().map(|(hash, file)| (*hash, file)));
        let files: Vec<_> = files.collect();
        space.coded = coded_sizes(&all, &space.codes, &network, inputs[0].0, &files, maker)?;
        space.sort_by_size(&network);
    }
    if let AnyStrategy::List(list) = &mut strategy {
        list.candidates = with_codes_of(&listed, &space, false);
    }
    experiment.space = space;
    let calibration = calibrated.data.as_ref();
    table::fill(&mut strategy, &experiment, calibration, inputs, &code_files, maker)?;
    if let Some(WrittenStrategy::Warm(_, front)) = &spec.strategy {
        warm::start(&mut strategy, &path.parent().unwrap_or(Path::new("")).join(front), &experiment)?;
    }
    experiment.strategy = strategy.spec();
    // What only the bytes of codes can tell.
    let problems: Vec<KeyProblem> = qslm_search::problems(&experiment).into_iter().map(Into::into).collect();
    if !problems.is_empty() {
        return Err(Refused::Spec(problems));
    }
    if let Some((key, asked)) = strategy.asks_for_subset() {
        warn_of_fewer(key, Some(asked), &text, &data);
        strategy.fit(sequences);
    }
    if let Some(ranking) = ranking {
        let inputs = [
            (experiment.checkpoint, &checkpoint),
            (experiment.data.text, &text),
            (experiment.data.tokenizer, &tokenizer),
        ];
        let inputs: Vec<_> =
            inputs.into_iter().chain(code_files.iter().map(|(hash, file)| (*hash, file))).collect();
        strategy = ranking.ranked(&experiment, &inputs, maker)?.into();
    }
    experiment.strategy = strategy.spec();
    let mut files = vec![
        (experiment.checkpoint, checkpoint),
        (experiment.data.text, text),
        (experiment.data.tokenizer, tokenizer),
    ];
    files.extend(trained_on);
    let origins = origins(&files, &fetched);
    files.extend(code_files);
    files.extend(tasks::files(further));
    Ok(Resolved { experiment, strategy, shards, files, positions, sequences, demands, holdout, origins })
}

/// Canonical texts of listed candidates with the codes of a space: of all units, or of those that are calibrated.
fn with_codes_of(listed: &[Candidate], space: &Space, all: bool) -> Vec<String> {
    listed.iter().map(|candidate| with_codes(candidate.clone(), &space.codes, all).encode()).collect()
}

fn refuse(path: &Path, what: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {what}", path.display()))
}

/// The shape of the checkpoint, all of which is checked. It is not kept: whatever is made next reads it for itself.
fn float_network(path: &Path, member: Member, files: &Files) -> Outcome<Network> {
    let loaded = read_checkpoint(&files.checkpoint, member)?;
    match loaded.manifest() {
        None => Ok(*loaded.network()),
        Some(_) => {
            let file = files.checkpoint.display();
            Err(refuse(path, &format!("{file} is packed already: search from the float checkpoint")))
        }
    }
}

/// The data that is held out, all of which is read: bad input is told before anything is searched.
fn held_out(
    path: &Path,
    written: &HoldoutSpec,
    tokenizer: &Input,
    experiment: &Experiment,
) -> Outcome<Holdout> {
    let one = || refuse(path, &"holdout: name one file, text or labelled, of the task's kind");
    let file = path.parent().unwrap_or(Path::new("")).join(written.file(&experiment.task).ok_or_else(one)?);
    let task = written.task(&experiment.task);
    task.validate().map_err(|error| refuse(path, &format!("holdout.{error}")))?;
    let input = Input::data(&file, &task)?;
    let data = load_data(&input, tokenizer, &task, &experiment.network)?;
    warn_of_fewer("holdout.sequences", written.sequences, &input, &data);
    Ok(Holdout { input, task, sequences: data.len() as u64 })
}

/// The candidates of a written list.
fn listed(path: &Path, spec: &Spec, member: Member, files: &Files) -> Outcome<Listed> {
    let Some(WrittenStrategy::List(WrittenList { candidates })) = &spec.strategy else {
        return Ok(Listed::default());
    };
    let shape = Checkpoint::inspect(&files.checkpoint, member);
    let shape = shape.map_err(|error| unreadable(&files.checkpoint, &error))?;
    let file = path.parent().unwrap_or(Path::new("")).join(candidates);
    listed::read(&file, &shape.network)
}

/// The strategy, and how to get the order of a ranked one, which takes an evaluation. Until then its groups are in the
/// order of the network.
fn strategy(
    written: &Option<WrittenStrategy>,
    listed: List,
    space: &Space,
    network: &Network,
) -> (AnyStrategy, Option<Ranking>) {
    match written {
        None => {
            let mut tiered = Tiered::default();
            tiered.write_out();
            (tiered.into(), None)
        }
        Some(WrittenStrategy::AsItIs(strategy) | WrittenStrategy::Warm(strategy, _)) => {
            (strategy.clone(), None)
        }
        Some(WrittenStrategy::List(_)) => (listed.into(), None),
        &Some(WrittenStrategy::Ranked(WrittenRanked { metric, tier, sequences, top_k })) => {
            let groups = space.groups(network, Axis::Weights, tier);
            let order = groups.into_iter().map(|group| group.name).collect();
            let ranking = Ranking { metric, tier, sequences, top_k };
            (Ranked { metric: metric.name().to_owned(), tier, order }.into(), Some(ranking))
        }
    }
}

/// Ranking by which a ranked strategy gets its order.
struct Ranking {
    metric: Metric,
    tier: Tier,
    sequences: u32,
    top_k: u32,
}

impl Ranking {
    /// Everything that makes no sense.
    fn problems(&self, network: &Network) -> Vec<KeyProblem> {
        let mut problems = Vec::new();
        for (name, value) in [("sequences", self.sequences), ("top_k", self.top_k)] {
            if value == 0 {
                let words = format!("strategy.{name} = 0: expected at least 1");
                problems.push(KeyProblem::new(&format!("strategy.{name}"), words));
            }
        }
        if self.metric.0.needs == Needs::LanguageModel && network.is_classifier() {
            let words = "it reads tokens off the head, this checkpoint classifies";
            let words = format!("strategy.metric = {:?}: {words}", self.metric.name());
            problems.push(KeyProblem::new("strategy.metric", words));
        }
        problems
    }

    /// Has every unit measured at the middle level of its ladder, and orders the groups.
    fn ranked(
        &self,
        experiment: &Experiment,
        inputs: &[(ContentHash, &Input)],
        maker: &dyn Maker,
    ) -> Outcome<Ranked> {
        let (space, network) = (&experiment.space, &experiment.network);
        let probe = space.uniform(network, space.levels(Axis::Weights) / 2);
        let changed = sensitivity::changed_units(network, &probe)?;
        let job = |units: &[(String, String)]| {
            let sensitivity = Sensitivity {
                task: experiment.task.clone(),
                sequences: self.sequences,
                mini_batch: self.sequences,
                top_k: self.top_k,
                member: network.into(),
                units: units.iter().cloned().collect(),
                codes: units
                    .iter()
                    .filter_map(|(unit, _)| Some((unit.clone(), probe.codes_of(unit)?)))
                    .collect(),
            };
            sensitivity.job(experiment.checkpoint, &experiment.data)
        };
        let jobs: Vec<Job> = changed.chunks(UNITS_AT_ONCE).map(job).collect();
        let mut rows = Vec::new();
        for artifact in maker.make(&jobs, inputs)? {
            let scores = Sensitivity::read(&artifact).map_err(|error| Failure::new(Exit::Failure, error))?;
            rows.extend(scores.into_iter().map(UnitSensitivity::from));
        }
        let groups = space.groups(network, Axis::Weights, self.tier);
        let order = sensitivity::order(&groups, &rows, self.metric);
        Ok(Ranked { metric: self.metric.name().to_owned(), tier: self.tier, order })
    }
}
