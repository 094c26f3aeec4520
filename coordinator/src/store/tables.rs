//! Tables of the redb file: names, keys and values. `whole` lists them all in one table of tables.

use redb::{MultimapTableDefinition, TableDefinition};

/// The bytes of a trial's key.
pub(super) type Key = [u8; 32];

/// A trial's key, the number of its shards, and the index of one.
pub(super) type ShardKey<'a> = (&'a Key, u32, u32);

/// `format`: version of the tables. `epoch`: how often a coordinator has opened the file.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Experiment id to its record.
pub(super) const EXPERIMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("experiments");
/// Trial key to the counts of the whole data.
pub(super) const MEASUREMENTS: TableDefinition<&Key, &[u8]> = TableDefinition::new("measurements");
/// Counts of single shards: of open trials as they are settled, and of measured ones that others race against.
pub(super) const SHARDS: TableDefinition<ShardKey<'static>, &[u8]> = TableDefinition::new("shards");
/// Experiment id and the key of a trial or job to the reason of a final failure.
pub(super) const FAILURES: TableDefinition<(&str, &Key), &str> = TableDefinition::new("failures");
/// Failures that were opened again, the first one first, a line each.
pub(super) const RETRIED: TableDefinition<(&str, &Key), &str> = TableDefinition::new("retried");
/// Experiment id and milliseconds since 1970 to the progress by then. Only what people are shown depends on it, so stores
/// without it are as good.
pub(super) const TIMELINE: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("timeline");
/// Experiment id and source to points of another tool, which people compare with.
pub(super) const COMPARISONS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("comparisons");
/// The fingerprint of an engine to its description. Records name engines by their fingerprints.
pub(super) const ENGINES: TableDefinition<u64, &str> = TableDefinition::new("engines");
/// Job key to the job's canonical text.
pub(super) const JOBS: TableDefinition<&Key, &str> = TableDefinition::new("jobs");
/// Job key to the artifact that it made.
pub(super) const MADE: TableDefinition<&Key, &[u8]> = TableDefinition::new("made");
/// Artifacts that somebody else made of a job of [`MADE`].
pub(super) const MADE_CONFLICTS: MultimapTableDefinition<&Key, &[u8]> =
    MultimapTableDefinition::new("made_conflicts");
/// Binding: experiment id and job key to the hash of the artifact that the job gave the experiment. It stays the same
/// whatever else comes to be on record of the job.
pub(super) const BINDINGS: TableDefinition<(&str, &Key), &Key> = TableDefinition::new("bindings");
/// Experiment id and number, from 1, to the generation that the experiment was told under it.
pub(super) const TELLS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("tells");
/// Experiment id and the id of a candidate that somebody outside told to prune.
pub(super) const PRUNES: TableDefinition<(&str, &Key), ()> = TableDefinition::new("prunes");
/// Number to one of the last [`KEPT_EVENTS`] events. Only what people are shown depends on it, as on [`TIMELINE`].
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// Counts that another store had for a trial (shards and index 0) or one of its shards (as in [`SHARDS`]).
pub(super) const CONFLICTS: MultimapTableDefinition<ShardKey<'static>, &[u8]> =
    MultimapTableDefinition::new("conflicts");

/// Events that are kept: a later one takes the place of the oldest.
pub const KEPT_EVENTS: usize = 200;

/// Version of the tables above.
pub(super) const FORMAT: u64 = 1;
