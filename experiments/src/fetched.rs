//! Inputs by address: what people name on the Hub or the web becomes a file here before anything reads it.
//!
//! A flag or a key that names a checkpoint, a tokenizer or data may hold an address in the place of a path. It is found at the
//! beginning of a command, so all that follows has a file, and knows no addresses but as the origin of one. Files that belong
//! together come together: the pieces of an index, the merges of a vocabulary.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use qslm_fetch::{Address, FetchError, Found, HubFile, Settings, fetch};
use qslm_report::words::bytes;

use crate::exit::{Exit, Failure, Outcome};
use crate::progress::{LINE_EVERY, bar, is_shown};

/// Files that were found by address, with the addresses that lead to the same bytes again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched(Vec<(PathBuf, String)>);

impl Fetched {
    /// Adds what else was found.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Origin of a file, if it was found by address.
    pub fn origin(&self, file: &Path) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == file).map(|(_, origin)| origin.as_str())
    }
}

/// True for an address, or what looks like one.
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !matches!(Address::parse(text), Ok(None)))
}

/// Puts a file in the place of each address. Paths stay as they are.
///
/// # Errors
/// One line that names the address, and says what to fetch by hand where nothing can be loaded.
pub fn find<'a>(paths: impl IntoIterator<Item = &'a mut PathBuf>) -> Outcome<Fetched> {
    let mut fetched = Fetched::default();
    for path in paths {
        if let Some(Found { path: file, origin, .. }) = find_one(path)? {
            fetched.0.extend(origin.map(|origin| (file.clone(), origin)));
            *path = file;
        }
    }
    Ok(fetched)
}

/// The file that an address leads to; `None` for a path.
fn find_one(path: &Path) -> Outcome<Option<Found>> {
    let Some(address) = path.to_str().map(Address::parse).transpose()?.flatten() else { return Ok(None) };
    let settings = Settings::from_env();
    let found = load(&address, &settings)?;
    if let (Address::Hub(file), Some(origin)) = (&address, &found.origin) {
        let here = Address::parse(origin)?;
        // The same commit, whatever the branch is at by now.
        let file = match &here {
            Some(Address::Hub(here)) => here,
            _ => file,
        };
        load_companions(file, &found.path, &settings)?;
    }
    Ok(Some(found))
}

/// Loads a file, and shows how far it is.
fn load(address: &Address, settings: &Settings) -> Result<Found, FetchError> {
    let mut shown = Shown::new(address);
    let found = fetch(address, settings, &mut |here, of| shown.show(here, of));
    shown.finish();
    if let Ok(Found { note: Some(note), .. }) = &found {
        tracing::warn!("{note}");
    }
    found
}

/// Loads what belongs to a file of the Hub and lies beside it there.
fn load_companions(file: &HubFile, path: &Path, settings: &Settings) -> Outcome {
    let beside = |name: &str| {
        let folder = file.file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        file.beside(format!("{folder}{name}")).map(Address::Hub)
    };
    if file.file.ends_with(INDEX) {
        let pieces = pieces(path).map_err(|error| Failure::file(path, &error))?;
        for piece in pieces.iter().filter_map(|piece| beside(piece)) {
            load(&piece, settings)?;
        }
    }
    if file.file.rsplit('/').next() == Some("vocab.json")
        && let Some(merges) = beside("merges.txt")
    {
        match load(&merges, settings) {
            // A list of characters has none. Where they are missed, whoever reads the vocabulary says so.
            Err(FetchError::NotFound { .. } | FetchError::Unreachable { .. }) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// End of the name of a checkpoint's index.
const INDEX: &str = ".safetensors.index.json";

/// Names of the files of an index, each once. One that cannot be understood names none: whoever loads it says why.
fn pieces(index: &Path) -> io::Result<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(index)?).unwrap_or_default();
    let map = index["weight_map"].as_object();
    let files = map.into_iter().flat_map(|map| map.values()).filter_map(|file| file.as_str());
    let mut files: Vec<String> = files.map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let code = match &error {
            FetchError::Malformed { .. } => Exit::Usage,
            FetchError::NotFound { .. } => Exit::NotFound,
            FetchError::NotAllowed { .. } => Exit::NotAllowed,
            FetchError::Unreachable { .. } => Exit::Unavailable,
            _ => Exit::Failure,
        };
        Self::new(code, error)
    }
}

/// What people see of a transfer: a bar on a terminal, a line now and then elsewhere, nothing of one that is short.
struct Shown {
    name: String,
    bar: Option<ProgressBar>,
    since: Instant,
    lines: u32,
}

/// Time after which a transfer is worth a bar.
const SHORT: Duration = Duration::from_millis(300);

impl Shown {
    fn new(address: &Address) -> Self {
        let name = match address {
            Address::Hub(file) => file.to_string(),
            Address::Web(file) => file.to_string(),
            Address::Local { path, .. } => path.display().to_string(),
        };
        Self { name, bar: None, since: Instant::now(), lines: 0 }
    }

    fn show(&mut self, here: u64, of: Option<u64>) {
        let elapsed = self.since.elapsed();
        if self.bar.is_none() && elapsed >= SHORT {
            self.bar =
                bar("[{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}  {wide_msg}");
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(of.unwrap_or(here));
                bar.set_position(here);
                bar.set_message(self.name.clone());
            }
            None if is_shown() && elapsed >= LINE_EVERY * (self.lines + 1) => {
                self.lines = (elapsed.as_secs() / LINE_EVERY.as_secs()) as u32;
                let of = of.map_or(String::new(), |of| format!(" of {}", bytes(of)));
                qslm_program::say(format_args!("{}: {}{of}", self.name, bytes(here)));
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_what_it_is() {
        let mut paths = [PathBuf::from("model.pth"), PathBuf::from("bytes"), PathBuf::from("/a:b/c")];
        let before = paths.clone();
        assert_eq!(find(&mut paths).unwrap(), Fetched::default());
        assert_eq!(paths, before);
        assert!(is_address(Path::new("hf://a/b/c")) && is_address(Path::new("hf://a")));
        assert!(!is_address(Path::new("a/b/c.pth")));
    }

    #[test]
    fn an_index_names_each_of_its_files_once() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(
            &index,
            r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(pieces(&index).unwrap(), ["1.safetensors", "2.safetensors"]);
        std::fs::write(&index, "[]").unwrap();
        assert!(pieces(&index).unwrap().is_empty());
    }
}
