//! The TOML form of a spec: what may be left out, and `--set` on top of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qslm_common::backend::Backend;
use qslm_common::constraints::Constraints;
use qslm_common::cost::Device;
use qslm_common::demands::Demands;
use qslm_common::network::{Family, Member};
use qslm_common::objective::Objective;
use qslm_common::racing::Racing;
use qslm_common::space::Tier;
use qslm_common::strategy::StrategySpec;
use qslm_common::task::Task;
use qslm_common::tasks::TaskName;
use qslm_common::trade_off::TradeOff;
use qslm_search::{AnyStrategy, Evolve, List, Ranked, Strategy, Surrogate, registry};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::check::culprit;
use super::position::{key_at, line_at, with_key};
use super::recovery::RecoverySpec;
use super::space::SpaceSpec;
use super::tasks::TaskSpec;
use super::{KeyProblem, refuse};
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched::is_address;
use crate::input::read_text;
use crate::member::{Base, DynamicsSpec, member};
use crate::sensitivity::Metric;

/// A spec as written.
// One field for each key and table of a spec.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) name: String,
    #[serde(default)]
    pub(super) backend: Backend,
    pub(super) checkpoint: CheckpointSpec,
    pub(super) task: TaskSpec,
    #[serde(default)]
    pub(super) tasks: BTreeMap<TaskName, TaskSpec>,
    #[serde(default)]
    pub(super) space: SpaceSpec,
    #[serde(default)]
    pub(super) constraints: Constraints,
    pub(super) objectives: Option<Vec<Objective>>,
    #[serde(default)]
    pub(super) trade_off: TradeOff,
    pub(super) strategy: Option<WrittenStrategy>,
    pub(super) calibration: Option<CalibrationSpec>,
    pub(super) holdout: Option<HoldoutSpec>,
    pub(super) recovery: Option<RecoverySpec>,
    #[serde(default)]
    pub(super) device: Device,
    pub(super) racing: Option<Racing>,
    pub(super) max_candidates: Option<u64>,
    #[serde(default)]
    pub(super) run: RunSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointSpec {
    pub(super) path: Option<PathBuf>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) family: Option<Family>,
    pub(super) binary_embedding: Option<bool>,
    #[serde(default)]
    pub(super) neuron: DynamicsSpec,
}

impl CheckpointSpec {
    /// What it says of the network beside its file.
    pub(super) fn member(&self, base: Base) -> Result<Member, KeyProblem> {
        member(base, self.binary_embedding, &self.neuron).map_err(|(key, words)| {
            let key = key.map_or("checkpoint.neuron".to_owned(), |key| format!("checkpoint.neuron.{key}"));
            KeyProblem::new(&key, format!("checkpoint.neuron: {words}"))
        })
    }
}

/// Calibration data, off which static ranges are read: a text or labelled sentences, as the task's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CalibrationSpec {
    pub(super) text: Option<PathBuf>,
    pub(super) labelled: Option<PathBuf>,
    #[serde(default = "sixteen")]
    pub(super) sequences: u32,
    /// Damping of Hessians, for calibrated codes.
    pub(super) damping: Option<f64>,
    /// Columns by falling second moment of their input, for calibrated codes.
    #[serde(default)]
    pub(super) act_order: bool,
}

/// Data that the search does not see: a text or labelled sentences, as the task's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldoutSpec {
    pub(super) text: Option<PathBuf>,
    pub(super) labelled: Option<PathBuf>,
    /// Windows or sentences; all of them if absent.
    pub(super) sequences: Option<u32>,
}

/// The `[strategy]` table. Most strategies are written as they stand in an experiment; those that name files or need an
/// evaluation have a form of their own here.
#[derive(Debug, Clone)]
pub(super) enum WrittenStrategy {
    AsItIs(AnyStrategy),
    Ranked(WrittenRanked),
    List(WrittenList),
    /// A strategy that begins with the candidates of a front, in this file.
    Warm(AnyStrategy, PathBuf),
}

impl WrittenStrategy {
    /// True if it goes by a table that calibration data predicts.
    pub(super) fn wants_table(&self) -> bool {
        matches!(self, Self::AsItIs(AnyStrategy::Allocate(allocate)) if allocate.table.is_some())
    }
}

/// A ranked search, with the measure in place of the order that it leads to.
#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRanked {
    pub(super) metric: Metric,
    pub(super) tier: Tier,
    /// Windows or sentences of the task's data that the measure looks at.
    #[serde(default = "sixteen")]
    pub(super) sequences: u32,
    #[serde(default = "ten")]
    pub(super) top_k: u32,
}

/// A list, with the file of candidates; see [`crate::listed`].
#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenList {
    pub(super) candidates: PathBuf,
}

impl<'de> Deserialize<'de> for WrittenStrategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spec = StrategySpec::deserialize(deserializer)?;
        let parameters = || serde_json::Value::Object(spec.parameters().cloned().collect());
        let read = match spec.kind() {
            Ranked::KIND => serde_json::from_value(parameters()).map(Self::Ranked),
            List::KIND => serde_json::from_value(parameters()).map(Self::List),
            _ => other(&spec),
        };
        read.map_err(D::Error::custom)
    }
}

/// Reads a strategy that is written as it stands, but for the front that it may begin with.
fn other(spec: &StrategySpec) -> Result<WrittenStrategy, serde_json::Error> {
    let mut written = serde_json::to_value(spec)?;
    let named = written.as_object_mut().and_then(|table| {
        let is_file = table.get("warm_start").is_some_and(serde_json::Value::is_string);
        table.remove("warm_start").filter(|_| is_file)
    });
    // One without a warm start has to say so.
    let front = named.filter(|_| [Evolve::KIND, Surrogate::KIND].contains(&spec.kind()));
    let spec = if front.is_some() { &serde_json::from_value(written)? } else { spec };
    let mut strategy = AnyStrategy::parse(spec)?;
    strategy.write_out();
    Ok(match front.as_ref().and_then(|front| front.as_str()) {
        Some(front) => WrittenStrategy::Warm(strategy, PathBuf::from(front)),
        None => WrittenStrategy::AsItIs(strategy),
    })
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunSpec {
    /// Shards per trial: how finely a trial is spread over workers. Does not change the result.
    pub(super) shards: u32,
    /// Demands on the workers of a cluster that may evaluate it. They do not change the result.
    pub(super) workers: Demands,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self { shards: 4, workers: Demands::default() }
    }
}

fn ten() -> u32 {
    10
}

fn sixteen() -> u32 {
    16
}

/// Keys whose values are paths; relative ones are relative to the spec, or to here if set by a flag.
const PATHS: [&str; 12] = [
    "checkpoint.path",
    "checkpoint.tokenizer",
    "task.text",
    "task.labelled",
    "calibration.text",
    "calibration.labelled",
    "holdout.text",
    "holdout.labelled",
    "recovery.text",
    "recovery.labelled",
    "strategy.candidates",
    "strategy.warm_start",
];

/// True if the value of a key is a path.
fn is_path(key: &str) -> bool {
    let of_task = || {
        key.starts_with("tasks.") && [".text", ".labelled", ".questions"].iter().any(|end| key.ends_with(end))
    };
    PATHS.contains(&key) || of_task()
}

impl CalibrationSpec {
    /// The one file, if there is just one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match (&self.text, &self.labelled) {
            (Some(file), None) | (None, Some(file)) => Some(file),
            _ => None,
        }
    }

    /// Task under which the calibration data is read: a subset of it, the first sequences, cut as the task
    /// cuts.
    pub(super) fn task(&self, task: &Task) -> Task {
        match (task, &self.labelled) {
            (Task::Perplexity { window, .. }, None) => {
                Task::Perplexity { window: *window, stride: *window, windows: Some(self.sequences) }
            }
            (_, None) => Task::Perplexity { window: 1, stride: 1, windows: Some(self.sequences) },
            (_, Some(_)) => Task::Accuracy { sentences: Some(self.sequences) },
        }
    }
}

impl HoldoutSpec {
    /// The one file, if there is just one, and it is of the task's kind.
    pub(super) fn file(&self, task: &Task) -> Option<&PathBuf> {
        match (task, &self.text, &self.labelled) {
            (Task::Perplexity { .. }, Some(file), None) | (Task::Accuracy { .. }, None, Some(file)) => {
                Some(file)
            }
            _ => None,
        }
    }

    /// Task under which it is read: cut as the task cuts.
    pub(super) fn task(&self, task: &Task) -> Task {
        match task {
            Task::Perplexity { window, stride, .. } => {
                Task::Perplexity { window: *window, stride: *stride, windows: self.sequences }
            }
            Task::Accuracy { .. } => Task::Accuracy { sentences: self.sequences },
            Task::Choice { per_byte, .. } => Task::Choice { questions: self.sequences, per_byte: *per_byte },
        }
    }
}

pub(super) fn read(path: &Path, settings: &[String]) -> Outcome<Spec> {
    of_text(path, &read_text(path)?, settings)
}

/// Spec of the text of a file, with settings on top.
pub(super) fn of_text(path: &Path, text: &str, settings: &[String]) -> Outcome<Spec> {
    // For some tables the reader knows no more than the table.
    let at_line = |error: toml::de::Error| {
        let span = error.span().map(|span| culprit(text, span, error.message()));
        refuse_at(path, text, span.map(|span| span.start), error.message())
    };
    if settings.is_empty() {
        return toml::from_str(text).map_err(at_line);
    }
    let text = with_settings(toml::from_str(text).map_err(at_line)?, settings)?;
    // Read as any text is. No line of this one is the file's.
    toml::from_str(&text).map_err(|error| {
        let span = error.span().map(|span| culprit(&text, span, error.message()));
        let key = span.and_then(|span| key_at(&text, span.start));
        refuse(path, &with_key(key.as_deref(), suggest(&one_line(error.message()))))
    })
}

/// The table of a file with settings on top, as a text.
pub(super) fn with_settings(mut table: toml::Table, settings: &[String]) -> Outcome<String> {
    let before = strategy_of(&table);
    for setting in settings {
        set(&mut table, setting)?;
    }
    drop_foreign_keys(&mut table, &before, settings);
    Ok(table.to_string())
}

/// The `[strategy]` table, or an empty one.
fn strategy_of(table: &toml::Table) -> toml::Table {
    table.get("strategy").and_then(toml::Value::as_table).cloned().unwrap_or_default()
}

/// Where settings name another strategy, drops those keys of the file's that it does not have.
fn drop_foreign_keys(table: &mut toml::Table, before: &toml::Table, settings: &[String]) {
    let Some(strategy) = table.get_mut("strategy").and_then(toml::Value::as_table_mut) else { return };
    let kind = strategy.get("kind").and_then(toml::Value::as_str);
    let entry = registry().iter().find(|entry| Some(entry.kind) == kind);
    let Some(entry) = entry.filter(|entry| {
        before.get("kind").and_then(toml::Value::as_str).is_some_and(|before| before != entry.kind)
    }) else {
        return;
    };
    let is_set = |key: &str| {
        settings.iter().filter_map(|setting| setting.split_once('=')).any(|(name, _)| {
            name == "strategy" || name.strip_prefix("strategy.").is_some_and(|name| name == key)
        })
    };
    let is_its = |key: &str| key == "kind" || entry.keys.iter().any(|known| known.name == key);
    strategy.retain(|key, _| is_its(key) || is_set(key));
}

/// Error of a TOML file, on one line, with the number of the line where it is.
pub fn refuse_toml(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    refuse_at(path, text, error.span().map(|span| span.start), error.message())
}

fn refuse_at(path: &Path, text: &str, offset: Option<usize>, message: &str) -> Failure {
    let line = offset.map(|offset| line_at(text, offset));
    let key = offset.and_then(|offset| key_at(text, offset));
    let message = with_key(key.as_deref(), suggest(&one_line(message)));
    match line {
        Some(line) => refuse(path, &format!("line {line}: {message}")),
        None => refuse(path, &message),
    }
}

/// Adds to the words about an unknown name which of the known ones may be meant, and says what a number is.
pub(super) fn suggest(message: &str) -> String {
    let types = [
        ("u16", "a whole number"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("f64", "a number"),
    ];
    for (of_reader, of_people) in types {
        if let Some(words) = message.strip_suffix(&format!(", expected {of_reader}")) {
            return format!("{words}, expected {of_people}");
        }
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let known = |unknown: &str, names: &mut dyn Iterator<Item = &str>| {
        let scored = names.map(|name| (strsim::damerau_levenshtein(unknown, name), name.to_owned()));
        // As many letters wrong as make a third of the word.
        scored.min().filter(|(distance, _)| *distance <= unknown.len().div_ceil(3))
    };
    match names.next().filter(|_| message.starts_with("unknown ")) {
        Some(unknown) => match known(unknown, &mut names) {
            Some((_, name)) => format!("{message}; did you mean `{name}`?"),
            None => message.to_owned(),
        },
        None => message.to_owned(),
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Puts the value of a `KEY=VALUE` setting into the table. The value is TOML, or else a plain string.
pub(super) fn set(table: &mut toml::Table, setting: &str) -> Outcome {
    let usage = |what: &str| Failure::new(Exit::Usage, format!("--set {setting}: {what}"));
    let (key, value) = setting.split_once('=').ok_or_else(|| usage("expected KEY=VALUE"))?;
    if value.parse::<u128>().is_ok_and(|number| i64::try_from(number).is_err()) {
        return Err(usage(&format!("expected at most {}", i64::MAX)));
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let mut value = parsed.ok().and_then(|mut t| t.remove("value")).unwrap_or(toml::Value::from(value));
    let file = value.as_str().filter(|file| is_path(key) && !is_address(Path::new(file)));
    if let Some(file) = file {
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
    fn a_fit_that_is_left_out_is_written_into_the_experiment() {
        let of = |more: &str| {
            let text = format!("{SPEC}[strategy]\nkind = \"allocate\"\ntier = \"matrix\"\n{more}");
            match parse(&text, &[]).unwrap().strategy {
                Some(WrittenStrategy::AsItIs(strategy)) => serde_json::to_string(&strategy.spec()).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of(""), r#"{"kind":"allocate","tier":"matrix","fit":"regression"}"#);
        // What experiments meant before there was the key.
        assert_eq!(of("fit = \"law\"\n"), r#"{"kind":"allocate","tier":"matrix"}"#);
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let spec = parse(SPEC, &[]).unwrap();
        assert!(spec.checkpoint.binary_embedding.is_none() && spec.run.shards == 4);
        assert!(spec.space.bits.is_none());
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
    fn a_value_of_the_wrong_type_is_told_with_its_key() {
        let error = parse(&SPEC.replace("window = 128", "window = \"long\""), &[]).unwrap_err();
        assert!(error.contains("line 7: task.window: invalid type: string \"long\""), "{error}");
        let error = parse(&SPEC.replace("name = \"x\"", "name = 3"), &[]).unwrap_err();
        assert!(error.contains("line 1: name: invalid type: integer `3`"), "{error}");
    }

    #[test]
    fn a_name_that_is_nearly_right_gets_a_suggestion() {
        let unknown = "unknown field `windw`, expected one of `text`, `window`, `windows`";
        assert_eq!(suggest(unknown), format!("{unknown}; did you mean `window`?"));
        let nothing_like_it = "unknown field `colour`, expected one of `text`, `window`";
        assert_eq!(suggest(nothing_like_it), nothing_like_it);
        assert_eq!(suggest("missing field `window`"), "missing field `window`");
    }

    #[test]
    fn settings_replace_and_add() {
        let spec =
            parse(SPEC, &["task.window=64", "space.bits=[4, 2]", "name=y", "task.text=a b.txt"]).unwrap();
        assert_eq!(spec.name, "y");
        assert_eq!(spec.space.bits.unwrap().len(), 2);
        let TaskSpec::Perplexity { text: Some(text), window: 64, .. } = spec.task else {
            panic!("{:?}", spec.task)
        };
        assert!(text.is_absolute() && text.ends_with("a b.txt"));
        assert!(parse(SPEC, &["space.bitz=[4]"]).unwrap_err().contains("bitz"));
        assert!(parse(SPEC, &["name"]).unwrap_err().contains("expected KEY=VALUE"));
        assert!(parse(SPEC, &["name.x=1"]).unwrap_err().contains("name is not a table"));
    }

    #[test]
    fn another_strategy_takes_only_the_keys_that_it_has() {
        let spec = format!("{SPEC}[strategy]\nkind = \"qslm\"\nplain = true\n");
        assert!(parse(&spec, &["strategy.kind=grid", "strategy.tier=block"]).is_ok());
        assert!(parse(&spec, &["strategy.tier=block", "strategy.kind=grid"]).is_ok());
        let error = parse(&spec, &["strategy.kind=grid", "strategy.plain=true"]).unwrap_err();
        assert!(error.contains("unknown field `plain`"), "{error}");
        let kept = parse(&spec.replace("plain = true", "sensitivity_sequences = 3"), &["name=y"]);
        assert!(kept.is_ok());
    }

    #[test]
    fn a_width_outside_the_range_is_refused() {
        let error = parse(&format!("{SPEC}[space]\nbits = [4, 9]\n"), &[]).unwrap_err();
        assert!(error.contains("9 bits: expected 2 to 8, 16 or 32"), "{error}");
    }
}
