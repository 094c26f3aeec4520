//! Loss of power: a disk that keeps what was synced, and of what was written since then whatever it likes.
//!
//! After every operation that redb does on the disk, the power fails. The store that is found then has to hold everything
//! that was acknowledged, and of the commit under way all or nothing.

use std::io;
use std::sync::{Arc, Mutex};

use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::task::Shard;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;

use super::contents::Contents;
use super::database::{Store, Write};

/// One change of the file that is not yet synced.
#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Length(length) => file.resize(*length, 0),
            Self::Bytes(offset, bytes) => {
                // A write may have reached the disk although the growth before it has not.
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(bytes);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    /// What reading sees.
    live: Vec<u8>,
    /// What survives for certain.
    synced: Vec<u8>,
    /// What may survive.
    since: Vec<Change>,
    /// Commits that were acknowledged.
    acknowledged: usize,
    /// What the power left at each point in time, with the commits acknowledged by then.
    images: Vec<(usize, Vec<u8>)>,
    rng: Option<ChaCha8Rng>,
}

impl Disk {
    /// The power fails now: of the changes since the last sync some have reached the disk.
    fn fail(&mut self) {
        let Some(rng) = &mut self.rng else { return };
        let mut image = self.synced.clone();
        for change in &self.since {
            if rng.random_range(0..2) == 0 {
                change.apply(&mut image);
            }
        }
        self.images.push((self.acknowledged, image));
    }
}

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Disk>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn change(&self, change: Change) {
        self.with(|disk| {
            change.apply(&mut disk.live);
            disk.since.push(change);
            disk.fail();
        });
    }

    /// A disk that holds `image` and does not fail any more.
    fn holding(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk { live: image.clone(), synced: image, ..Disk::default() })))
    }
}

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|disk| disk.live.len()) as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|disk| {
            let start = offset as usize;
            let bytes = disk.live.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.synced.clone_from(&disk.live);
            disk.since.clear();
            disk.fail();
        });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Bytes(offset as usize, data.to_vec()));
        Ok(())
    }
}

/// Batches as a coordinator writes them: shards, then the sum that replaces them, and failures.
fn batches() -> Vec<Vec<Write>> {
    let counts = |nll: u64| Counts { nll: Nll(nll), tokens: 1, positions: 1, ..Counts::zero(40) };
    let trial = |number: u64| ContentHash::of(&number.to_le_bytes());
    let mut batches = Vec::new();
    for number in 0..12 {
        let shards = (0..3).map(|index| Write::Shard(trial(number), Shard { index, of: 3 }, counts(number)));
        batches.push(shards.collect());
        batches.push(vec![
            Write::Measurement(trial(number), counts(3 * number)),
            Write::Failure("x".to_owned(), trial(100 + number), "broke ".repeat(50)),
        ]);
    }
    batches
}

#[test]
fn whatever_was_acknowledged_is_there_after_the_power_failed_at_any_point() {
    for seed in 0..3 {
        let disk = Shared::default();
        let store = Store::on(disk.clone()).unwrap();
        // From here on; a store that never opened has nothing to lose.
        disk.with(|disk| disk.rng = Some(ChaCha8Rng::seed_from_u64(seed)));
        let mut expected: Vec<Contents> = vec![store.contents().unwrap()];
        for batch in batches() {
            store.commit(&batch).unwrap();
            disk.with(|disk| disk.acknowledged += 1);
            expected.push(store.contents().unwrap());
        }
        drop(store);
        let images = disk.with(|disk| std::mem::take(&mut disk.images));
        assert!(images.len() > 100, "{} points in time", images.len());
        for (point, (acknowledged, image)) in images.into_iter().enumerate() {
            let what = format!("seed {seed}, point {point}, {acknowledged} commits acknowledged");
            let store = Store::on(Shared::holding(image)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = store.contents().unwrap_or_else(|error| panic!("{what}: {error}"));
            let under_way = expected.get(acknowledged + 1);
            assert!(found == expected[acknowledged] || Some(&found) == under_way, "{what}: {found:?}");
        }
    }
}
