//! Input files as they are read, hashed and sent: without what must not count.
//!
//! A byte-order mark is no text, and how others cut or pad what they feed to a model is no property of a tokenizer. Both are
//! left out by whoever submits, before a file is hashed, so that a hash stays what it was computed from: workers compute
//! what they are sent. A file that has none of it is used in place, under the hash of its own bytes.

mod tokenizer;
mod vocabulary;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qslm_common::hash::ContentHash;
use qslm_common::network::Member;
use qslm_common::task::Task;
use qslm_engine::checkpoint::{Checkpoint, CheckpointError};
use qslm_engine::foreign;
use qslm_program::hash_file;
use tempfile::{NamedTempFile, TempPath};

use crate::exit::{Exit, Failure, Outcome};

/// Byte-order mark that some editors write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file that was named, or a copy of it without what must not count.
#[derive(Debug, Clone)]
pub struct Input {
    named: PathBuf,
    /// Goes away with the last that uses it.
    copy: Option<Arc<TempPath>>,
}

impl From<PathBuf> for Input {
    /// A file as it is.
    fn from(named: PathBuf) -> Self {
        Self { named, copy: None }
    }
}

impl Input {
    /// The text, labelled sentences or questions of a task.
    pub fn data(path: &Path, task: &Task) -> Outcome<Self> {
        let failed = |error: io::Error| Failure::file(path, &error);
        let refuse = |words: String| Failure::new(Exit::Failure, format!("{}: {words}", path.display()));
        let mut lines = Lines::open(path).map_err(failed)?;
        if let Some(foreign) = foreign::recognise(&lines.start).filter(|foreign| !foreign.is_text) {
            return Err(refuse(format!("not a text: it is {}", foreign.what)));
        }
        let (mut line, mut count, mut returns) = (Vec::new(), 0, 0);
        let mut sentences = match task {
            Task::Perplexity { .. } | Task::Choice { .. } => 0,
            Task::Accuracy { sentences } => sentences.unwrap_or(u32::MAX),
        };
        while lines.next(&mut line).map_err(failed)? {
            count += 1;
            returns += usize::from(line.ends_with(b"\r\n"));
            if sentences > 0 && line.trim_ascii_end() != b"" {
                sentences -= 1;
                let columns = 1 + line.iter().filter(|byte| **byte == b'\t').count();
                if columns > 2 {
                    let words =
                        format!("line {count} has {columns} columns: expected 2, `sentence TAB label`");
                    return Err(refuse(words));
                }
            }
        }
        if lines.marked {
            say(path, "a byte-order mark at its beginning is left out");
        }
        // Of a sentence the end of its line is no part.
        if returns > 0 && matches!(task, Task::Perplexity { .. }) {
            let words = "lines end in CRLF: their carriage returns are read as part of the text";
            say(path, &format!("{returns} of {count} {words}"));
        }
        Ok(Self { named: path.to_owned(), copy: lines.copy.map(share) })
    }

    /// A `tokenizer.json`, which neither cuts nor pads, or a vocabulary of another form, which becomes one.
    pub fn tokenizer(path: &Path) -> Outcome<Self> {
        let failed = |error: io::Error| Failure::file(path, &error);
        // What comes out of a pipe is there once, and is a `tokenizer.json`.
        if path.is_file() || !path.exists() {
            let refuse = |words| Failure::new(Exit::Failure, format!("{}: {words}", path.display()));
            if let Some(vocabulary::Converted { json, note }) = vocabulary::convert(path).map_err(refuse)? {
                say(path, &note);
                let copy = Some(share(copy_of(&json).map_err(failed)?));
                return Ok(Self { named: path.to_owned(), copy });
            }
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let (normal, notes) = tokenizer::normal(&bytes);
        notes.iter().for_each(|note| say(path, note));
        let copy = match normal {
            Some(normal) => Some(copy_of(&normal)),
            None if path.is_file() => None,
            // What comes out of a pipe is there once.
            None => Some(copy_of(&bytes)),
        };
        Ok(Self { named: path.to_owned(), copy: copy.transpose().map_err(failed)?.map(share) })
    }

    /// A checkpoint as one file, to be hashed and sent: shards are joined.
    pub fn checkpoint(path: &Path) -> Outcome<Self> {
        let failed = |error: io::Error| Failure::file(path, &error);
        if !Checkpoint::is_sharded(path).map_err(|error| unreadable(path, &error))? {
            return Ok(path.to_owned().into());
        }
        let mut copy = NamedTempFile::new().map_err(failed)?;
        Checkpoint::join(path, &mut copy).map_err(|error| unreadable(path, &error))?;
        Ok(Self { named: path.to_owned(), copy: Some(share(copy)) })
    }

    /// A file that this program made, which goes away with the last that uses it.
    pub fn made(bytes: &[u8]) -> io::Result<Self> {
        let copy = copy_of(bytes)?;
        Ok(Self { named: copy.path().to_owned(), copy: Some(share(copy)) })
    }

    /// The path to read it from.
    pub fn path(&self) -> &Path {
        self.copy.as_ref().map_or(&self.named, |copy| copy)
    }

    /// The hash of what is read.
    pub fn hash(&self) -> Outcome<ContentHash> {
        hash_file(self.path()).map_err(|error| self.failure(&error))
    }

    /// A failure that has to do with it, under the name that people gave.
    pub fn failure(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure::file(&self.named, error)
    }

    /// The name that people gave.
    pub fn named(&self) -> &Path {
        &self.named
    }
}

/// A failure to read a checkpoint: not found if it or a shard of it is not there.
pub fn unreadable(path: &Path, error: &CheckpointError) -> Failure {
    let index = "model.safetensors.index.json";
    let one_of_several = path.with_file_name(index).is_file() && !path.ends_with(index);
    match error {
        CheckpointError::NoShard(_) => Failure::new(Exit::NotFound, format!("{}: {error}", path.display())),
        CheckpointError::Missing(_) if one_of_several => {
            let words =
                format!("{}: {error}: it may be in another file of {index}, name that", path.display());
            Failure::new(Exit::Failure, words)
        }
        other => Failure::file(path, other),
    }
}

/// Reads a checkpoint, and says what was done to the names of its tensors.
pub fn read_checkpoint(path: &Path, member: impl Into<Member>) -> Outcome<Checkpoint> {
    let loaded = Checkpoint::load(path, member).map_err(|error| unreadable(path, &error))?;
    loaded.notes().iter().for_each(|note| say(path, note));
    Ok(loaded)
}

/// A text that people or programs wrote for this one, without a byte-order mark.
pub fn read_text(path: &Path) -> Outcome<String> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let refuse = |words: String| Failure::new(Exit::Failure, format!("{}: {words}", path.display()));
    if let Some(foreign) = foreign::recognise(&bytes) {
        return Err(refuse(format!("it is {}", foreign.what)));
    }
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    String::from_utf8(text.to_vec()).map_err(|error| {
        let before = &text[..error.utf8_error().valid_up_to()];
        refuse(format!("line {} is not UTF-8", 1 + before.iter().filter(|byte| **byte == b'\n').count()))
    })
}

/// Says something about a file that is no failure.
fn say(path: &Path, words: &str) {
    tracing::warn!("{}: {words}", path.display());
}

fn share(copy: NamedTempFile) -> Arc<TempPath> {
    Arc::new(copy.into_temp_path())
}

fn copy_of(bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut copy = NamedTempFile::new()?;
    copy.write_all(bytes)?;
    Ok(copy)
}

/// The lines of a file, with a copy on the way where it is not to be read as it is, or not twice.
struct Lines {
    reader: BufReader<io::Chain<Cursor<Vec<u8>>, File>>,
    /// The beginning of the file.
    start: Vec<u8>,
    marked: bool,
    copy: Option<NamedTempFile>,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut start = Vec::new();
        (&mut file).take(foreign::ENOUGH as u64).read_to_end(&mut start)?;
        let marked = start.starts_with(BYTE_ORDER_MARK);
        let read = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start).to_vec();
        // What comes out of a pipe is there once.
        let copied = marked || !file.metadata()?.is_file();
        let copy = copied.then(NamedTempFile::new).transpose()?;
        Ok(Self { reader: BufReader::new(Cursor::new(read).chain(file)), start, marked, copy })
    }

    /// The next line, with its end; `false` if there is none.
    fn next(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        self.reader.read_until(b'\n', line)?;
        if let Some(copy) = &mut self.copy {
            copy.write_all(line)?;
        }
        Ok(!line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Task = Task::Perplexity { window: 8, stride: 8, windows: None };

    fn file(bytes: &[u8]) -> TempPath {
        copy_of(bytes).unwrap().into_temp_path()
    }

    fn read(input: &Input) -> Vec<u8> {
        std::fs::read(input.path()).unwrap()
    }

    #[test]
    fn a_clean_file_is_used_in_place_under_its_own_hash() {
        let path = file(b"a line\nanother\r\n");
        let input = Input::data(&path, &TEXT).unwrap();
        assert_eq!(input.path(), &*path);
        assert_eq!(input.hash().unwrap(), ContentHash::of(b"a line\nanother\r\n"));
    }

    #[test]
    fn a_byte_order_mark_is_left_out_before_hashing() {
        let path = file(b"\xef\xbb\xbfa line\n");
        let input = Input::data(&path, &TEXT).unwrap();
        assert_eq!(read(&input), b"a line\n");
        assert_eq!(input.hash().unwrap(), ContentHash::of(b"a line\n"));
        // One only: a second is a character of the text.
        let twice = Input::data(&file(b"\xef\xbb\xbf\xef\xbb\xbfx"), &TEXT).unwrap();
        assert_eq!(read(&twice), b"\xef\xbb\xbfx");
        let copy = input.path().to_owned();
        drop(input);
        assert!(!copy.exists(), "copies go away");
        assert_eq!(read_text(&file(b"\xef\xbb\xbfname = 1\n")).unwrap(), "name = 1\n");
        assert!(read_text(&file(b"a\nb\xff\n")).unwrap_err().to_string().ends_with("line 2 is not UTF-8"));
    }

    #[test]
    fn columns_beyond_the_label_are_refused_where_they_are_read() {
        let path = file(b"good\t1\n\na\tb\t0\n");
        let task = |sentences| Task::Accuracy { sentences };
        let error = Input::data(&path, &task(None)).unwrap_err().to_string();
        assert!(error.ends_with("line 3 has 3 columns: expected 2, `sentence TAB label`"), "{error}");
        assert!(Input::data(&path, &task(Some(2))).is_err());
        assert!(Input::data(&path, &task(Some(1))).is_ok());
        assert!(Input::data(&path, &TEXT).is_ok(), "a text may have tabs");
    }

    #[test]
    fn what_stands_for_a_text_is_not_read_as_one() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        let error = Input::data(&file(pointer), &TEXT).unwrap_err().to_string();
        assert!(error.contains("not a text: it is a Git LFS pointer"), "{error}");
        assert!(Input::data(&file(b"<html><p>A page may be a text.</p>"), &TEXT).is_ok());
    }
}
