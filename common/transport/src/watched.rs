//! A value made of files, made anew when they change: certificates and tokens are rotated under a running program.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time between two looks at the files, at least.
const OFTEN: Duration = Duration::from_secs(1);

/// The value and where it comes from.
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    looked: Instant,
    stamps: Vec<Stamp>,
}

/// Stamp that tells one state of a file from another. A secret that Kubernetes rotates is a link to another file, which has
/// another time.
type Stamp = Option<(SystemTime, u64)>;

impl<T> Watched<T> {
    /// Makes the value of the files at `paths`.
    ///
    /// # Errors
    /// As `make`.
    pub fn new(
        paths: impl IntoIterator<Item = PathBuf>,
        make: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let paths: Vec<_> = paths.into_iter().collect();
        let stamps = stamps(&paths);
        let value = Arc::new(make()?);
        let state = Mutex::new(State { value, looked: Instant::now(), stamps });
        Ok(Self { paths, make: Box::new(make), state })
    }

    /// The value as the files are, or were a second ago. If they make no sense now, the value stays as it was, and the
    /// log says so: a half-finished rotation locks nobody out.
    pub fn get(&self) -> Arc<T> {
        self.get_at(Instant::now())
    }

    fn get_at(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.looked) >= OFTEN {
            state.looked = now;
            let stamps = stamps(&self.paths);
            if stamps != state.stamps {
                match (self.make)() {
                    Ok(value) => {
                        state.value = Arc::new(value);
                        tracing::info!(files = ?self.paths, "read again");
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, "a changed file cannot be used; what it said before stays");
                    }
                }
                state.stamps = stamps;
            }
        }
        state.value.clone()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(|path| stamp(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let file = path.clone();
        let number = move || Ok(std::fs::read_to_string(&file)?.trim().parse::<u32>()?);
        let watched = Watched::new([path.clone()], number).unwrap();
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(*watched.get_at(later(2)), 1);
        std::fs::write(&path, "22").unwrap();
        assert_eq!(*watched.get_at(later(4)), 22);
        std::fs::write(&path, "three").unwrap();
        assert_eq!(*watched.get_at(later(6)), 22);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get_at(later(8)), 22);
        std::fs::write(&path, "4444").unwrap();
        assert_eq!(*watched.get_at(later(10)), 4444);
    }

    #[test]
    fn a_file_that_makes_no_sense_at_the_start_is_an_error() {
        assert!(Watched::<()>::new([], || anyhow::bail!("no")).is_err());
    }
}
