//! The redb file: tables, one write transaction per batch, and what is read back at the start.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use qslm_common::evidence::{Evidence, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::task::Shard;
use qslm_program::quietly;
use qslm_report::{Comparison, Sample};
use redb::{
    Database, DatabaseError, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable, ReadableTable,
    ReadableTableMetadata, TableDefinition,
};

use super::contents::{Contents, add};
use super::place::{FileId, Lost};
use super::record::{
    ExperimentRecord, UnreadableRecord, decode_comparison, decode_counts, decode_experiment, decode_reasons,
    decode_sample, encode_comparison, encode_counts, encode_experiment, encode_reasons, encode_sample,
};
use super::view::View;

type Key = [u8; 32];

/// `format`: version of the tables. `epoch`: how often a coordinator has opened the file.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Experiment id to its record.
const EXPERIMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("experiments");
/// Trial key to the counts of the whole data.
const MEASUREMENTS: TableDefinition<&Key, &[u8]> = TableDefinition::new("measurements");
/// Trial key, number of shards and index to the shard's counts; only while the trial is open.
const SHARDS: TableDefinition<(&Key, u32, u32), &[u8]> = TableDefinition::new("shards");
/// Experiment id and trial key to why the trial failed.
const FAILURES: TableDefinition<(&str, &Key), &str> = TableDefinition::new("failures");
/// Failures that were opened again, the first one first, a line each.
const RETRIED: TableDefinition<(&str, &Key), &str> = TableDefinition::new("retried");
/// Experiment id and milliseconds since 1970 to how far the experiment was then. Nothing depends on it but what people
/// are shown, so stores without it are as good.
const TIMELINE: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("timeline");
/// Experiment id and source to points of another tool, which people compare with.
const COMPARISONS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("comparisons");
/// The fingerprint of an engine to its description. Records name engines by their fingerprints.
const ENGINES: TableDefinition<u64, &str> = TableDefinition::new("engines");
/// Counts that another store had for a trial (shards and index 0) or one of its shards (as in [`SHARDS`]).
const CONFLICTS: MultimapTableDefinition<(&Key, u32, u32), &[u8]> = MultimapTableDefinition::new("conflicts");

/// Bytes of the file that are kept in memory. A batch touches a page per result, since results lie in the order of
/// their hashes, and the operating system keeps the rest.
const CACHE: usize = 128 << 20;

/// Version of the tables above.
const FORMAT: u64 = 1;

/// An open store. Only one process can have it open, or any number that only read it.
pub struct Store {
    database: Database,
    path: PathBuf,
    epoch: u64,
    /// Where the file was when it was opened.
    place: Option<FileId>,
    /// What failed first. After that redb says only that something did.
    cause: OnceLock<io::Error>,
    was_closed: bool,
}

/// One change; a batch of them is all or nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// An experiment was submitted or changed.
    Experiment(ExperimentRecord),
    /// A shard of a trial was settled. Changes nothing if the trial was measured.
    Shard(ContentHash, Shard, Evidence),
    /// A trial was measured; its shards are not needed any more.
    Measurement(ContentHash, Evidence),
    /// All shards of a measured trial, to be kept although it was: others race against them.
    Parts(ContentHash, BTreeMap<Shard, Evidence>),
    /// What an engine is that results name by its fingerprint.
    Engine(Fingerprint, String),
    /// A trial of an experiment failed for good.
    Failure(String, ContentHash, String),
    /// A failed trial of an experiment is opened again; that it failed stays on record.
    Retry(String, ContentHash),
    /// How far an experiment was at a time.
    Sample(String, Sample),
    /// What another tool found; replaces what the same source found before.
    Comparison(String, Comparison),
}

/// What a store knows of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// It was measured.
    Measured(Evidence),
    /// It was not, but these of its shards are settled.
    Shards(BTreeMap<Shard, Evidence>),
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("{0}: in use by another process")]
    InUse(PathBuf),
    /// Tables of another version of this program.
    #[error("{path}: format {found}, this version reads format {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u64,
    },
    /// A value that cannot be read.
    #[error("{path}: {error}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Which and why.
        error: UnreadableRecord,
    },
    /// Something of the file is not as it was written.
    #[error("{path}: the store is damaged ({what}); go on with a copy of it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file or disk fails.
    #[error("{path}: {error}")]
    Redb {
        /// The file.
        path: PathBuf,
        /// What redb said.
        error: Box<redb::Error>,
    },
    /// A folder cannot be made or read: that of the file, or the one beside it.
    #[error("{path}: {error}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// What is written would be lost.
    #[error("{path}: the store was {how} while it was open: what is written now would be lost")]
    Lost {
        /// Where the file was.
        path: PathBuf,
        /// What became of it.
        how: Lost,
    },
}

impl Store {
    /// Opens a store, making it if it is not there. One that is damaged is left as it is.
    ///
    /// # Errors
    /// [`StoreError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // What it holds is looked at before anything is written to it.
        let there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        let was_closed = !there || look(path)?.1;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        }
        let database = guarded(path, || Database::builder().set_cache_size(CACHE).create(path))?;
        let place = std::fs::metadata(path).ok().and_then(|metadata| FileId::of(&metadata));
        let mut store = Self { place, ..Self::new(path, database, was_closed) };
        store.begin_epoch()?;
        Ok(store)
    }

    /// Opens a store that has to be there without changing a byte of it: what is written to it is there until it is closed.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let (database, was_closed) = look(path)?;
        let mut store = Self::new(path, database, was_closed);
        store.begin_epoch()?;
        Ok(store)
    }

    /// A store on something else than a file.
    #[cfg(test)]
    pub(crate) fn on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let path = PathBuf::from("in memory");
        let database = Database::builder().create_with_backend(backend);
        let database = database.map_err(|error| redb_error(&path, error))?;
        let mut store = Self::new(&path, database, true);
        store.begin_epoch()?;
        Ok(store)
    }

    fn new(path: &Path, database: Database, was_closed: bool) -> Self {
        Self { database, path: path.to_owned(), epoch: 0, was_closed, place: None, cause: OnceLock::new() }
    }

    /// Checks the format, makes missing tables, and counts the opening.
    fn begin_epoch(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let mut found = FORMAT;
        let epoch = self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            found = meta.get("format")?.map_or(FORMAT, |value| value.value());
            if found != FORMAT {
                return Ok(0);
            }
            let epoch = meta.get("epoch")?.map_or(0, |value| value.value()) + 1;
            meta.insert("format", found)?;
            meta.insert("epoch", epoch)?;
            transaction.open_table(EXPERIMENTS)?;
            transaction.open_table(MEASUREMENTS)?;
            transaction.open_table(SHARDS)?;
            transaction.open_table(FAILURES)?;
            transaction.open_table(RETRIED)?;
            transaction.open_table(TIMELINE)?;
            transaction.open_table(COMPARISONS)?;
            transaction.open_table(ENGINES)?;
            transaction.open_multimap_table(CONFLICTS)?;
            Ok(epoch)
        })?;
        if found != FORMAT {
            return Err(StoreError::Format { path, found });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// How often the store has been opened, this time included. Two coordinators never share it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a batch. On return it is on disk.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the batch is written then.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut experiments = transaction.open_table(EXPERIMENTS)?;
            let mut measurements = transaction.open_table(MEASUREMENTS)?;
            let mut shards = transaction.open_table(SHARDS)?;
            let mut failures = transaction.open_table(FAILURES)?;
            for write in writes {
                match write {
                    Write::Experiment(record) => {
                        let id = record.experiment.id();
                        experiments.insert(id.as_str(), encode_experiment(record).as_slice())?;
                    }
                    Write::Shard(key, shard, Evidence { counts, engines }) => {
                        let at = (key.as_bytes(), shard.of, shard.index);
                        let record = encode_counts(counts, engines);
                        let known = shards.get(at)?.map(|known| decode_counts(known.value()));
                        match known {
                            None if measurements.get(key.as_bytes())?.is_none() => {
                                shards.insert(at, record.as_slice())?;
                            }
                            None => {}
                            Some(Ok(known)) if known.counts == *counts => {}
                            // The first ones stay; that there were others is not hidden.
                            Some(_) => {
                                transaction.open_multimap_table(CONFLICTS)?.insert(at, record.as_slice())?;
                            }
                        }
                    }
                    Write::Engine(fingerprint, description) => {
                        transaction.open_table(ENGINES)?.insert(fingerprint.0, description.as_str())?;
                    }
                    Write::Measurement(key, Evidence { counts, engines }) => {
                        measurements.insert(key.as_bytes(), encode_counts(counts, engines).as_slice())?;
                        let key = key.as_bytes();
                        shards.retain_in((key, 0, 0)..=(key, u32::MAX, u32::MAX), |_, _| false)?;
                    }
                    Write::Parts(key, parts) => {
                        for (shard, Evidence { counts, engines }) in parts {
                            let at = (key.as_bytes(), shard.of, shard.index);
                            shards.insert(at, encode_counts(counts, engines).as_slice())?;
                        }
                    }
                    Write::Failure(experiment, key, reason) => {
                        failures.insert((experiment.as_str(), key.as_bytes()), reason.as_str())?;
                    }
                    Write::Retry(experiment, key) => {
                        let at = (experiment.as_str(), key.as_bytes());
                        let reason = failures.remove(at)?.map(|reason| reason.value().to_owned());
                        let mut retried = transaction.open_table(RETRIED)?;
                        let mut reasons =
                            retried.get(at)?.map_or(Vec::new(), |known| decode_reasons(known.value()));
                        reasons.extend(reason);
                        retried.insert(at, encode_reasons(&reasons).as_str())?;
                    }
                    Write::Comparison(experiment, comparison) => {
                        let at = (experiment.as_str(), comparison.source.as_str());
                        let comparison = encode_comparison(comparison);
                        transaction.open_table(COMPARISONS)?.insert(at, comparison.as_slice())?;
                    }
                    Write::Sample(experiment, sample) => {
                        let at = (experiment.as_str(), sample.unix_ms);
                        transaction.open_table(TIMELINE)?.insert(at, encode_sample(sample).as_slice())?;
                    }
                }
            }
            Ok(())
        })
    }

    /// All experiments in the order of their submission.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn experiments(&self) -> Result<Vec<ExperimentRecord>, StoreError> {
        let mut records = Vec::new();
        self.read(|transaction| {
            for row in transaction.open_table(EXPERIMENTS)?.iter()? {
                records.push(decode_experiment(row?.1.value()));
            }
            Ok(())
        })?;
        let mut records = records.into_iter().collect::<Result<Vec<_>, _>>().map_err(|e| self.record(e))?;
        // Stores that were joined may have given the same place twice.
        records.sort_by_cached_key(|record| (record.order, record.experiment.id()));
        Ok(records)
    }

    /// What is known of trials, each of which would be cut into `of` shards.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn look_up(&self, keys: &[ContentHash], of: u32) -> Result<Vec<Stored>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        self.read(|transaction| {
            let measurements = transaction.open_table(MEASUREMENTS)?;
            let shards = transaction.open_table(SHARDS)?;
            let none_open = shards.is_empty()?;
            for key in keys.iter().map(ContentHash::as_bytes) {
                if let Some(counts) = measurements.get(key)? {
                    found.push(decode_counts(counts.value()).map(Stored::Measured));
                    continue;
                }
                // Most trials are new, and most stores have no shards at all.
                let settled = if none_open { Ok(BTreeMap::new()) } else { read_parts(&shards, key, of)? };
                found.push(settled.map(Stored::Shards));
            }
            Ok(())
        })?;
        found.into_iter().collect::<Result<_, _>>().map_err(|error| self.record(error))
    }

    /// What a trial's shards gave, as far as that is on record: also of a measured one, if somebody asked for that.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read, or a record in it.
    pub fn parts(&self, key: &ContentHash, of: u32) -> Result<BTreeMap<Shard, Evidence>, StoreError> {
        let read = |transaction: &redb::ReadTransaction| {
            read_parts(&transaction.open_table(SHARDS)?, key.as_bytes(), of)
        };
        self.read(read)?.map_err(|error| self.record(error))
    }

    /// The trials of an experiment that failed for good, with the reasons.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn failures(&self, experiment: &str) -> Result<BTreeMap<ContentHash, String>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(FAILURES)?;
            let mut failures = BTreeMap::new();
            for row in table.range((experiment, &[0; 32])..=(experiment, &[255; 32]))? {
                let (at, reason) = row?;
                failures.insert(ContentHash::from_bytes(*at.value().1), reason.value().to_owned());
            }
            Ok(failures)
        })
    }

    /// How many failures of an experiment's trials were opened again.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn retried(&self, experiment: &str) -> Result<u64, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(RETRIED)?;
            let rows = table.range((experiment, &[0; 32])..=(experiment, &[255; 32]))?;
            rows.map(|row| Ok(decode_reasons(row?.1.value()).len() as u64)).sum()
        })
    }

    /// How an experiment went, by rising time.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn timeline(&self, experiment: &str) -> Result<Vec<Sample>, StoreError> {
        let mut samples = Vec::new();
        self.read(|transaction| {
            let table = transaction.open_table(TIMELINE)?;
            for row in table.range((experiment, 0)..=(experiment, u64::MAX))? {
                samples.push(decode_sample(row?.1.value()));
            }
            Ok(())
        })?;
        samples.into_iter().collect::<Result<_, _>>().map_err(|error| self.record(error))
    }

    /// What other tools found, by source.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn comparisons(&self, experiment: &str) -> Result<Vec<Comparison>, StoreError> {
        let mut found = Vec::new();
        self.read(|transaction| {
            for row in transaction.open_table(COMPARISONS)?.range((experiment, "")..)? {
                let (at, value) = row?;
                if at.value().0 != experiment {
                    break;
                }
                found.push(decode_comparison(value.value()));
            }
            Ok(())
        })?;
        found.into_iter().collect::<Result<_, _>>().map_err(|error| self.record(error))
    }

    /// The engines that results name, by their fingerprints.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn engines(&self) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(ENGINES)?;
            let rows = table.iter()?.map(|row| {
                let (fingerprint, description) = row?;
                Ok((Fingerprint(fingerprint.value()), description.value().to_owned()))
            });
            rows.collect()
        })
    }

    /// All that the store knows.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        let experiments = self.experiments()?.into_iter();
        let mut contents = Contents {
            experiments: experiments.map(|record| (record.experiment.id(), record)).collect(),
            engines: self.engines()?,
            ..Contents::default()
        };
        let mut broken = None;
        let mut decoded = |bytes: &[u8]| match decode_counts(bytes) {
            Ok(Evidence { counts, engines }) => Some((counts, engines)),
            Err(error) => {
                broken.get_or_insert(error);
                None
            }
        };
        let mut unreadable = None;
        self.read(|transaction| {
            for row in transaction.open_table(COMPARISONS)?.iter()? {
                let (at, value) = row?;
                let (experiment, source) = at.value();
                match decode_comparison(value.value()) {
                    Ok(_) => {
                        let at = (experiment.to_owned(), source.to_owned());
                        contents.comparisons.insert(at, value.value().to_vec());
                    }
                    Err(error) => unreadable = Some(error),
                }
            }
            for row in transaction.open_table(TIMELINE)?.iter()? {
                let (at, value) = row?;
                let (experiment, unix_ms) = at.value();
                match decode_sample(value.value()) {
                    Ok(_) => {
                        let at = (experiment.to_owned(), unix_ms);
                        contents.timeline.insert(at, value.value().to_vec());
                    }
                    Err(error) => unreadable = Some(error),
                }
            }
            for row in transaction.open_table(MEASUREMENTS)?.iter()? {
                let (key, value) = row?;
                let key = ContentHash::from_bytes(*key.value());
                add(contents.measurements.entry(key).or_default(), decoded(value.value()));
            }
            for row in transaction.open_table(SHARDS)?.iter()? {
                let (at, value) = row?;
                let (key, of, index) = at.value();
                let key = ContentHash::from_bytes(*key);
                let shards = contents.shards_of(&key);
                add(shards.entry((key, Shard { index, of })).or_default(), decoded(value.value()));
            }
            for row in transaction.open_table(FAILURES)?.iter()? {
                let (at, reason) = row?;
                let (experiment, key) = at.value();
                let at = (experiment.to_owned(), ContentHash::from_bytes(*key));
                contents.failures.insert(at, reason.value().to_owned());
            }
            for row in transaction.open_table(RETRIED)?.iter()? {
                let (at, reasons) = row?;
                let (experiment, key) = at.value();
                let at = (experiment.to_owned(), ContentHash::from_bytes(*key));
                contents.retried.insert(at, decode_reasons(reasons.value()));
            }
            for row in transaction.open_multimap_table(CONFLICTS)?.iter()? {
                let (at, values) = row?;
                let (key, of, index) = at.value();
                let key = ContentHash::from_bytes(*key);
                for value in values {
                    let variants = match of {
                        0 => contents.measurements.entry(key).or_default(),
                        of => contents.shards_of(&key).entry((key, Shard { index, of })).or_default(),
                    };
                    add(variants, decoded(value?.value()));
                }
            }
            Ok(())
        })?;
        match broken.or(unreadable) {
            Some(error) => Err(self.record(error)),
            None => Ok(contents),
        }
    }

    /// Makes the store hold `contents` and nothing else, in one transaction. Of counts in conflict the first, in the
    /// order of their values, is what the store answers with.
    ///
    /// # Errors
    /// [`StoreError`]; the store is as it was then.
    pub fn replace(&self, contents: &Contents) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut experiments = transaction.open_table(EXPERIMENTS)?;
            let mut measurements = transaction.open_table(MEASUREMENTS)?;
            let mut shards = transaction.open_table(SHARDS)?;
            let mut failures = transaction.open_table(FAILURES)?;
            let mut timeline = transaction.open_table(TIMELINE)?;
            experiments.retain(|_, _| false)?;
            timeline.retain(|_, _| false)?;
            let mut comparisons = transaction.open_table(COMPARISONS)?;
            comparisons.retain(|_, _| false)?;
            let mut engines = transaction.open_table(ENGINES)?;
            engines.retain(|_, _| false)?;
            measurements.retain(|_, _| false)?;
            shards.retain(|_, _| false)?;
            failures.retain(|_, _| false)?;
            let mut retried = transaction.open_table(RETRIED)?;
            retried.retain(|_, _| false)?;
            transaction.delete_multimap_table(CONFLICTS)?;
            let mut conflicts = transaction.open_multimap_table(CONFLICTS)?;
            for (id, record) in &contents.experiments {
                experiments.insert(id.as_str(), encode_experiment(record).as_slice())?;
            }
            for (fingerprint, description) in &contents.engines {
                engines.insert(fingerprint.0, description.as_str())?;
            }
            for (key, counts) in &contents.measurements {
                let mut variants = counts.iter().map(|(counts, engines)| encode_counts(counts, engines));
                if let Some(first) = variants.next() {
                    measurements.insert(key.as_bytes(), first.as_slice())?;
                }
                for other in variants {
                    conflicts.insert((key.as_bytes(), 0, 0), other.as_slice())?;
                }
            }
            for ((key, shard), counts) in contents.shards.iter().chain(&contents.parts) {
                let at = (key.as_bytes(), shard.of, shard.index);
                let mut variants = counts.iter().map(|(counts, engines)| encode_counts(counts, engines));
                if let Some(first) = variants.next() {
                    shards.insert(at, first.as_slice())?;
                }
                for other in variants {
                    conflicts.insert(at, other.as_slice())?;
                }
            }
            for ((experiment, source), comparison) in &contents.comparisons {
                comparisons.insert((experiment.as_str(), source.as_str()), comparison.as_slice())?;
            }
            for ((experiment, unix_ms), sample) in &contents.timeline {
                timeline.insert((experiment.as_str(), *unix_ms), sample.as_slice())?;
            }
            for ((experiment, key), reason) in &contents.failures {
                failures.insert((experiment.as_str(), key.as_bytes()), reason.as_str())?;
            }
            for ((experiment, key), reasons) in &contents.retried {
                let at = (experiment.as_str(), key.as_bytes());
                retried.insert(at, encode_reasons(reasons).as_str())?;
            }
            Ok(())
        })
    }

    /// Whether the program that wrote it last closed it. If not, what was being written when that ended is left out.
    pub fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// Gives space that is not used any more back to the disk. Returns whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; the store is as it was then.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        let path = self.path.clone();
        guarded(&path, || self.database.compact())
    }

    fn read<T>(
        &self,
        body: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.guarded(|| body(&self.database.begin_read()?))
    }

    fn write<T>(
        &self,
        body: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let value = self.guarded(|| {
            let transaction = self.database.begin_write()?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })?;
        self.still_there()?;
        Ok(value)
    }

    /// Calls redb; what failed first is remembered.
    fn guarded<T>(&self, body: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        match quietly(body) {
            Ok(result) => result.map_err(|error| self.failed(error)),
            Err(words) => Err(damaged(&self.path, words)),
        }
    }

    /// Looks whether the store's path still leads to the open file. One without a name is gone once it is closed, so this comes
    /// before anybody hears that something is on disk.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the file was removed or replaced.
    pub fn still_there(&self) -> Result<(), StoreError> {
        match self.place.and_then(|place| place.lost(&self.path)) {
            Some(how) => Err(StoreError::Lost { path: self.path.clone(), how }),
            None => Ok(()),
        }
    }

    /// Remembers what failed first.
    fn failed(&self, error: redb::Error) -> StoreError {
        if let redb::Error::Io(error) = &error {
            let _ = self.cause.set(again(error));
        }
        self.explain(redb_error(&self.path, error))
    }

    /// Says what failed first, if that is known, where `error` is what follows from it.
    pub fn explain(&self, error: StoreError) -> StoreError {
        match (error, self.cause.get()) {
            (StoreError::Redb { error, .. }, Some(cause)) if matches!(*error, redb::Error::PreviousIo) => {
                redb_error(&self.path, redb::Error::Io(again(cause)))
            }
            (error, _) => error,
        }
    }

    fn record(&self, error: UnreadableRecord) -> StoreError {
        StoreError::Record { path: self.path.clone(), error }
    }
}

/// The same error once more.
fn again(error: &io::Error) -> io::Error {
    let code = error.raw_os_error().map(io::Error::from_raw_os_error);
    code.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

/// A look at a file: a database whose changes stay in memory, and whether it was closed by whoever wrote it. Every checksum
/// is compared, so what is read from it is what was written.
fn look(path: &Path) -> Result<(Database, bool), StoreError> {
    let builder = Database::builder;
    let (database, was_closed, sound) = guarded(path, || {
        let was_closed = match builder().open_read_only_with_backend(View::open(path)?) {
            Ok(_) => true,
            Err(DatabaseError::RepairAborted) => false,
            Err(error) => return Err(error),
        };
        // Of one that was not closed everything is compared as it is opened.
        let mut database = builder().set_cache_size(CACHE).create_with_backend(View::open(path)?)?;
        let sound = !was_closed || database.check_integrity()?;
        Ok((database, was_closed, sound))
    })?;
    match sound {
        true => Ok((database, was_closed)),
        false => Err(damaged(path, "a checksum does not match".to_owned())),
    }
}

/// Calls redb, which panics on some files that it did not write so.
fn guarded<T, E: Into<redb::Error>>(
    path: &Path,
    body: impl FnOnce() -> Result<T, E>,
) -> Result<T, StoreError> {
    match quietly(body) {
        Ok(result) => result.map_err(|error| redb_error(path, error)),
        Err(words) => Err(damaged(path, words)),
    }
}

fn damaged(path: &Path, what: String) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what }
}

fn redb_error(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        redb::Error::Corrupted(words) => damaged(path, words),
        error => StoreError::Redb { path: path.to_owned(), error: Box::new(error) },
    }
}

/// A trial's shards, or the record that cannot be read.
fn read_parts(
    shards: &impl ReadableTable<(&'static Key, u32, u32), &'static [u8]>,
    key: &Key,
    of: u32,
) -> Result<Result<BTreeMap<Shard, Evidence>, UnreadableRecord>, redb::Error> {
    let mut parts = BTreeMap::new();
    for row in shards.range((key, of, 0)..=(key, of, u32::MAX))? {
        let (at, value) = row?;
        match decode_counts(value.value()) {
            Ok(part) => drop(parts.insert(Shard { index: at.value().2, of }, part)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(parts))
}

#[cfg(test)]
mod tests {
    use qslm_common::measurement::{Counts, Nll};
    use qslm_search::Tiered;

    use super::*;
    use qslm_testing::experiment;

    fn counts(nll: u64) -> Evidence {
        let counts = Counts { nll: Nll(nll), scored_tokens: 1, ..Counts::zero(2) };
        Evidence { counts, engines: [Fingerprint(nll)].into() }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/store.redb");
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        let experiment = experiment(Tiered::default());
        let record = ExperimentRecord::new(0, 2, 0, experiment);
        let open = |shards: &[(Shard, Evidence)]| Stored::Shards(shards.iter().cloned().collect());
        let shard = |index, of| Shard { index, of };
        {
            let store = Store::open(&path).unwrap();
            store
                .commit(&[
                    Write::Experiment(record.clone()),
                    Write::Shard(a, shard(1, 2), counts(1)),
                    Write::Shard(a, shard(0, 3), counts(2)),
                    Write::Shard(b, shard(0, 2), counts(3)),
                    Write::Failure("x".to_owned(), b, "broke".to_owned()),
                ])
                .unwrap();
            assert_eq!(store.epoch(), 1);
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.epoch(), 2);
        assert_eq!(store.experiments().unwrap(), [record]);
        assert_eq!(store.look_up(&[a], 2).unwrap(), [open(&[(shard(1, 2), counts(1))])]);
        assert_eq!(store.failures("x").unwrap(), BTreeMap::from([(b, "broke".to_owned())]));
        assert!(store.failures("xy").unwrap().is_empty());
        // A measured trial needs no shards.
        store.commit(&[Write::Measurement(a, counts(9))]).unwrap();
        let of_b = open(&[(shard(0, 2), counts(3))]);
        assert_eq!(store.look_up(&[a, b], 2).unwrap(), [Stored::Measured(counts(9)), of_b]);
        assert_eq!(store.look_up(&[a, b], 3).unwrap(), [Stored::Measured(counts(9)), open(&[])]);
        assert_eq!(store.contents().unwrap().shards.len(), 1);
        // Unless somebody races against them.
        let parts = BTreeMap::from([(shard(0, 2), counts(4)), (shard(1, 2), counts(5))]);
        store.commit(&[Write::Measurement(a, counts(9)), Write::Parts(a, parts.clone())]).unwrap();
        assert_eq!(store.parts(&a, 2).unwrap(), parts);
        assert_eq!(store.parts(&a, 3).unwrap(), BTreeMap::new());
        assert_eq!(store.look_up(&[a], 2).unwrap(), [Stored::Measured(counts(9))]);
    }

    #[test]
    fn what_is_joined_is_there_after_reopening_conflicts_included() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        let with = |name: &str, nll: u64| {
            let store = Store::open(&folder.path().join(name)).unwrap();
            let shard = Write::Shard(b, Shard { index: 0, of: 2 }, counts(nll));
            let failure = Write::Failure("x".to_owned(), ContentHash::of(&[nll as u8]), "broke".to_owned());
            let engine = Write::Engine(Fingerprint(nll), format!("engine {nll}"));
            store.commit(&[Write::Measurement(a, counts(nll)), shard, failure, engine]).unwrap();
            store.contents().unwrap()
        };
        let mut joined = with("one", 1);
        joined.join(with("two", 2));
        assert_eq!(joined.conflicts().len(), 2);
        let path = folder.path().join("joined");
        Store::open(&path).unwrap().replace(&joined).unwrap();
        let mut store = Store::open(&path).unwrap();
        assert!(store.was_closed());
        assert_eq!(store.contents().unwrap(), joined);
        assert_eq!(store.look_up(&[a], 1).unwrap(), [Stored::Measured(counts(1))], "the lower of the two");
        assert_eq!(store.failures("x").unwrap().len(), 2);
        let engines = [1, 2].map(|number| (Fingerprint(number), format!("engine {number}")));
        assert_eq!(store.engines().unwrap(), BTreeMap::from(engines));
        store.compact().unwrap();
        assert_eq!(store.contents().unwrap(), joined);
    }

    #[test]
    fn what_a_race_runs_against_is_there_in_a_store_that_was_joined() {
        let folder = tempfile::tempdir().unwrap();
        let float = ContentHash::of(b"float");
        let parts: BTreeMap<_, _> = (0..3).map(|index| (Shard { index, of: 3 }, counts(4))).collect();
        let store = |name: &str, writes: &[Write]| {
            let store = Store::open(&folder.path().join(name)).unwrap();
            store.commit(writes).unwrap();
            store
        };
        let raced =
            store("raced", &[Write::Measurement(float, counts(12)), Write::Parts(float, parts.clone())]);
        let begun = store("begun", &[Write::Shard(float, Shard { index: 1, of: 5 }, counts(2))]);
        let contents = raced.contents().unwrap();
        assert_eq!((contents.shards.len(), contents.parts.len()), (0, 3));
        for (first, second) in [(&raced, &begun), (&begun, &raced)] {
            let mut joined = first.contents().unwrap();
            joined.join(second.contents().unwrap());
            let path = folder.path().join("joined");
            Store::open(&path).unwrap().replace(&joined).unwrap();
            let store = Store::open(&path).unwrap();
            assert_eq!((store.parts(&float, 3).unwrap(), store.contents().unwrap()), (parts.clone(), joined));
        }
    }

    #[test]
    fn a_store_in_use_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let _first = Store::open(&path).unwrap();
        let error = Store::open(&path).err().unwrap().to_string();
        assert!(error.ends_with("store.redb: in use by another process"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "not a database".repeat(1000)).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Redb { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), "not a database".repeat(1000).as_bytes());
    }

    #[test]
    fn tables_of_another_format_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        store
            .write(|transaction| {
                transaction.open_table(META)?.insert("format", 7)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        let error = Store::open(&path).err().unwrap().to_string();
        assert!(error.ends_with("format 7, this version reads format 1"), "{error}");
    }
}
