//! Specs: the TOML files that people write, and what they resolve to.
//!
//! A spec names files and leaves things out; an [`Experiment`] names contents and leaves nothing out.
//! Resolving reads every file, so that bad input is told before anything is searched.

use std::path::{Path, PathBuf};

use qslm_common::ENGINE_VERSION;
use qslm_common::experiment::{Backend, Experiment, Strategy};
use qslm_common::hash::ContentHash;
use qslm_common::objective::{Constraints, Objective};
use qslm_common::scheme::{Granularity, Range, Rounding, Symmetry, Width};
use qslm_common::space::{Embedding, Space};
use qslm_common::task::{Data, MAX_SHARDS, Task};
use qslm_common::trade_off::TradeOff;
use qslm_engine::checkpoint::Checkpoint;
use qslm_worker::cache::hash_file;
use serde::Deserialize;

use crate::data::load_data;
use crate::exit::{Exit, Failure, Outcome};

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
    strategy: Option<Strategy>,
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

/// Where a spec may name files; relative ones are relative to the spec, or to here if set by a flag.
const PATHS: [&str; 4] = ["checkpoint.path", "checkpoint.tokenizer", "task.text", "task.labelled"];

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
    let experiment = Experiment {
        name: spec.name,
        engine_version: ENGINE_VERSION,
        backend: spec.backend,
        checkpoint: hash(&checkpoint)?,
        network,
        data: Data { text: hash(&text)?, tokenizer: hash(&tokenizer)? },
        space: spec.space.resolve(binary_embedding),
        constraints: spec.constraints,
        objectives: spec
            .objectives
            .unwrap_or_else(|| vec![Objective::quality_of(&task), Objective::Footprint]),
        trade_off: spec.trade_off,
        strategy: spec.strategy.unwrap_or(Strategy::Qslm { sensitivity_bits: None }),
        task,
    };
    let shards = spec.run.shards;
    let mut problems: Vec<String> = experiment.problems().iter().map(ToString::to_string).collect();
    if !(1..=MAX_SHARDS).contains(&shards) {
        problems.push(format!("run.shards = {shards}: expected 1 to {MAX_SHARDS}"));
    }
    if !problems.is_empty() {
        return Err(refuse(path, &problems.join("; ")));
    }
    let positions = load_data(&text, &tokenizer, &experiment.task, &network)?.positions();
    let files = vec![
        (experiment.checkpoint, checkpoint),
        (experiment.data.text, text),
        (experiment.data.tokenizer, tokenizer),
    ];
    Ok(Resolved { experiment, shards, files, positions })
}

impl SpaceSpec {
    fn resolve(self, binary_embedding: bool) -> Space {
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
        let space = spec.space.resolve(true);
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
        assert_eq!(spec.space.resolve(true).bits.len(), 2);
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
