//! Specs: the TOML files that people write, and what they resolve to.
//!
//! A spec names files and leaves things out; an [`Experiment`] names contents and leaves nothing out.
//! Resolving reads every file, so that bad input is told before anything is searched.

use std::path::{Path, PathBuf};

use qslm_common::ENGINE_VERSION;
use qslm_common::cost::{Cost, Device};
use qslm_common::experiment::{Backend, Experiment, Strategy, check_model};
use qslm_common::hash::ContentHash;
use qslm_common::objective::{Constraints, Objective};
use qslm_common::scheme::{Calibration, Granularity, Range, Rounding, Symmetry, Width};
use qslm_common::space::{ActivationSpace, Embedding, Group, MembraneSpace, Part, Space, Tier, VectorSpace};
use qslm_common::task::{Data, MAX_SHARDS, Task};
use qslm_common::trade_off::TradeOff;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::task::Dataset;
use qslm_worker::cache::hash_file;
use serde::Deserialize;

use crate::data::load_data;
use crate::exit::{Exit, Failure, Outcome};
use crate::parallel;
use crate::schemes::calibrate_on;
use crate::sensitivity::{self, Metric};

/// A spec as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    #[serde(default)]
    backend: Backend,
    checkpoint: CheckpointSpec,
    task: TaskSpec,
    #[serde(default)]
    space: SpaceSpec,
    #[serde(default)]
    constraints: Constraints,
    objectives: Option<Vec<Objective>>,
    #[serde(default)]
    trade_off: TradeOff,
    strategy: Option<StrategySpec>,
    calibration: Option<CalibrationSpec>,
    #[serde(default)]
    device: Device,
    #[serde(default)]
    run: RunSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointSpec {
    path: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    #[serde(default = "yes")]
    binary_embedding: bool,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum TaskSpec {
    Perplexity { text: Option<PathBuf>, window: u32, stride: Option<u32>, windows: Option<u32> },
    Accuracy { labelled: Option<PathBuf>, sentences: Option<u32> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SpaceSpec {
    bits: Option<Vec<Width>>,
    symmetry: Option<Symmetry>,
    granularity: Option<Granularity>,
    rounding: Option<Rounding>,
    range: Option<Range>,
    embedding: Option<Embedding>,
    vectors: Option<VectorSpace>,
    activations: Option<ActivationsSpec>,
    membranes: Option<MembranesSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivationsSpec {
    bits: Vec<Width>,
    symmetry: Option<Symmetry>,
    #[serde(default)]
    range: ActivationRangeSpec,
}

/// Where the range of activations comes from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActivationRangeSpec {
    #[default]
    Dynamic,
    Static,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembranesSpec {
    bits: Vec<u8>,
    #[serde(default = "two")]
    integer_bits: u8,
}

/// What static ranges are read off: a text or labelled sentences, as the task's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationSpec {
    text: Option<PathBuf>,
    labelled: Option<PathBuf>,
    #[serde(default = "sixteen")]
    sequences: u32,
}

/// As [`Strategy`], with the measure in place of the order that it leads to.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum StrategySpec {
    Qslm {
        sensitivity_bits: Option<Width>,
    },
    Grid {
        tier: Tier,
    },
    Random {
        tier: Tier,
        trials: u32,
        seed: u64,
    },
    Ranked {
        metric: Metric,
        tier: Tier,
        /// Windows or sentences of the task's data that the measure looks at.
        #[serde(default = "sixteen")]
        sequences: u32,
        #[serde(default = "ten")]
        top_k: u32,
    },
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunSpec {
    /// Shards per trial: how finely a trial is spread over workers. Does not change the result.
    shards: u32,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self { shards: 4 }
    }
}

fn yes() -> bool {
    true
}

fn two() -> u8 {
    2
}

fn ten() -> u32 {
    10
}

fn sixteen() -> u32 {
    16
}

/// Where a spec may name files; relative ones are relative to the spec, or to here if set by a flag.
const PATHS: [&str; 6] = [
    "checkpoint.path",
    "checkpoint.tokenizer",
    "task.text",
    "task.labelled",
    "calibration.text",
    "calibration.labelled",
];

/// A spec with everything found.
#[derive(Debug)]
pub struct Resolved {
    /// What it means.
    pub experiment: Experiment,
    /// Shards per trial.
    pub shards: u32,
    /// Every file by its content hash.
    pub files: Vec<(ContentHash, PathBuf)>,
    /// Tokens that one trial evaluates.
    pub positions: u64,
}

/// Reads a spec, applies `KEY=VALUE` settings on top, and finds everything that it names.
pub fn resolve(path: &Path, settings: &[String]) -> Outcome<Resolved> {
    let spec = read(path, settings)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let at = |key: &str, file: Option<PathBuf>| match file {
        Some(file) => Ok(folder.join(file)),
        None => {
            Err(refuse(path, &format!("{key} is missing: write it in the spec or give --set {key}=FILE")))
        }
    };
    let checkpoint = at("checkpoint.path", spec.checkpoint.path)?;
    let tokenizer = at("checkpoint.tokenizer", spec.checkpoint.tokenizer)?;
    let (text, task) = match spec.task {
        TaskSpec::Perplexity { text, window, stride, windows } => {
            let task = Task::Perplexity { window, stride: stride.unwrap_or(window), windows };
            (at("task.text", text)?, task)
        }
        TaskSpec::Accuracy { labelled, sentences } => {
            (at("task.labelled", labelled)?, Task::Accuracy { sentences })
        }
    };
    let binary_embedding = spec.checkpoint.binary_embedding;
    let loaded = Checkpoint::load(&checkpoint, binary_embedding);
    let loaded = loaded.map_err(|error| Failure::file(&checkpoint, &error))?;
    if loaded.manifest().is_some() {
        let file = checkpoint.display();
        return Err(refuse(path, &format!("{file} is packed already: search from the float checkpoint")));
    }
    let network = *loaded.network();
    let hash = |file: &PathBuf| hash_file(file).map_err(|error| Failure::file(file, &error));
    let calibration = match (&spec.space.activations, spec.calibration) {
        (Some(ActivationsSpec { range: ActivationRangeSpec::Static, .. }), Some(calibration)) => {
            let task = calibration.task(&task);
            let file = calibration.file().ok_or_else(|| {
                refuse(path, &"calibration: name one file, text or labelled, of the task's kind")
            })?;
            let file = folder.join(file);
            task.validate().map_err(|error| refuse(path, &format!("calibration.{error}")))?;
            check_model(&network, &task).map_err(|error| refuse(path, &format!("calibration: {error}")))?;
            let data = load_data(&file, &tokenizer, &task, &network)?;
            Some(calibrate_on(&loaded, spec.backend, &data, &file)?)
        }
        (Some(ActivationsSpec { range: ActivationRangeSpec::Static, .. }), None) => {
            let words =
                "space.activations.range = \"static\" needs a [calibration] table that names its data";
            return Err(refuse(path, &words));
        }
        (_, Some(_)) => {
            return Err(refuse(path, &"[calibration] is for space.activations with range = \"static\""));
        }
        (_, None) => None,
    };
    let mut experiment = Experiment {
        name: spec.name,
        engine_version: ENGINE_VERSION,
        backend: spec.backend,
        checkpoint: hash(&checkpoint)?,
        network,
        data: Data { text: hash(&text)?, tokenizer: hash(&tokenizer)? },
        space: spec.space.resolve(binary_embedding, calibration),
        constraints: spec.constraints,
        objectives: spec
            .objectives
            .unwrap_or_else(|| vec![Objective::quality_of(&task), Objective::Cost(Cost::Footprint)]),
        trade_off: spec.trade_off,
        strategy: Strategy::Qslm { sensitivity_bits: None },
        device: spec.device,
        task,
    };
    let ranking = match spec.strategy {
        None => None,
        Some(StrategySpec::Qslm { sensitivity_bits }) => {
            experiment.strategy = Strategy::Qslm { sensitivity_bits };
            None
        }
        Some(StrategySpec::Grid { tier }) => {
            experiment.strategy = Strategy::Grid { tier };
            None
        }
        Some(StrategySpec::Random { tier, trials, seed }) => {
            experiment.strategy = Strategy::Random { tier, trials, seed };
            None
        }
        Some(StrategySpec::Ranked { metric, tier, sequences, top_k }) => {
            // Any order will do for telling what else is wrong; the real one takes an evaluation.
            let groups = experiment.space.groups(&network, Part::Weights, tier);
            let order = groups.into_iter().map(|group| group.name).collect();
            experiment.strategy = Strategy::Ranked { metric: metric.name().to_owned(), tier, order };
            Some(Ranking { metric, sequences, top_k })
        }
    };
    let shards = spec.run.shards;
    let mut problems: Vec<String> = experiment.problems().iter().map(ToString::to_string).collect();
    if !(1..=MAX_SHARDS).contains(&shards) {
        problems.push(format!("run.shards = {shards}: expected 1 to {MAX_SHARDS}"));
    }
    if ranking.as_ref().is_some_and(|ranking| ranking.metric == Metric::Lsaq && network.is_classifier()) {
        problems.push(
            "strategy.metric = \"lsaq\": it reads tokens off the head, this checkpoint classifies".into(),
        );
    }
    if !problems.is_empty() {
        return Err(refuse(path, &problems.join("; ")));
    }
    let mut data = load_data(&text, &tokenizer, &experiment.task, &network)?;
    let positions = data.positions();
    if let (Some(ranking), Strategy::Ranked { tier, order, .. }) = (ranking, &mut experiment.strategy) {
        data.truncate(ranking.sequences as usize);
        let groups = experiment.space.groups(&network, Part::Weights, *tier);
        *order = ranking.order(&loaded, &experiment.space, &groups, &data, spec.backend)?;
    }
    let files = vec![
        (experiment.checkpoint, checkpoint),
        (experiment.data.text, text),
        (experiment.data.tokenizer, tokenizer),
    ];
    Ok(Resolved { experiment, shards, files, positions })
}

/// How a ranked strategy gets its order.
struct Ranking {
    metric: Metric,
    sequences: u32,
    top_k: u32,
}

impl Ranking {
    /// Measures every unit at the middle of the ladder and orders the groups.
    fn order(
        &self,
        checkpoint: &Checkpoint,
        space: &Space,
        groups: &[Group],
        data: &Dataset,
        backend: Backend,
    ) -> Outcome<Vec<String>> {
        let probe = space.uniform(checkpoint.network(), space.rungs(Part::Weights) / 2);
        let options = sensitivity::Options {
            backend,
            mini_batch: self.sequences as usize,
            top_k: self.top_k as usize,
            threads: parallel::threads(None),
        };
        let rows = sensitivity::measure(checkpoint, &probe, data, options, || ())?;
        Ok(sensitivity::order(groups, &rows, self.metric))
    }
}

impl CalibrationSpec {
    /// The one file, if there is just one.
    fn file(&self) -> Option<&PathBuf> {
        match (&self.text, &self.labelled) {
            (Some(file), None) | (None, Some(file)) => Some(file),
            _ => None,
        }
    }

    /// The protocol under which it is read: the first sequences, cut as the task cuts.
    fn task(&self, task: &Task) -> Task {
        match (task, &self.labelled) {
            (Task::Perplexity { window, .. }, None) => {
                Task::Perplexity { window: *window, stride: *window, windows: Some(self.sequences) }
            }
            (_, None) => Task::Perplexity { window: 1, stride: 1, windows: Some(self.sequences) },
            (_, Some(_)) => Task::Accuracy { sentences: Some(self.sequences) },
        }
    }
}

impl SpaceSpec {
    fn resolve(self, binary_embedding: bool, calibration: Option<Calibration>) -> Space {
        let all = || [8, 6, 4, 3, 2].iter().filter_map(|bits| Width::try_from(*bits).ok()).collect();
        let mut bits: Vec<Width> = self.bits.unwrap_or_else(all);
        bits.sort_by(|a, b| b.cmp(a));
        let embedding = if binary_embedding { Embedding::Sign } else { Embedding::Quantize };
        Space {
            bits,
            symmetry: self.symmetry.unwrap_or(Symmetry::Symmetric),
            granularity: self.granularity.unwrap_or(Granularity::Channel),
            rounding: self.rounding.unwrap_or_default(),
            range: self.range.unwrap_or_default(),
            embedding: self.embedding.unwrap_or(embedding),
            vectors: self.vectors.map(|mut vectors| {
                vectors.bits.sort_by(|a, b| b.cmp(a));
                vectors
            }),
            activations: self.activations.map(|mut activations| {
                activations.bits.sort_by(|a, b| b.cmp(a));
                let symmetry = activations.symmetry.unwrap_or(Symmetry::Affine);
                ActivationSpace { bits: activations.bits, symmetry, calibration }
            }),
            membranes: self.membranes.map(|mut membranes| {
                membranes.bits.sort_by(|a, b| b.cmp(a));
                MembraneSpace { bits: membranes.bits, integer_bits: membranes.integer_bits }
            }),
        }
    }
}

fn refuse(path: &Path, what: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {what}", path.display()))
}

fn read(path: &Path, settings: &[String]) -> Outcome<Spec> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let at_line = |error: toml::de::Error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let message = one_line(error.message());
        match line {
            Some(line) => refuse(path, &format!("line {line}: {message}")),
            None => refuse(path, &message),
        }
    };
    if settings.is_empty() {
        return toml::from_str(&text).map_err(at_line);
    }
    let mut table: toml::Table = toml::from_str(&text).map_err(at_line)?;
    for setting in settings {
        set(&mut table, setting)?;
    }
    table.try_into().map_err(|error: toml::de::Error| refuse(path, &one_line(error.message())))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Puts the value of a `KEY=VALUE` setting into the table. The value is TOML, or else a plain string.
fn set(table: &mut toml::Table, setting: &str) -> Outcome {
    let usage = |what: &str| Failure::new(Exit::Usage, format!("--set {setting}: {what}"));
    let (key, value) = setting.split_once('=').ok_or_else(|| usage("expected KEY=VALUE"))?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let mut value = parsed.ok().and_then(|mut t| t.remove("value")).unwrap_or(toml::Value::from(value));
    if let (true, Some(file)) = (PATHS.contains(&key), value.as_str()) {
        let absolute = std::path::absolute(file).map_err(|error| usage(&error.to_string()))?;
        value = toml::Value::from(absolute.to_string_lossy().into_owned());
    }
    let mut names: Vec<&str> = key.split('.').collect();
    let last = names.pop().filter(|last| !last.is_empty()).ok_or_else(|| usage("expected KEY=VALUE"))?;
    let mut inner = table;
    for name in names {
        let entry = inner.entry(name).or_insert_with(|| toml::Table::new().into());
        inner = entry.as_table_mut().ok_or_else(|| usage(&format!("{name} is not a table")))?;
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "name = \"x\"\n[checkpoint]\npath = \"m.pth\"\ntokenizer = \"t.json\"\n\
        [task]\nkind = \"perplexity\"\nwindow = 128\n";

    fn parse(text: &str, settings: &[&str]) -> Result<Spec, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        read(file.path(), &settings).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let spec = parse(SPEC, &[]).unwrap();
        assert!(spec.checkpoint.binary_embedding && spec.run.shards == 4);
        let space = spec.space.resolve(true, None);
        assert_eq!(space.embedding, Embedding::Sign);
        assert_eq!(space.bits.iter().map(|bits| bits.bits()).collect::<Vec<_>>(), [8, 6, 4, 3, 2]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = parse(&format!("{SPEC}windw = 3\n"), &[]).unwrap_err();
        assert!(error.contains("windw"), "{error}");
        let error = parse(&format!("bakend = \"flex\"\n{SPEC}"), &[]).unwrap_err();
        assert!(error.contains("line 1: unknown field `bakend`, expected one of"), "{error}");
        assert!(parse("name = ", &[]).unwrap_err().contains("line 1"));
    }

    #[test]
    fn settings_replace_and_add() {
        let spec =
            parse(SPEC, &["task.window=64", "space.bits=[4, 2]", "name=y", "task.text=a b.txt"]).unwrap();
        assert_eq!(spec.name, "y");
        assert_eq!(spec.space.resolve(true, None).bits.len(), 2);
        let TaskSpec::Perplexity { text: Some(text), window: 64, .. } = spec.task else {
            panic!("{:?}", spec.task)
        };
        assert!(text.is_absolute() && text.ends_with("a b.txt"));
        assert!(parse(SPEC, &["space.bitz=[4]"]).unwrap_err().contains("bitz"));
        assert!(parse(SPEC, &["name"]).unwrap_err().contains("expected KEY=VALUE"));
        assert!(parse(SPEC, &["name.x=1"]).unwrap_err().contains("name is not a table"));
    }

    #[test]
    fn a_width_outside_the_range_is_refused() {
        let error = parse(&format!("{SPEC}[space]\nbits = [4, 9]\n"), &[]).unwrap_err();
        assert!(error.contains("9 bits: expected 2 to 8, 16 or 32"), "{error}");
    }
}
