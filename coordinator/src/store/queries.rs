//! Queries of a store: each is one read transaction.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Evidence, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::{Made, WorkKey};
use qslm_report::{Comparison, Sample};
use qslm_search::{OnRecord, Tell};
use redb::{ReadableTable, ReadableTableMetadata};

use super::database::Store;
use super::error::{ReadError, StoreError};
use super::record::{
    Event, ExperimentRecord, decode_comparison, decode_counts, decode_event, decode_experiment, decode_made,
    decode_reasons, decode_sample, decode_tell,
};
use super::tables::{
    BINDINGS, COMPARISONS, ENGINES, EVENTS, EXPERIMENTS, FAILURES, JOBS, Key, MADE, MEASUREMENTS, PRUNES,
    RETRIED, SHARDS, ShardKey, TELLS, TIMELINE,
};

impl Store {
    /// Records of all experiments, in the order of their submission.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn experiments(&self) -> Result<Vec<ExperimentRecord>, StoreError> {
        let mut records = self.read(|transaction| {
            let mut records = Vec::new();
            for row in transaction.open_table(EXPERIMENTS)?.iter()? {
                records.push(decode_experiment(row?.1.value())?);
            }
            Ok(records)
        })?;
        // Stores that were joined may have given the same place twice.
        records.sort_by_cached_key(|record| (record.order, record.experiment.id()));
        Ok(records)
    }

    /// The states of trials, each of which would be cut into `of` shards.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn look_up(&self, keys: &[TrialKey], of: u32) -> Result<Vec<OnRecord>, StoreError> {
        self.read(|transaction| {
            let mut found = Vec::with_capacity(keys.len());
            let measurements = transaction.open_table(MEASUREMENTS)?;
            let shards = transaction.open_table(SHARDS)?;
            let none_open = shards.is_empty()?;
            for key in keys.iter().map(TrialKey::as_bytes) {
                if let Some(counts) = measurements.get(key)? {
                    found.push(OnRecord::Measured(decode_counts(counts.value())?));
                    continue;
                }
                // Most trials are new, and most stores have no shards at all.
                let settled = if none_open { BTreeMap::new() } else { read_shards(&shards, key, of)? };
                found.push(OnRecord::Shards(settled));
            }
            Ok(found)
        })
    }

    /// The shard results of a trial, as far as they are on record: also of a measured one, if they were kept.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read, or a record in it.
    pub fn shard_results(&self, key: &TrialKey, of: u32) -> Result<BTreeMap<Shard, Evidence>, StoreError> {
        self.read(|transaction| read_shards(&transaction.open_table(SHARDS)?, key.as_bytes(), of))
    }

    /// The artifacts that jobs made, as far as they are on record.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn made(&self, keys: &[JobKey]) -> Result<BTreeMap<JobKey, Made>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(MADE)?;
            let mut found = BTreeMap::new();
            for key in keys {
                if let Some(record) = table.get(key.as_bytes())? {
                    found.insert(*key, decode_made(record.value())?);
                }
            }
            Ok(found)
        })
    }

    /// The artifacts that jobs gave an experiment.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn bindings(&self, experiment: &str) -> Result<BTreeMap<JobKey, ContentHash>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(BINDINGS)?;
            let mut bindings = BTreeMap::new();
            for row in table.range((experiment, &[0; 32])..=(experiment, &[255; 32]))? {
                let (at, artifact) = row?;
                let job = JobKey::from_bytes(*at.value().1);
                bindings.insert(job, ContentHash::from_bytes(*artifact.value()));
            }
            Ok(bindings)
        })
    }

    /// The trials and jobs of an experiment that failed for good, with the reasons.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn failures(&self, experiment: &str) -> Result<BTreeMap<WorkKey, String>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(FAILURES)?;
            let jobs = transaction.open_table(JOBS)?;
            let mut failures = BTreeMap::new();
            for row in table.range((experiment, &[0; 32])..=(experiment, &[255; 32]))? {
                let (at, reason) = row?;
                let key = at.value().1;
                // Every job that was asked for has its text on record.
                let work = match jobs.get(key)? {
                    Some(_) => JobKey::from_bytes(*key).into(),
                    None => TrialKey::from_bytes(*key).into(),
                };
                failures.insert(work, reason.value().to_owned());
            }
            Ok(failures)
        })
    }

    /// The number of failures of an experiment's trials that were opened again.
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

    /// What an experiment was told from outside, in order.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn tells(&self, experiment: &str) -> Result<Vec<Tell>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(TELLS)?;
            let rows = table.range((experiment, 0)..=(experiment, u64::MAX))?;
            rows.map(|row| Ok(decode_tell(row?.1.value())?)).collect()
        })
    }

    /// The candidates of an experiment that somebody outside told to prune.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn prunes(&self, experiment: &str) -> Result<BTreeSet<CandidateId>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(PRUNES)?;
            let rows = table.range((experiment, &[0; 32])..=(experiment, &[255; 32]))?;
            rows.map(|row| Ok(CandidateId::from_bytes(*row?.0.value().1))).collect()
        })
    }

    /// The timeline of an experiment, by rising time.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn timeline(&self, experiment: &str) -> Result<Vec<Sample>, StoreError> {
        self.read(|transaction| {
            let mut samples = Vec::new();
            for row in transaction.open_table(TIMELINE)?.range((experiment, 0)..=(experiment, u64::MAX))? {
                samples.push(decode_sample(row?.1.value())?);
            }
            Ok(samples)
        })
    }

    /// The points of other tools, by source.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn comparisons(&self, experiment: &str) -> Result<Vec<Comparison>, StoreError> {
        self.read(|transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(COMPARISONS)?.range((experiment, "")..)? {
                let (at, value) = row?;
                if at.value().0 != experiment {
                    break;
                }
                found.push(decode_comparison(value.value())?);
            }
            Ok(found)
        })
    }

    /// The last events, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn events(&self) -> Result<Vec<Event>, StoreError> {
        self.read(|transaction| {
            let rows = transaction.open_table(EVENTS)?;
            let event = |row: Result<_, redb::StorageError>| {
                let (number, record): (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>) = row?;
                Ok(decode_event(number.value(), record.value())?)
            };
            rows.iter()?.map(event).collect()
        })
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
}

/// The counts of a trial's shards.
fn read_shards(
    shards: &impl ReadableTable<ShardKey<'static>, &'static [u8]>,
    key: &Key,
    of: u32,
) -> Result<BTreeMap<Shard, Evidence>, ReadError> {
    let mut found = BTreeMap::new();
    for row in shards.range((key, of, 0)..=(key, of, u32::MAX))? {
        let (at, value) = row?;
        found.insert(Shard { index: at.value().2, of }, decode_counts(value.value())?);
    }
    Ok(found)
}
