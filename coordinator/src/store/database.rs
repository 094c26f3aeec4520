//! The open redb file: how it is opened, looked at and guarded, and what every transaction goes through.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use qslm_program::quietly;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::contents::Contents;
use super::error::{ReadError, StoreError, damaged, redb_error};
use super::file_id::FileId;
use super::record::UnreadableRecord;
use super::tables::{FORMAT, META};
use super::view::View;
use super::whole::{make_tables, read_all, write_all};

/// Bytes of the file that are kept in memory. A batch touches a page per result, since results lie in the order of
/// their hashes, and the operating system keeps the rest.
const CACHE: usize = 128 << 20;
/// The same of a copy, whose rows are written in their order.
const CACHE_OF_COPY: usize = 16 << 20;

/// An open store. Only one process can have it open, or any number that only read it.
pub struct Store {
    database: Database,
    path: PathBuf,
    epoch: u64,
    /// The file that was opened, by device and number.
    file_id: Option<FileId>,
    /// The first failure. After that redb says only that there was one.
    cause: OnceLock<io::Error>,
    was_closed: bool,
}

impl Store {
    /// Everything in the store.
    ///
    /// # Errors
    /// [`StoreError`] if the file or a record cannot be read.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        self.read(read_all)
    }

    /// Makes the store hold `contents` and nothing else. Of counts in conflict the first, in the order of their values, is
    /// what the store answers with.
    ///
    /// # Errors
    /// [`StoreError`]; the store is as it was then.
    pub fn replace(&self, contents: &Contents) -> Result<(), StoreError> {
        self.write(|transaction| write_all(transaction, contents))
    }

    /// Opens a store, making it if it is not there. One that is damaged is left as it is.
    ///
    /// # Errors
    /// [`StoreError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // Its contents are looked at before anything is written to it.
        let there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        let was_closed = !there || look(path)?.1;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        }
        let database = guarded(path, || Database::builder().set_cache_size(CACHE).create(path))?;
        let file_id = std::fs::metadata(path).ok().and_then(|metadata| FileId::of(&metadata));
        let mut store = Self { file_id, ..Self::new(path, database, was_closed) };
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

    /// A store in an empty file, which errors call `path`.
    pub(super) fn in_file(file: File, path: &Path) -> Result<Self, StoreError> {
        let database = guarded(path, || {
            Database::builder().set_cache_size(CACHE_OF_COPY).create_with_backend(FileBackend::new(file)?)
        })?;
        let mut store = Self::new(path, database, true);
        store.begin_epoch()?;
        Ok(store)
    }

    fn new(path: &Path, database: Database, was_closed: bool) -> Self {
        Self { database, path: path.to_owned(), epoch: 0, was_closed, file_id: None, cause: OnceLock::new() }
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
            make_tables(transaction)?;
            Ok(epoch)
        })?;
        if found != FORMAT {
            return Err(StoreError::Format { path, found });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Number of times that the store has been opened, this one included. Two coordinators never share it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Path of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if the program that wrote it last closed it. If not, what was being written when that ended is left out.
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

    /// A read transaction.
    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let read = self.guarded(|| match body(&self.database.begin_read()?) {
            Ok(value) => Ok(Ok(value)),
            Err(ReadError::Record(error)) => Ok(Err(error)),
            Err(ReadError::Redb(error)) => Err(error),
        })?;
        read.map_err(|error| self.record(error))
    }

    /// A write transaction: on return it is on disk, under the path by which the store was opened.
    pub(super) fn write<T>(
        &self,
        body: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
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

    /// A call of redb; the first failure is remembered.
    fn guarded<T>(&self, body: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        match quietly(body) {
            Ok(result) => result.map_err(|error| self.failed(error)),
            Err(words) => Err(damaged(&self.path, words)),
        }
    }

    /// Looks whether the store's path still leads to the open file. One without a name is gone once it is
    /// closed, so this comes before anything that is on disk is acknowledged.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the file was removed or replaced.
    pub fn still_there(&self) -> Result<(), StoreError> {
        match self.file_id.and_then(|file_id| file_id.lost(&self.path)) {
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
