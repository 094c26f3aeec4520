//! The whole store as a value, read and written in one transaction each.
//!
//! [`TABLES`] is the table of tables. One more table of the file is its definition, a field of [`Contents`] with the rule by
//! which it is joined, two functions that read a row and write all rows, and one line of that table.

use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Backing, Engines, Evidence, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use qslm_common::measurement::Counts;
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::Made;
use redb::{
    MultimapTableDefinition, ReadTransaction, ReadableMultimapTable, ReadableTable, WriteTransaction,
};

use super::contents::{Contents, MadeVariants, Variants, add};
use super::error::ReadError;
use super::record::{
    Event, UnreadableRecord, decode_comparison, decode_counts, decode_event, decode_experiment, decode_made,
    decode_reasons, decode_sample, decode_tell, encode_counts, encode_event, encode_experiment, encode_made,
    encode_reasons,
};
use super::tables::{
    BINDINGS, COMPARISONS, CONFLICTS, ENGINES, EVENTS, EXPERIMENTS, FAILURES, JOBS, Key, MADE,
    MADE_CONFLICTS, MEASUREMENTS, PRUNES, RETRIED, SHARDS, ShardKey, TELLS, TIMELINE,
};

/// One table as a part of the whole.
pub(super) struct TableOfWhole {
    /// Makes the table if it is not there.
    make: fn(&WriteTransaction) -> Written,
    /// Adds every row to the contents.
    read: fn(&ReadTransaction, &mut Contents) -> Result<(), ReadError>,
    /// Replaces every row by those of the contents.
    write: fn(&WriteTransaction, &Contents) -> Written,
    /// Copies every row into an empty table of another file as it is written; each is announced before.
    copy: fn(&ReadTransaction, &WriteTransaction, &mut dyn FnMut() -> Written) -> Written,
}

pub(super) type Written = Result<(), redb::Error>;
type Read = Result<(), UnreadableRecord>;
type Rows<'a, K, V> = redb::Table<'a, K, V>;

/// A table, the function that adds one of its rows to the contents, and the one that inserts all rows of the contents.
macro_rules! table {
    ($table:ident, $read:ident, $write:ident) => {
        TableOfWhole {
            make: |transaction| {
                transaction.open_table($table)?;
                Ok(())
            },
            read: |transaction, contents| {
                for row in transaction.open_table($table)?.iter()? {
                    let (key, value) = row?;
                    $read(contents, key.value(), value.value())?;
                }
                Ok(())
            },
            write: |transaction, contents| {
                let mut rows = transaction.open_table($table)?;
                rows.retain(|_, _| false)?;
                $write(contents, &mut rows)
            },
            copy: |from, to, announce| {
                let mut rows = to.open_table($table)?;
                for row in from.open_table($table)?.iter()? {
                    announce()?;
                    let (key, value) = row?;
                    rows.insert(key.value(), value.value())?;
                }
                Ok(())
            },
        }
    };
}

/// Tables in the order in which they are read: shards and conflicts go by what is known to be measured.
pub(super) const TABLES: [TableOfWhole; 16] = [
    table!(EXPERIMENTS, read_experiment, write_experiments),
    table!(ENGINES, read_engine, write_engines),
    table!(MEASUREMENTS, read_measurement, write_measurements),
    table!(SHARDS, read_shard, write_shards),
    TableOfWhole {
        make: make_conflicts,
        read: read_conflicts,
        write: write_conflicts,
        copy: |from, to, announce| copy_many(CONFLICTS, from, to, announce),
    },
    table!(JOBS, read_job, write_jobs),
    table!(MADE, read_made, write_made),
    TableOfWhole {
        make: make_made_conflicts,
        read: read_made_conflicts,
        write: write_made_conflicts,
        copy: |from, to, announce| copy_many(MADE_CONFLICTS, from, to, announce),
    },
    table!(BINDINGS, read_binding, write_bindings),
    table!(FAILURES, read_failure, write_failures),
    table!(RETRIED, read_retried, write_retried),
    table!(TELLS, read_tell, write_tells),
    table!(PRUNES, read_prune, write_prunes),
    table!(COMPARISONS, read_comparison, write_comparisons),
    table!(TIMELINE, read_sample, write_timeline),
    table!(EVENTS, read_event, write_events),
];

/// Makes the tables that are not there.
pub(super) fn make_tables(transaction: &WriteTransaction) -> Written {
    TABLES.iter().try_for_each(|table| (table.make)(transaction))
}

/// Reads every table.
pub(super) fn read_all(transaction: &ReadTransaction) -> Result<Contents, ReadError> {
    let mut contents = Contents::default();
    TABLES.iter().try_for_each(|table| (table.read)(transaction, &mut contents))?;
    Ok(contents)
}

/// Replaces every row of every table.
pub(super) fn write_all(transaction: &WriteTransaction, contents: &Contents) -> Written {
    TABLES.iter().try_for_each(|table| (table.write)(transaction, contents))
}

/// Copies every row of every table as it is written, without reading what it says; each is announced before.
pub(super) fn copy_all(
    from: &ReadTransaction,
    to: &WriteTransaction,
    announce: &mut dyn FnMut() -> Written,
) -> Written {
    TABLES.iter().try_for_each(|table| (table.copy)(from, to, announce))
}

/// Copies every row of a table of several values per key.
fn copy_many<K: redb::Key + 'static, V: redb::Key + 'static>(
    table: MultimapTableDefinition<'_, K, V>,
    from: &ReadTransaction,
    to: &WriteTransaction,
    announce: &mut dyn FnMut() -> Written,
) -> Written {
    let mut rows = to.open_multimap_table(table)?;
    for row in from.open_multimap_table(table)?.iter()? {
        let (key, values) = row?;
        for value in values {
            announce()?;
            rows.insert(key.value(), value?.value())?;
        }
    }
    Ok(())
}

fn read_experiment(contents: &mut Contents, _: &str, record: &[u8]) -> Read {
    let record = decode_experiment(record)?;
    contents.experiments.insert(record.experiment.id(), record);
    Ok(())
}

fn write_experiments(contents: &Contents, rows: &mut Rows<'_, &'static str, &'static [u8]>) -> Written {
    for (id, record) in &contents.experiments {
        rows.insert(id.as_str(), encode_experiment(record).as_slice())?;
    }
    Ok(())
}

fn read_engine(contents: &mut Contents, fingerprint: u64, description: &str) -> Read {
    contents.engines.insert(Fingerprint(fingerprint), description.to_owned());
    Ok(())
}

fn write_engines(contents: &Contents, rows: &mut Rows<'_, u64, &'static str>) -> Written {
    for (fingerprint, description) in &contents.engines {
        rows.insert(fingerprint.0, description.as_str())?;
    }
    Ok(())
}

fn read_counts(record: &[u8]) -> Result<[(Counts, Backing); 1], UnreadableRecord> {
    let Evidence { counts, backing } = decode_counts(record)?;
    Ok([(counts, backing)])
}

/// The records of counts: the first is what the store answers with, the others are in conflict with it.
fn records(variants: &Variants) -> impl Iterator<Item = Vec<u8>> {
    variants.iter().map(|(counts, backing)| encode_counts(counts, backing))
}

fn read_measurement(contents: &mut Contents, key: &Key, record: &[u8]) -> Read {
    add(contents.measurements.entry(TrialKey::from_bytes(*key)).or_default(), read_counts(record)?);
    Ok(())
}

fn write_measurements(contents: &Contents, rows: &mut Rows<'_, &'static Key, &'static [u8]>) -> Written {
    for (key, variants) in &contents.measurements {
        if let Some(first) = records(variants).next() {
            rows.insert(key.as_bytes(), first.as_slice())?;
        }
    }
    Ok(())
}

fn read_shard(contents: &mut Contents, (key, of, index): ShardKey<'_>, record: &[u8]) -> Read {
    let key = TrialKey::from_bytes(*key);
    let shards = contents.shards_of(&key);
    add(shards.entry((key, Shard { index, of })).or_default(), read_counts(record)?);
    Ok(())
}

fn write_shards(contents: &Contents, rows: &mut Rows<'_, ShardKey<'static>, &'static [u8]>) -> Written {
    for ((key, shard), variants) in contents.shards.iter().chain(&contents.shard_results) {
        if let Some(first) = records(variants).next() {
            rows.insert((key.as_bytes(), shard.of, shard.index), first.as_slice())?;
        }
    }
    Ok(())
}

fn make_conflicts(transaction: &WriteTransaction) -> Written {
    transaction.open_multimap_table(CONFLICTS)?;
    Ok(())
}

fn read_conflicts(transaction: &ReadTransaction, contents: &mut Contents) -> Result<(), ReadError> {
    for row in transaction.open_multimap_table(CONFLICTS)?.iter()? {
        let (at, values) = row?;
        let (key, of, index) = at.value();
        for value in values {
            match of {
                0 => read_measurement(contents, key, value?.value())?,
                of => read_shard(contents, (key, of, index), value?.value())?,
            }
        }
    }
    Ok(())
}

fn write_conflicts(transaction: &WriteTransaction, contents: &Contents) -> Written {
    transaction.delete_multimap_table(CONFLICTS)?;
    let mut rows = transaction.open_multimap_table(CONFLICTS)?;
    let whole = contents.measurements.iter().map(|(key, variants)| ((key, 0, 0), variants));
    let shards = contents.shards.iter().chain(&contents.shard_results);
    let shards = shards.map(|((key, shard), variants)| ((key, shard.of, shard.index), variants));
    for ((key, of, index), variants) in whole.chain(shards) {
        for other in records(variants).skip(1) {
            rows.insert((key.as_bytes(), of, index), other.as_slice())?;
        }
    }
    Ok(())
}

fn read_job(contents: &mut Contents, key: &Key, text: &str) -> Read {
    contents.jobs.insert(JobKey::from_bytes(*key), text.to_owned());
    Ok(())
}

fn write_jobs(contents: &Contents, rows: &mut Rows<'_, &'static Key, &'static str>) -> Written {
    for (key, text) in &contents.jobs {
        rows.insert(key.as_bytes(), text.as_str())?;
    }
    Ok(())
}

fn read_made(contents: &mut Contents, key: &Key, record: &[u8]) -> Read {
    let Made { artifact, engines } = decode_made(record)?;
    contents.made.entry(JobKey::from_bytes(*key)).or_default().entry(artifact).or_default().extend(engines);
    Ok(())
}

/// The records of a job's artifacts: the first is what the store answers with, the others are in conflict with it.
fn made_records(artifacts: &MadeVariants) -> impl Iterator<Item = Vec<u8>> {
    let record = |(artifact, engines): (&ContentHash, &Engines)| {
        encode_made(&Made { artifact: *artifact, engines: engines.clone() })
    };
    artifacts.iter().map(record)
}

fn write_made(contents: &Contents, rows: &mut Rows<'_, &'static Key, &'static [u8]>) -> Written {
    for (key, artifacts) in &contents.made {
        if let Some(first) = made_records(artifacts).next() {
            rows.insert(key.as_bytes(), first.as_slice())?;
        }
    }
    Ok(())
}

fn make_made_conflicts(transaction: &WriteTransaction) -> Written {
    transaction.open_multimap_table(MADE_CONFLICTS)?;
    Ok(())
}

fn read_made_conflicts(transaction: &ReadTransaction, contents: &mut Contents) -> Result<(), ReadError> {
    for row in transaction.open_multimap_table(MADE_CONFLICTS)?.iter()? {
        let (key, values) = row?;
        for value in values {
            read_made(contents, key.value(), value?.value())?;
        }
    }
    Ok(())
}

fn write_made_conflicts(transaction: &WriteTransaction, contents: &Contents) -> Written {
    transaction.delete_multimap_table(MADE_CONFLICTS)?;
    let mut rows = transaction.open_multimap_table(MADE_CONFLICTS)?;
    for (key, artifacts) in &contents.made {
        for other in made_records(artifacts).skip(1) {
            rows.insert(key.as_bytes(), other.as_slice())?;
        }
    }
    Ok(())
}

fn read_binding(contents: &mut Contents, (experiment, job): (&str, &Key), artifact: &Key) -> Read {
    let at = (experiment.to_owned(), JobKey::from_bytes(*job));
    contents.bindings.insert(at, ContentHash::from_bytes(*artifact));
    Ok(())
}

fn write_bindings(
    contents: &Contents,
    rows: &mut Rows<'_, (&'static str, &'static Key), &'static Key>,
) -> Written {
    for ((experiment, job), artifact) in &contents.bindings {
        rows.insert((experiment.as_str(), job.as_bytes()), artifact.as_bytes())?;
    }
    Ok(())
}

fn read_failure(contents: &mut Contents, (experiment, key): (&str, &Key), reason: &str) -> Read {
    let at = (experiment.to_owned(), TrialKey::from_bytes(*key));
    contents.failures.insert(at, reason.to_owned());
    Ok(())
}

fn write_failures(
    contents: &Contents,
    rows: &mut Rows<'_, (&'static str, &'static Key), &'static str>,
) -> Written {
    for ((experiment, key), reason) in &contents.failures {
        rows.insert((experiment.as_str(), key.as_bytes()), reason.as_str())?;
    }
    Ok(())
}

fn read_retried(contents: &mut Contents, (experiment, key): (&str, &Key), reasons: &str) -> Read {
    let at = (experiment.to_owned(), TrialKey::from_bytes(*key));
    contents.retried.insert(at, decode_reasons(reasons));
    Ok(())
}

fn write_retried(
    contents: &Contents,
    rows: &mut Rows<'_, (&'static str, &'static Key), &'static str>,
) -> Written {
    for ((experiment, key), reasons) in &contents.retried {
        rows.insert((experiment.as_str(), key.as_bytes()), encode_reasons(reasons).as_str())?;
    }
    Ok(())
}

fn read_tell(contents: &mut Contents, (experiment, number): (&str, u64), record: &[u8]) -> Read {
    // As a comparison.
    decode_tell(record)?;
    contents.tells.insert((experiment.to_owned(), number), record.to_vec());
    Ok(())
}

fn write_tells(contents: &Contents, rows: &mut Rows<'_, (&'static str, u64), &'static [u8]>) -> Written {
    for ((experiment, number), record) in &contents.tells {
        rows.insert((experiment.as_str(), *number), record.as_slice())?;
    }
    Ok(())
}

fn read_prune(contents: &mut Contents, (experiment, candidate): (&str, &Key), (): ()) -> Read {
    contents.prunes.insert((experiment.to_owned(), CandidateId::from_bytes(*candidate)));
    Ok(())
}

fn write_prunes(contents: &Contents, rows: &mut Rows<'_, (&'static str, &'static Key), ()>) -> Written {
    for (experiment, candidate) in &contents.prunes {
        rows.insert((experiment.as_str(), candidate.as_bytes()), ())?;
    }
    Ok(())
}

fn read_comparison(contents: &mut Contents, (experiment, source): (&str, &str), record: &[u8]) -> Read {
    // Kept as written, if it can be read.
    decode_comparison(record)?;
    contents.comparisons.insert((experiment.to_owned(), source.to_owned()), record.to_vec());
    Ok(())
}

fn write_comparisons(
    contents: &Contents,
    rows: &mut Rows<'_, (&'static str, &'static str), &'static [u8]>,
) -> Written {
    for ((experiment, source), record) in &contents.comparisons {
        rows.insert((experiment.as_str(), source.as_str()), record.as_slice())?;
    }
    Ok(())
}

fn read_sample(contents: &mut Contents, (experiment, unix_ms): (&str, u64), record: &[u8]) -> Read {
    // As a comparison.
    decode_sample(record)?;
    contents.timeline.insert((experiment.to_owned(), unix_ms), record.to_vec());
    Ok(())
}

fn write_timeline(contents: &Contents, rows: &mut Rows<'_, (&'static str, u64), &'static [u8]>) -> Written {
    for ((experiment, unix_ms), record) in &contents.timeline {
        rows.insert((experiment.as_str(), *unix_ms), record.as_slice())?;
    }
    Ok(())
}

fn read_event(contents: &mut Contents, number: u64, record: &[u8]) -> Read {
    let Event { number: _, unix_ms, experiment, text } = decode_event(number, record)?;
    contents.events.insert((unix_ms, experiment, text));
    Ok(())
}

/// Events of joined stores are numbered anew, by their times.
fn write_events(contents: &Contents, rows: &mut Rows<'_, u64, &'static [u8]>) -> Written {
    for (number, (unix_ms, experiment, text)) in (1..).zip(contents.events.iter().cloned()) {
        rows.insert(number, encode_event(&Event { number, unix_ms, experiment, text }).as_slice())?;
    }
    Ok(())
}
