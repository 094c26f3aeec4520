//! Copy-on-write view of a store's file: what is changed of it stays in memory.
//!
//! So a file that may not be written to can be read like any other, a write that was not finished can be looked past, and
//! a damaged file is as it was after everything that was tried with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// Bytes that are kept together.
const BLOCK: u64 = 4096;

/// The file, with the changes on top of it.
#[derive(Debug)]
pub(super) struct View {
    file: FileBackend,
    changes: Mutex<Changes>,
}

/// Changes against the file.
#[derive(Debug)]
struct Changes {
    /// Bytes of the whole.
    length: u64,
    /// Bytes of the file that show; what is beyond is zero.
    of_file: u64,
    /// Blocks by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl View {
    /// Opens a file that has to be there.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let file = FileBackend::new(File::open(path)?)?;
        let length = file.len()?;
        let changes = Changes { length, of_file: length, blocks: BTreeMap::new() };
        Ok(Self { file, changes: Mutex::new(changes) })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // What a panic interrupted is thrown away.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_into(&self, changes: &Changes, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let shown = changes.of_file.saturating_sub(offset).min(out.len() as u64) as usize;
        if shown > 0 {
            self.file.read(offset, &mut out[..shown])?;
        }
        out[shown..].fill(0);
        let end = offset + out.len() as u64;
        for (number, block) in changes.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let (from, to) = (start.max(offset), (start + BLOCK).min(end));
            let part = &block[(from - start) as usize..(to - start) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(())
    }
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= changes.length);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read_into(&changes, offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut changes = self.changes();
        changes.length = length;
        changes.of_file = changes.of_file.min(length);
        changes.blocks.retain(|number, _| number * BLOCK < length);
        // Of the last block nothing may come back when the whole grows again.
        if let Some(block) = changes.blocks.get_mut(&(length / BLOCK)) {
            block[(length % BLOCK) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        let end = offset + data.len() as u64;
        changes.length = changes.length.max(end);
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            if !changes.blocks.contains_key(&number) {
                let mut block = vec![0; BLOCK as usize];
                self.read_into(&changes, start, &mut block)?;
                changes.blocks.insert(number, block);
            }
            let (from, to) = (start.max(offset), (start + BLOCK).min(end));
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            if let Some(block) = changes.blocks.get_mut(&number) {
                block[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    // Whoever looks keeps others from writing, but nobody from looking as well.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        // Only a program that writes is in the way of one that looks, and that one holds what is tried above.
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Length(usize),
        Write(usize, Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let write = (0usize..12_000, prop::collection::vec(1u8..=255, 1..6000));
        prop_oneof![
            (0usize..14_000).prop_map(Step::Length),
            write.prop_map(|(at, bytes)| Step::Write(at, bytes))
        ]
    }

    proptest! {
        #[test]
        fn it_reads_like_a_file_that_was_written_to_and_the_file_stays(
            file in prop::collection::vec(any::<u8>(), 0..13_000),
            steps in prop::collection::vec(step(), 0..8),
            probe in (0usize..14_000, 0usize..9000),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            std::fs::write(&path, &file).unwrap();
            let view = View::open(&path).unwrap();
            let mut expected = file.clone();
            for step in steps {
                match step {
                    Step::Length(length) => {
                        view.set_len(length as u64).unwrap();
                        expected.resize(length, 0);
                    }
                    Step::Write(at, bytes) => {
                        view.write(at as u64, &bytes).unwrap();
                        let end = at + bytes.len();
                        expected.resize(expected.len().max(end), 0);
                        expected[at..end].copy_from_slice(&bytes);
                    }
                }
            }
            prop_assert_eq!(view.len().unwrap(), expected.len() as u64);
            let mut whole = vec![7; expected.len()];
            view.read(0, &mut whole).unwrap();
            prop_assert!(whole == expected);
            let (at, length) = probe;
            let mut part = vec![7; length];
            let read = view.read(at as u64, &mut part);
            prop_assert_eq!(read.is_ok(), at + length <= expected.len());
            if read.is_ok() {
                prop_assert!(part == expected[at..at + length]);
            }
            prop_assert!(std::fs::read(&path).unwrap() == file);
        }
    }
}
