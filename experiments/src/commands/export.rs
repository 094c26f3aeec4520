//! `qslm export`: every measured candidate of an experiment as rows for other programs.
//!
//! A store keeps counts by trial and no candidates: they follow from the experiment. So the search is gone through once
//! more, with every answer from the store, and every row is written as it comes: a million of them take no memory.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::cost::Cost;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::{footprint_bytes, saving};
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::objective::quality_loss;
use qslm_common::trial::Addressed;
use qslm_coordinator::search::{self, Step};
use qslm_coordinator::store::{ExperimentRecord, Store, StoreError, Stored};
use serde::Serialize;

use super::stores::open;
use crate::exit::{Exit, Failure, Outcome};

/// Candidates that are looked up at a time.
const CHUNK: usize = 1024;

/// Write every measured candidate of an experiment as CSV or lines of JSON.
///
/// Columns: stage (the tier that first proposed it), candidate, footprint_bytes, saving (share of the float bytes),
/// perplexity or accuracy, quality_loss (against the float model), nll_nats, tokens, hits, sentences, positions,
/// firing_rate (spikes per neuron and token), energy_joules_per_token, schemes (one UNIT=SCHEME after the other).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm export quickstart --store runs/quickstart.redb > quickstart.csv
  qslm export quickstart --store runs/quickstart.redb --format jsonl --out quickstart.jsonl")]
pub struct Export {
    /// The experiment's id, or the beginning of it
    experiment: String,
    /// The store; no coordinator may have it open
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// The form of the rows
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// A JSON object on each line
    Jsonl,
}

/// A measured candidate. Names and order of the fields are part of the interface.
#[derive(Serialize)]
struct Row<'a> {
    stage: &'a str,
    candidate: ContentHash,
    footprint_bytes: u64,
    saving: f64,
    perplexity: Option<f64>,
    accuracy: Option<f64>,
    quality_loss: Option<f64>,
    nll_nats: f64,
    tokens: u64,
    hits: u64,
    sentences: u64,
    positions: u64,
    firing_rate: f64,
    energy_joules_per_token: Option<f64>,
    schemes: String,
}

/// Where rows go.
enum Sink<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Jsonl(W),
}

impl Export {
    /// Writes the rows.
    pub fn run(self) -> Outcome {
        let store = open(&self.store)?;
        let record = find(store.experiments()?, &self.experiment)?;
        let name = self.out.as_ref().map_or("standard output".to_owned(), |path| path.display().to_string());
        let out: Box<dyn Write> = match &self.out {
            Some(path) => Box::new(std::fs::File::create(path).map_err(|error| Failure::file(path, &error))?),
            None => Box::new(std::io::stdout().lock()),
        };
        let out = BufWriter::new(out);
        let mut sink = match self.format {
            Format::Csv => Sink::Csv(Box::new(csv::Writer::from_writer(out))),
            Format::Jsonl => Sink::Jsonl(out),
        };
        let written = replay(&record, &store, |row| sink.write(&row)).and_then(|()| sink.finish());
        match written {
            // A reader that went away (`| head`) is no failure.
            Err(Stop::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(Stop::Write(error)) => Err(Failure::new(Exit::Failure, format!("{name}: {error}"))),
            Err(Stop::Store(error)) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }
}

/// What ends an export early.
enum Stop {
    Store(StoreError),
    Write(std::io::Error),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

fn find(records: Vec<ExperimentRecord>, id: &str) -> Outcome<ExperimentRecord> {
    let mut matches = records.into_iter().filter(|record| record.experiment.id().starts_with(id));
    match (matches.next(), matches.next()) {
        (Some(record), None) => Ok(record),
        (None, _) => Err(Failure::new(Exit::NotFound, format!("no experiment {id:?}"))),
        _ => Err(Failure::new(Exit::Conflict, format!("several experiments start with {id:?}"))),
    }
}

/// Goes through the search as far as the store knows it.
fn replay(
    record: &ExperimentRecord,
    store: &Store,
    mut write: impl FnMut(Row<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let experiment = &record.experiment;
    let failures = store.failures(&experiment.id())?;
    let mut search = search::start(experiment);
    let float_id = Candidate::float(&experiment.network).id();
    let (mut archive, mut float) = (Archive::default(), None);
    while let Step::Measure(generation) = search.next(&archive) {
        let candidates = &generation.candidates;
        let mut under_way = false;
        for start in (0..candidates.len()).step_by(CHUNK) {
            let chunk = (start..candidates.len().min(start + CHUNK)).filter_map(|at| candidates.get(at));
            let trials: Vec<Addressed> = chunk.map(|candidate| experiment.trial(candidate).into()).collect();
            let keys: Vec<ContentHash> = trials.iter().map(|trial| trial.key).collect();
            for (trial, stored) in trials.iter().zip(store.look_up(&keys, record.shards)?) {
                let Stored::Measured(counts) = stored else {
                    under_way |= !failures.contains_key(&trial.key);
                    continue;
                };
                if archive.get(&trial.candidate).is_none() {
                    // Every search proposes the float model first; without it there is nothing to compare with.
                    if trial.candidate == float_id {
                        float = Some(counts.clone());
                    }
                    write(row(experiment, generation.stage, trial, &counts, float.as_ref()))?;
                    archive.insert(experiment, &trial.trial.candidate, counts);
                }
            }
        }
        // A search that is not finished goes no further than this.
        if under_way {
            break;
        }
    }
    Ok(())
}

fn row<'a>(
    experiment: &Experiment,
    stage: &'a str,
    trial: &Addressed,
    counts: &Counts,
    float: Option<&Counts>,
) -> Row<'a> {
    let (network, candidate) = (&experiment.network, &trial.trial.candidate);
    let bytes = footprint_bytes(network, candidate);
    let mut schemes: Vec<String> =
        candidate.schemes().map(|(unit, scheme)| format!("{unit}={scheme}")).collect();
    schemes.push(format!("vectors={}", candidate.vectors()));
    schemes.extend(candidate.activations().map(|(unit, scheme)| format!("activation:{unit}={scheme}")));
    schemes.extend(candidate.membranes().map(|(name, scheme)| format!("membrane:{name}={scheme}")));
    Row {
        stage,
        candidate: trial.candidate,
        footprint_bytes: bytes,
        saving: saving(network, bytes),
        perplexity: counts.perplexity(),
        accuracy: counts.accuracy(),
        quality_loss: float.map(|float| quality_loss(float, counts)),
        nll_nats: counts.nll.nats(),
        tokens: counts.tokens,
        hits: counts.hits,
        sentences: counts.sentences,
        positions: counts.positions,
        firing_rate: counts.mean_firing_rate(network.channels),
        energy_joules_per_token: experiment
            .device
            .costs(network, candidate, counts)
            .get(&Cost::Energy)
            .copied(),
        schemes: schemes.join(" "),
    }
}

impl<W: Write> Sink<W> {
    fn write(&mut self, row: &Row<'_>) -> Result<(), Stop> {
        match self {
            Self::Csv(writer) => writer.serialize(row).map_err(|error| match error.into_kind() {
                csv::ErrorKind::Io(error) => Stop::Write(error),
                other => Stop::Write(std::io::Error::other(format!("{other:?}"))),
            }),
            Self::Jsonl(writer) => {
                serde_json::to_writer(&mut *writer, row).map_err(std::io::Error::from)?;
                Ok(writer.write_all(b"\n")?)
            }
        }
    }

    fn finish(&mut self) -> Result<(), Stop> {
        match self {
            Self::Csv(writer) => writer.flush()?,
            Self::Jsonl(writer) => writer.flush()?,
        }
        Ok(())
    }
}
