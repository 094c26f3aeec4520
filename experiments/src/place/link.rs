//! Targets of paths: links followed, and two paths compared by the file that they lead to.

use std::io;
use std::path::{Path, PathBuf};

/// Links that are followed one after the other, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// True if what is written there goes somewhere as it comes: a pipe, a terminal, a device, or what a program has open.
pub(super) fn is_stream(path: &Path) -> bool {
    let open = ["/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    open.iter().any(|open| path.starts_with(open))
        || std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// The file that a path leads to, which need not be there.
pub(super) fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(there) if there.is_symlink() => {
                let to = std::fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

/// True if two paths are one file, by whatever name; or, where one of them is not there yet, would be.
pub fn is_same(path: &Path, other: &Path) -> bool {
    let Some(other_place) = place(other) else { return false };
    let Some(place) = place(path) else { return false };
    place == other_place || identity(path).is_some_and(|one| identity(other) == Some(one))
}

/// The whole path without links; of a file that is not there that of its folder, with its name.
fn place(path: &Path) -> Option<PathBuf> {
    let path = followed(path).ok()?;
    if let Ok(whole) = std::fs::canonicalize(&path) {
        return Some(whole);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Where not even the folder is there, the words have to do.
    let folder = std::fs::canonicalize(folder).or_else(|_| std::path::absolute(folder)).ok()?;
    Some(folder.join(path.file_name()?))
}

/// Identity of a file to the system: the same for all of its names.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|there| (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<(u64, u64)> {
    None
}
