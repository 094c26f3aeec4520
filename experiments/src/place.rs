//! Output place of a command: never something that is somebody's input, and written whole or not at all.
//!
//! A file is written beside its place under a name of its own and renamed when it is complete, so a full disk leaves what
//! was there before. What may be replaced without being asked for is what the same command wrote before, which is told from
//! how it begins. Pipes, terminals and devices are written to as they are.

mod content;
mod link;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use qslm_coordinator::store::{Store, StoreError};
use tempfile::{NamedTempFile, TempDir};

use crate::exit::{Exit, Failure, Outcome};
pub use content::Made;
use content::{Content, content_of};
pub use link::is_same;
use link::{followed, is_stream};

/// A place that may be written to.
#[derive(Debug)]
pub struct OutputPlace {
    /// Path as it was named.
    shown: PathBuf,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A file, by way of one beside it. Links are followed, so that they stay.
    File { target: PathBuf, replace: bool },
    /// A stream: nothing that was there is lost.
    Stream,
}

/// A file on its way to its place; gone if it is not finished.
#[derive(Debug)]
pub struct Unfinished<'a> {
    place: &'a OutputPlace,
    file: NamedTempFile,
}

impl OutputPlace {
    /// A place for what a command makes, which reads `inputs`. What is there
    /// already is replaced if it is of the same kind, or with `force` if it is anything but a store, a checkpoint, a
    /// database or one of the inputs.
    pub fn new(path: &Path, made: Made, inputs: &[&Path], force: bool) -> Outcome<Self> {
        let Some(target) = Self::find(path, inputs)? else {
            return Ok(Self { shown: path.to_owned(), way: Way::Stream });
        };
        if target.exists() {
            let content = content_of(&target).map_err(|error| Failure::file(path, &error))?;
            let conflict = |what: &str| {
                let words = format!("{}: {what}", path.display());
                Err(Failure::new(Exit::Conflict, words))
            };
            match content {
                Content::Empty => {}
                content if made.is(&content) => {}
                Content::Store => return conflict("is a store; write somewhere else"),
                Content::Checkpoint(_) => return conflict("is a checkpoint; write somewhere else"),
                Content::Database => return conflict("is a database; write somewhere else"),
                Content::Other(_) if force => {}
                Content::Other(_) => {
                    let what = made.name();
                    return conflict(&format!("is there already and is no {what}; --force replaces it"));
                }
            }
            // What may not be written to is not replaced either.
            let writable = OpenOptions::new().write(true).open(&target);
            writable.map_err(|error| cannot_write(path, &error))?;
        }
        Ok(Self { shown: path.to_owned(), way: Way::File { target, replace: true } })
    }

    /// Refuses what must not be written to whatever is made of it.
    pub fn refuse_inputs(path: &Path, inputs: &[&Path]) -> Outcome {
        Self::new(path, Made::Store, inputs, true).map(drop)
    }

    /// A place where nothing is yet. With `force`, as [`OutputPlace::new`].
    pub fn vacant(path: &Path, made: Made, inputs: &[&Path], force: bool) -> Outcome<Self> {
        if force {
            return Self::new(path, made, inputs, true);
        }
        match Self::find(path, inputs)? {
            Some(target) if std::fs::symlink_metadata(path).is_err() => {
                Ok(Self { shown: path.to_owned(), way: Way::File { target, replace: false } })
            }
            _ => Err(taken(path)),
        }
    }

    /// As [`OutputPlace::new`], but what is there is replaced with `force` only, even if the same command wrote it.
    pub fn kept(path: &Path, made: Made, inputs: &[&Path], force: bool) -> Outcome<Self> {
        let place = Self::new(path, made, inputs, force)?;
        match &place.way {
            Way::File { target, .. }
                if !force && std::fs::metadata(target).is_ok_and(|there| there.len() > 0) =>
            {
                let words = format!("{}: is there already; --force replaces it", path.display());
                Err(Failure::new(Exit::Conflict, words))
            }
            _ => Ok(place),
        }
    }

    /// A place for the copy of a store. What is there is replaced with `force` only, and only if it is a store that nobody
    /// has open.
    pub fn of_copy(path: &Path, inputs: &[&Path], force: bool) -> Outcome<Self> {
        let conflict = |what: &str| Failure::new(Exit::Conflict, format!("{}: {what}", path.display()));
        let Some(target) = Self::find(path, inputs)? else {
            return Err(conflict("is no place for a store, which is a file with a folder beside it"));
        };
        if std::fs::symlink_metadata(&target).is_err() {
            return Ok(Self { shown: path.to_owned(), way: Way::File { target, replace: false } });
        }
        match content_of(&target).map_err(|error| Failure::file(path, &error))? {
            Content::Store | Content::Empty if !force => {
                return Err(conflict("is there already; --force replaces it"));
            }
            Content::Empty => {}
            Content::Store => {
                // One that is damaged may well be replaced.
                if let Err(error @ StoreError::InUse(_)) = Store::open_to_read(&target) {
                    return Err(error.into());
                }
            }
            _ => return Err(conflict("is there already and is no store; write somewhere else")),
        }
        Ok(Self { shown: path.to_owned(), way: Way::File { target, replace: true } })
    }

    /// The file that a path leads to, unless that is no ordinary file.
    fn find(path: &Path, inputs: &[&Path]) -> Outcome<Option<PathBuf>> {
        if is_stream(path) {
            return Ok(None);
        }
        if path.is_dir() {
            return Err(Failure::new(Exit::Failure, format!("{}: is a folder", path.display())));
        }
        let target = followed(path).map_err(|error| cannot_write(path, &error))?;
        if let Some(input) = inputs.iter().find(|input| is_same(&target, input)) {
            let (path, input) = (path.display(), input.display());
            let words = format!("{path}: is read by this command ({input}); write somewhere else");
            return Err(Failure::new(Exit::Conflict, words));
        }
        Ok(Some(target))
    }

    /// Starts a file for this place.
    pub fn start(&self) -> Outcome<Unfinished<'_>> {
        let file = match &self.way {
            Way::File { target, .. } => beside(target),
            Way::Stream => NamedTempFile::new(),
        };
        // Without the name that it would have had meanwhile.
        let file = file.map_err(|error| cannot_write(&self.shown, &error.kind().into()))?;
        Ok(Unfinished { place: self, file })
    }

    /// Folder beside it for what goes with it, which is gone with all that is left in it once it is dropped.
    pub fn folder_beside(&self) -> Outcome<TempDir> {
        let folder = match &self.way {
            Way::File { target, .. } => target.parent().filter(|folder| !folder.as_os_str().is_empty()),
            Way::Stream => None,
        };
        let made = unfinished().tempdir_in(folder.unwrap_or(Path::new(".")));
        made.map_err(|error| cannot_write(&self.shown, &error.kind().into()))
    }

    /// Writes all of it.
    pub fn write(&self, bytes: &[u8]) -> Outcome {
        let failed = |error: io::Error| cannot_write(&self.shown, &error);
        match self.way {
            Way::Stream => stream(&self.shown).and_then(|mut to| to.write_all(bytes)).map_err(failed),
            Way::File { .. } => {
                let mut unfinished = self.start()?;
                unfinished.file.write_all(bytes).map_err(failed)?;
                unfinished.finish()
            }
        }
    }

    /// A writer for what goes there as it is made: a stream at once, a file when it is [finished](Unfinished::finish).
    pub fn writer(&self) -> Outcome<(File, Option<Unfinished<'_>>)> {
        let failed = |error: io::Error| cannot_write(&self.shown, &error);
        match self.way {
            Way::Stream => Ok((stream(&self.shown).map_err(failed)?, None)),
            Way::File { .. } => {
                let unfinished = self.start()?;
                Ok((unfinished.file.as_file().try_clone().map_err(failed)?, Some(unfinished)))
            }
        }
    }
}

impl Unfinished<'_> {
    /// Path of the file meanwhile.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts it in its place.
    pub fn finish(self) -> Outcome {
        let shown = &self.place.shown;
        let failed = |error: io::Error| cannot_write(shown, &error);
        match &self.place.way {
            Way::Stream => {
                let mut from = File::open(self.file.path()).map_err(failed)?;
                let mut to = stream(shown).map_err(failed)?;
                io::copy(&mut from, &mut to).map(drop).map_err(failed)
            }
            Way::File { target, replace } => {
                // Whoever was given the path may have put another file there, with permissions of its own.
                let written = File::open(self.file.path()).map_err(failed)?;
                let permissions = self.file.as_file().metadata().map_err(failed)?.permissions();
                written.set_permissions(permissions).map_err(failed)?;
                // Some disks say only now that they are full.
                written.sync_all().map_err(failed)?;
                let placed = match replace {
                    true => self.file.persist(target),
                    false => self.file.persist_noclobber(target),
                };
                placed.map(drop).map_err(|refused| match refused.error.kind() {
                    io::ErrorKind::AlreadyExists => taken(shown),
                    _ => failed(refused.error),
                })
            }
        }
    }
}

fn taken(path: &Path) -> Failure {
    Failure::new(Exit::Conflict, format!("{}: is there already", path.display()))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("{}: cannot be written: {error}", path.display()))
}

fn stream(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    if ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|stdout| path == Path::new(stdout)) {
        // As it is open, and not once more from its beginning: something may have been written to it.
        use std::os::fd::AsFd;
        return Ok(io::stdout().as_fd().try_clone_to_owned()?.into());
    }
    File::create(path)
}

/// Names of what is not finished.
fn unfinished() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".qslm-").suffix(".part");
    builder
}

/// A new file in the folder of `target`, which whoever may read or write that may read or write as well.
fn beside(target: &Path) -> io::Result<NamedTempFile> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    #[cfg_attr(not(unix), expect(unused_mut, reason = "permissions are set where there are any"))]
    let mut builder = unfinished();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        // As any new file: without what the process leaves out (umask).
        builder.permissions(std::fs::Permissions::from_mode(0o666));
        let file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
        if let Ok(before) = std::fs::metadata(target) {
            file.as_file().set_permissions(before.permissions())?;
            // Only root may give files away.
            let _ = std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
        }
        Ok(file)
    }
    #[cfg(not(unix))]
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests;
