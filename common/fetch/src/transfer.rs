//! Transfers: bytes of an address into a file, on from where they broke off, and checked.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{StatusCode, Url};

use crate::Progress;
use crate::checksum::{CheckError, Checksum, check_file};
use crate::error::FetchError;
use crate::http::{Answer, Ask, Http, cause};

/// Connections without a single new byte after which a transfer is given up.
const FRUITLESS: u32 = 3;

/// A file to be loaded.
pub(crate) struct Transfer<'a> {
    /// Address, as errors name it.
    pub(crate) address: String,
    /// Where its bytes are.
    pub(crate) url: Url,
    /// Bytes that it has, if that is known before.
    pub(crate) length: Option<u64>,
    /// What it hashes to, if that is known.
    pub(crate) checksum: Option<Checksum>,
    /// Path at which it is put once it is whole and checked.
    pub(crate) place: &'a Path,
    /// Path at which people may put it themselves.
    pub(crate) by_hand: PathBuf,
}

impl Transfer<'_> {
    /// Loads the file unless it is there already. Of several processes one loads and the others wait.
    pub(crate) async fn run(&self, http: &Http, progress: Progress<'_>) -> Result<(), FetchError> {
        let folder = self.place.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder).map_err(|source| write_failed(folder, source))?;
        let lock = with_ending(self.place, "lock");
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _locked = locked.map_err(|source| write_failed(&lock, source))?;
        let loaded = match self.place.is_file() {
            true => Ok(()),
            false => self.load(http, progress).await,
        };
        // Those who wait hold the file, not its name: where loading failed, whoever comes has to wait behind them.
        if loaded.is_ok() {
            let _ = std::fs::remove_file(&lock);
        }
        loaded
    }

    async fn load(&self, http: &Http, progress: Progress<'_>) -> Result<(), FetchError> {
        let part = with_ending(self.place, "incomplete");
        let failed = |source| write_failed(&part, source);
        loop {
            // Not truncated: it goes on from there.
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&part);
            let mut file = file.map_err(failed)?;
            let before = self.begin(&mut file).map_err(failed)?;
            self.receive(http, &mut file, &part, progress).await?;
            file.sync_all().map_err(failed)?;
            match self.check(&part) {
                Ok(()) => break,
                Err(error) => {
                    let _ = std::fs::remove_file(&part);
                    // What was there before may have been of another file.
                    if before == 0 {
                        return Err(error.of(self.address.clone()));
                    }
                }
            }
        }
        std::fs::rename(&part, self.place).map_err(|source| write_failed(self.place, source))
    }

    /// Goes to the end of what is there, and says how much that is.
    fn begin(&self, file: &mut File) -> io::Result<u64> {
        let there = file.metadata()?.len();
        if self.length.is_some_and(|length| there > length) {
            file.set_len(0)?;
        }
        file.seek(SeekFrom::End(0))
    }

    /// Receives until all is here, by as many connections as it takes.
    async fn receive(
        &self,
        http: &Http,
        file: &mut File,
        part: &Path,
        progress: Progress<'_>,
    ) -> Result<(), FetchError> {
        let failed = |source| write_failed(part, source);
        let mut fruitless = 0;
        loop {
            let here = file.stream_position().map_err(failed)?;
            if here > 0 && self.length == Some(here) {
                return Ok(());
            }
            let answer = http.ask(&self.url, Ask::From(here)).await.map_err(|why| self.unreachable(why))?;
            let here = match (answer.status(), start_of(&answer)) {
                (StatusCode::PARTIAL_CONTENT, Some(start)) if start == here => here,
                // From the beginning, whatever was asked for; or nothing, for what is here is of another file.
                (StatusCode::OK, _) => restart(file).map_err(failed)?,
                (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT, _) if here > 0 => {
                    restart(file).map_err(failed)?;
                    continue;
                }
                _ => return Err(self.refused(&answer)),
            };
            let of = length_of(&answer).map(|length| here + length);
            if let (Some(wanted), Some(actual)) = (self.length, of.filter(|of| Some(*of) != self.length)) {
                return Err(CheckError::Length { wanted, actual }.of(self.address.clone()));
            }
            let mut response = answer.response;
            let mut got = here;
            let broke = loop {
                match response.chunk().await {
                    Ok(Some(piece)) => {
                        file.write_all(&piece).map_err(failed)?;
                        got += piece.len() as u64;
                        progress(got, of.or(self.length));
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(cause(&error)),
                }
            };
            let Some(why) = broke else { return Ok(()) };
            fruitless = if got > here { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS {
                return Err(self.unreachable(why));
            }
        }
    }

    fn check(&self, part: &Path) -> Result<(), CheckError> {
        let actual = std::fs::metadata(part).map_err(CheckError::Io)?.len();
        if let Some(wanted) = self.length.filter(|wanted| *wanted != actual) {
            return Err(CheckError::Length { wanted, actual });
        }
        self.checksum.as_ref().map_or(Ok(()), |wanted| check_file(part, wanted))
    }

    /// The failure that a file is nowhere to be had, with what helps.
    pub(crate) fn unreachable(&self, reason: String) -> FetchError {
        let mut url = self.url.clone();
        url.set_query(None);
        let (address, place) = (self.address.clone(), self.by_hand.clone());
        FetchError::Unreachable { address, reason, url: url.to_string(), place }
    }

    fn refused(&self, answer: &Answer) -> FetchError {
        let (address, status) = (self.address.clone(), answer.status());
        match status.as_u16() {
            401 | 403 => FetchError::NotAllowed { address, reason: format!("the server answers {status}") },
            404 | 410 => FetchError::NotFound { address, reason: format!("the server answers {status}") },
            _ => self.unreachable(format!("the server answers {status}")),
        }
    }
}

fn restart(file: &mut File) -> io::Result<u64> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))
}

/// First byte of a partial answer: that of `bytes 5-9/10`.
fn start_of(answer: &Answer) -> Option<u64> {
    let range = answer.response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Bytes that an answer brings.
fn length_of(answer: &Answer) -> Option<u64> {
    answer.response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(crate) fn write_failed(path: &Path, source: io::Error) -> FetchError {
    FetchError::Write { path: path.to_owned(), source }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
