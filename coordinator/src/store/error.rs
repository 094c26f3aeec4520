//! Errors of a store: each names the file and keeps what was found.

use std::io;
use std::path::{Path, PathBuf};

use super::file_id::Lost;
use super::record::UnreadableRecord;
use super::tables::FORMAT;

/// Reason why a store cannot be used.
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
        /// The kind of record, its version and the reason.
        #[source]
        error: UnreadableRecord,
    },
    /// Bytes of the file that are not as they were written.
    #[error("{path}: the store is damaged ({what}); go on with a copy of it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The finding of redb.
        what: String,
    },
    /// A failure of the file or disk.
    #[error("{path}: {error}")]
    Redb {
        /// The file.
        path: PathBuf,
        /// The words of redb.
        #[source]
        error: Box<redb::Error>,
    },
    /// A folder that cannot be made or read: that of the file, or the one beside it.
    #[error("{path}: {error}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The words of the system.
        #[source]
        error: io::Error,
    },
    /// A file without its name: what is written to it would be lost.
    #[error("{path}: the store was {how} while it was open: what is written now would be lost")]
    Lost {
        /// The path by which the file was opened.
        path: PathBuf,
        /// The fate of the name.
        how: Lost,
    },
}

/// Reason why a read transaction gave no value: the file, or one record in it.
#[derive(Debug)]
pub(super) enum ReadError {
    Redb(redb::Error),
    Record(UnreadableRecord),
}

impl From<UnreadableRecord> for ReadError {
    fn from(error: UnreadableRecord) -> Self {
        Self::Record(error)
    }
}

impl From<redb::TransactionError> for ReadError {
    fn from(error: redb::TransactionError) -> Self {
        Self::Redb(error.into())
    }
}

impl From<redb::TableError> for ReadError {
    fn from(error: redb::TableError) -> Self {
        Self::Redb(error.into())
    }
}

impl From<redb::StorageError> for ReadError {
    fn from(error: redb::StorageError) -> Self {
        Self::Redb(error.into())
    }
}

pub(super) fn damaged(path: &Path, what: String) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what }
}

/// An error of redb, sorted: a file in use and a damaged file have variants of their own.
pub(super) fn redb_error(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        redb::Error::Corrupted(words) => damaged(path, words),
        error => StoreError::Redb { path: path.to_owned(), error: Box::new(error) },
    }
}
