//! `qslm import`: results that were measured elsewhere, and points of other tools to compare with.

mod expected;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use qslm_common::candidate::Candidate;
use qslm_common::evidence::{Backing, Evidence, Fingerprint, LONGEST_ENGINE};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::spread::Spread;
use qslm_common::trial::Addressed;
use qslm_common::trial::TrialKey;
use qslm_coordinator::store::{Contents, ExperimentRecord, Store, Write};
use qslm_report::{Comparison, Reference};
use qslm_search::{OnRecord, written};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::stores::open;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;
use expected::Expected;

/// Points that are kept of another tool's study: a plot shows no more.
const MOST_POINTS: usize = 2000;

/// Take in results that were measured elsewhere, or points of other tools to compare with.
///
/// A list of candidates that are still to be measured is a spec's: strategy = { kind = "list", candidates = FILE }.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm export quickstart --store north.redb --out north.jsonl
  qslm import results north.jsonl --into all.redb --experiment quickstart
  qslm import optuna study.db --values perplexity,footprint_bytes --into all.redb --experiment quickstart
  qslm run spec.toml --set strategy.kind=list --set strategy.candidates=mine.jsonl")]
pub struct Import {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lines of JSON as `qslm export --format jsonl` writes them: they are results of the experiment from then on
    ///
    /// Every line is checked: its candidate has to be one of the network's and have the id that it says, its counts have to
    /// be those of the experiment's data and protocol, and what it says of checkpoint, data, protocol and engine has to be the
    /// experiment's. Exports of earlier versions do not say that: of them the counts are compared. Nothing is taken in if one is wrong. A result that differs from one on record is kept beside it, and
    /// the exit code is 4.
    Results {
        /// The file
        #[arg(value_name = "FILE.jsonl")]
        file: PathBuf,
        #[command(flatten)]
        into: Into,
    },
    /// Finished trials of an Optuna study in sqlite, as points that reports show beside the front
    Optuna {
        /// The database
        #[arg(value_name = "FILE.db")]
        file: PathBuf,
        /// The study [default: the only one]
        #[arg(long)]
        study: Option<String>,
        /// Meanings of its values, in their order; one of each kind, skip for one that is neither
        #[arg(long, value_enum, value_delimiter = ',', required = true)]
        values: Vec<Meaning>,
        #[command(flatten)]
        into: Into,
    },
}

#[derive(Debug, Args)]
struct Into {
    /// The store that has the experiment; no coordinator may have it open
    #[arg(long = "into", value_name = "STORE")]
    store: PathBuf,
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    #[arg(long)]
    experiment: String,
}

/// Meaning of a value of another tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Meaning {
    /// Perplexity, compared with the float model's on record
    Perplexity,
    /// Accuracy as a fraction, compared with the float model's on record
    Accuracy,
    /// Relative increase of perplexity, or accuracy lost
    QualityLoss,
    /// Bytes that weights take
    FootprintBytes,
    /// Share of the float model's bytes that is saved
    Saving,
    /// Nothing that can be compared
    Skip,
}

impl Import {
    /// Takes it in and says how much that was.
    pub fn run(self) -> Outcome {
        match self.what {
            What::Results { file, into } => results(&file, &into),
            What::Optuna { file, study, values, into } => optuna(&file, study.as_deref(), &values, &into),
        }
    }
}

impl Into {
    fn open(&self) -> Outcome<(Store, ExperimentRecord)> {
        let store = open(&self.store)?;
        let id = &self.experiment;
        let mut matches =
            store.experiments()?.into_iter().filter(|record| record.experiment.id().starts_with(id.as_str()));
        match (matches.next(), matches.next()) {
            (Some(record), None) => Ok((store, record)),
            (None, _) => Err(Failure::new(Exit::NotFound, format!("no experiment {id:?}"))),
            _ => Err(Failure::new(Exit::Conflict, format!("several experiments start with {id:?}"))),
        }
    }
}

fn results(file: &Path, into: &Into) -> Outcome {
    let (store, record) = into.open()?;
    let text = lines_of_json(file)?;
    let mut contents = store.contents()?;
    let mut expected = Expected::new(&record.experiment, &contents, &into.store)?;
    let mut taken = Contents::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |what: String| {
            Failure::new(Exit::Usage, format!("{}: line {}: {what}", file.display(), number + 1))
        };
        let row: Value = serde_json::from_str(line).map_err(|error| refuse(error.to_string()))?;
        let (key, counts, spread) = result(&row, &record.experiment).map_err(refuse)?;
        expected.check(&row, &counts, number + 1).map_err(refuse)?;
        let engines: BTreeMap<_, _> = engines(&row).collect();
        let backing = Backing { engines: engines.keys().copied().collect(), spread };
        taken.measurements.entry(key).or_default().insert(counts, backing);
        taken.engines.extend(engines);
    }
    let known = |key: &TrialKey| contents.measurements.contains_key(key);
    let new = taken.measurements.keys().filter(|key| !known(key)).count();
    let all = taken.measurements.len();
    let keys: BTreeSet<TrialKey> = taken.measurements.keys().copied().collect();
    contents.join(taken);
    store.replace(&contents)?;
    print(&format!("{new} new results, {} known\n", all - new))?;
    let differ = contents.conflicts().iter().filter(|(trial, _)| keys.contains(trial)).count();
    match differ {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Conflict,
            format!("{differ} results differ from those on record; both are kept"),
        )),
    }
}

/// The text of a file that has to be lines of JSON; an export may be in another form.
fn lines_of_json(file: &Path) -> Outcome<String> {
    let bytes = std::fs::read(file).map_err(|error| Failure::file(file, &error))?;
    String::from_utf8(bytes)
        .ok()
        .map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
        .filter(|text| text.trim_start().starts_with(['{', '[']) || text.trim().is_empty())
        .ok_or_else(|| {
            let words = "no lines of JSON, which `qslm export --format jsonl` writes";
            Failure::new(Exit::Usage, format!("{}: {words}", file.display()))
        })
}

/// Engines that measured a row of an export; exports of earlier versions do not say.
fn engines(row: &Value) -> impl Iterator<Item = (Fingerprint, String)> {
    let names = row["engines"].as_str().unwrap_or_default().split("; ").filter(|name| !name.is_empty());
    let short = names.map(|name| name.chars().take(LONGEST_ENGINE).collect::<String>());
    short.map(|name| (Fingerprint::of(&name), name))
}

/// The trial and counts of a row of an export.
fn result(row: &Value, experiment: &Experiment) -> Result<(TrialKey, Counts, Option<Spread>), String> {
    let network = &experiment.network;
    let text = |name: &str| row[name].as_str().ok_or_else(|| format!("{name} is missing"));
    let count = |name: &str| {
        row[name].as_u64().ok_or_else(|| format!("{name} = {}: expected a whole number", row[name]))
    };
    let candidate = written::from_schemes(text("schemes")?, network)?;
    if text("candidate")? != candidate.id().to_string() {
        return Err(format!("candidate = {}: its schemes are those of {}", row["candidate"], candidate.id()));
    }
    let nll = row["nll_nats"].as_f64().and_then(Nll::from_nats);
    let spikes = text("spikes")?.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>();
    let counts = Counts {
        nll: nll
            .ok_or_else(|| format!("nll_nats = {}: expected 0 to {:e}", row["nll_nats"], Nll::LARGEST))?,
        scored_tokens: count("tokens")?,
        hits: count("hits")?,
        sentences: count("sentences")?,
        processed_tokens: count("positions")?,
        spikes: spikes.map_err(|error| format!("spikes: {error}"))?,
        kl: row.get("kl_nats").and_then(Value::as_f64).and_then(Nll::from_nats),
        ..Counts::default()
    };
    if !experiment.protocol().could_give(&counts) {
        return Err(
            "counts that this network cannot give, or without the divergence that it is asked for".to_owned()
        );
    }
    // Exports of earlier versions have no such columns.
    let spread = match row.get("pairs") {
        None => None,
        Some(_) => Some(Spread { sequences: count("pairs")?, squares: count("squared_differences")? }),
    };
    let spread = spread.filter(|spread| spread.sequences > 0);
    let trial = Addressed::from(experiment.trial(candidate));
    Ok((trial.key, counts, spread))
}

fn optuna(file: &Path, study: Option<&str>, values: &[Meaning], into: &Into) -> Outcome {
    Failure::unless_file(file)?;
    let (store, record) = into.open()?;
    let experiment = &record.experiment;
    let place = ValueColumns::new(values, &store, &record)?;
    let broken = |error: rusqlite::Error| Failure::new(Exit::Failure, format!("{}: {error}", file.display()));
    let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(broken)?;
    let (number, name) = find_study(&database, study, file)?;
    let mut statement = database
        .prepare(
            "SELECT trials.number, trial_values.objective, trial_values.value FROM trials \
             JOIN trial_values ON trial_values.trial_id = trials.trial_id \
             WHERE trials.study_id = ?1 AND trials.state = 'COMPLETE' AND trial_values.value IS NOT NULL \
             ORDER BY trials.number, trial_values.objective",
        )
        .map_err(broken)?;
    let rows = statement
        .query_map([number], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, f64>(2)?)));
    let mut points: Vec<Reference> = Vec::new();
    let mut trial: (i64, Vec<f64>) = (-1, Vec::new());
    let mut rows = rows.map_err(broken)?.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    // So that the last trial is finished, too.
    rows.push((i64::MAX, 0, 0.0));
    for (of, _, value) in rows {
        if of != trial.0 {
            points.extend(place.point(&trial.1, format!("trial {}", trial.0), experiment));
            trial = (of, Vec::new());
        }
        trial.1.push(value);
    }
    if points.is_empty() {
        let words =
            format!("{}: study {name:?} has no finished trial with {} values", file.display(), values.len());
        return Err(Failure::new(Exit::NotFound, words));
    }
    let (all, left_out) = (points.len(), points.len().saturating_sub(MOST_POINTS));
    points.truncate(MOST_POINTS);
    let source = format!("optuna: {name}");
    store.commit(&[Write::Comparison(experiment.id(), Comparison { source: source.clone(), points })])?;
    let more = if left_out > 0 { format!(", {left_out} of them left out") } else { String::new() };
    print(&format!("{source}: {all} points{more}; reports of {} show them\n", experiment.id()))
}

/// Columns of a study: the values of a trial that say where its point lies.
struct ValueColumns {
    saving: (usize, Meaning),
    quality: (usize, Meaning),
    /// The float model's perplexity or accuracy, where it is needed.
    float: Option<f64>,
    values: usize,
}

impl ValueColumns {
    fn new(values: &[Meaning], store: &Store, record: &ExperimentRecord) -> Outcome<Self> {
        let only = |meanings: &[Meaning], words: &str| {
            let mut found = values.iter().enumerate().filter(|(_, meaning)| meanings.contains(meaning));
            match (found.next(), found.next()) {
                (Some((at, meaning)), None) => Ok((at, *meaning)),
                _ => Err(Failure::new(Exit::Usage, format!("--values: expected one of {words}"))),
            }
        };
        let saving = only(&[Meaning::FootprintBytes, Meaning::Saving], "footprint_bytes and saving")?;
        let quality = only(
            &[Meaning::Perplexity, Meaning::Accuracy, Meaning::QualityLoss],
            "perplexity, accuracy and quality_loss",
        )?;
        let experiment = &record.experiment;
        let float = Addressed::from(experiment.trial(Candidate::float(&experiment.network)));
        let float = match &store.look_up(&[float.key], record.shards)?[..] {
            [OnRecord::Measured(Evidence { counts, .. })] => match quality.1 {
                Meaning::Perplexity => counts.perplexity(),
                Meaning::Accuracy => counts.accuracy(),
                _ => None,
            },
            _ => None,
        };
        if quality.1 != Meaning::QualityLoss && float.is_none() {
            let words = "--values: the float model's is not on record to compare with; give quality_loss";
            return Err(Failure::new(Exit::NotFound, words));
        }
        Ok(Self { saving, quality, float, values: values.len() })
    }

    /// `None` for a trial with another number of values, or with one that is no number.
    fn point(&self, values: &[f64], label: String, experiment: &Experiment) -> Option<Reference> {
        if values.len() != self.values || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let saved = match self.saving.1 {
            Meaning::FootprintBytes => saving(&experiment.network, values[self.saving.0].max(0.0) as u64),
            _ => values[self.saving.0],
        };
        let value = values[self.quality.0];
        let quality_loss = match (self.quality.1, self.float) {
            (Meaning::Perplexity, Some(float)) => value / float - 1.0,
            (Meaning::Accuracy, Some(float)) => float - value,
            _ => value,
        };
        Some(Reference { label, saving: saved, quality_loss })
    }
}

/// The number and name of a study.
fn find_study(database: &Connection, wanted: Option<&str>, file: &Path) -> Outcome<(i64, String)> {
    let broken = |error: rusqlite::Error| {
        Failure::new(Exit::Failure, format!("{}: no Optuna database: {error}", file.display()))
    };
    let mut statement =
        database.prepare("SELECT study_id, study_name FROM studies ORDER BY study_id").map_err(broken)?;
    let all = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).map_err(broken)?;
    let all: Vec<(i64, String)> = all.collect::<Result<_, _>>().map_err(broken)?;
    let names = || all.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => all.iter().find(|(_, name)| name == wanted).cloned().ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("{}: no study {wanted:?}; it has {}", file.display(), names()),
            )
        }),
        None => match &all[..] {
            [one] => Ok(one.clone()),
            [] => Err(Failure::new(Exit::NotFound, format!("{}: it has no study", file.display()))),
            _ => {
                Err(Failure::new(Exit::Conflict, format!("{}: --study: one of {}", file.display(), names())))
            }
        },
    }
}
