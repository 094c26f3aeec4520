//! A disk for tests, in memory: it keeps what was synced, and when the power fails, of what was written since then
//! whatever it likes.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;

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
struct State {
    /// Bytes that reading sees.
    live: Vec<u8>,
    /// Bytes that survive for certain.
    synced: Vec<u8>,
    /// Changes that may survive.
    since: Vec<Change>,
    /// Operations until the power fails for good.
    left: Option<u32>,
    /// True once it has.
    dead: bool,
    /// Times that [`Disk::mark`] was called.
    marks: usize,
    /// Images that a failure would have left at each point in time, with the marks by then.
    images: Vec<(usize, Vec<u8>)>,
    /// Chance, where the power fails at every point in time.
    rng: Option<ChaCha8Rng>,
}

impl State {
    /// An operation has begun; fails if the power has.
    fn begin(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            self.dead |= *left == 0;
        }
        if self.dead { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.begin()?;
        change.apply(&mut self.live);
        self.since.push(change);
        self.note_image();
        Ok(())
    }

    fn note_image(&mut self) {
        if let Some(mut rng) = self.rng.take() {
            self.images.push((self.marks, self.left_over(&mut rng)));
            self.rng = Some(rng);
        }
    }

    /// The image that is left if the power fails now: of the changes since the last sync some have reached the disk.
    fn left_over(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut image = self.synced.clone();
        for change in self.since.iter().filter(|_| rng.random_range(0..2) == 0) {
            change.apply(&mut image);
        }
        image
    }
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// A disk that holds a file.
    pub(crate) fn holding(file: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { live: file.clone(), synced: file, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes after every operation from now on what a loss of power would leave.
    pub(super) fn fail_always(&self, rng: ChaCha8Rng) {
        self.state().rng = Some(rng);
    }

    /// Marks a point in time.
    pub(super) fn mark(&self) {
        self.state().marks += 1;
    }

    /// Images that losses of power would have left, each with the number of marks by then.
    pub(super) fn images(&self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.state().images)
    }

    /// The power fails in so many operations.
    pub(crate) fn fail_in(&self, operations: u32) {
        self.state().left = Some(operations);
    }

    /// The image on the disk after the process died: all that it wrote.
    pub(crate) fn after_kill(&self) -> Vec<u8> {
        self.state().live.clone()
    }

    /// The image on the disk after the power failed: all that was synced, and some of the rest.
    pub(crate) fn after_power_loss(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        self.state().left_over(rng)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = offset as usize;
        let bytes = state.live.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state().change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        for change in std::mem::take(&mut state.since) {
            change.apply(&mut state.synced);
        }
        state.note_image();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state().change(Change::Bytes(offset as usize, data.to_vec()))
    }
}
