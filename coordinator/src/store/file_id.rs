//! Identity of an open file: device and number tell it from any other, whatever it is called.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::Path;

/// The device and the number of a file on it. No other file has them while this one is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    number: u64,
}

/// Fate of a name: what a path leads to, instead of the file that was opened by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No file.
    Removed,
    /// Another file.
    Replaced,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Replaced => "replaced by another file",
        })
    }
}

impl FileId {
    /// The identity of a file, as far as the system tells it.
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self { device: metadata.dev(), number: metadata.ino() })
    }

    /// The identity of a file, as far as the system tells it.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Option<Self> {
        None
    }

    /// The fate of the name `path`, if it does not lead to this file any more.
    pub(super) fn lost(self, path: &Path) -> Option<Lost> {
        match std::fs::metadata(path) {
            Ok(metadata) => (Self::of(&metadata) != Some(self)).then_some(Lost::Replaced),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Some(Lost::Removed),
                // It cannot be looked at now, which says nothing about where it is.
                _ => None,
            },
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_where_it_was_unless_its_path_leads_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("in")).unwrap();
        std::fs::write(at("in/file"), "1").unwrap();
        let file_id = FileId::of(&std::fs::metadata(at("in/file")).unwrap()).unwrap();
        std::fs::write(at("in/file"), "written to").unwrap();
        assert_eq!(file_id.lost(&at("in/file")), None);
        std::fs::rename(at("in/file"), at("moved")).unwrap();
        assert_eq!((file_id.lost(&at("in/file")), file_id.lost(&at("moved"))), (Some(Lost::Removed), None));
        std::fs::write(at("in/file"), "1").unwrap();
        assert_eq!(file_id.lost(&at("in/file")), Some(Lost::Replaced));
        std::os::unix::fs::symlink(at("moved"), at("link")).unwrap();
        assert_eq!(file_id.lost(&at("link")), None, "a link leads to it");
        std::fs::remove_dir_all(at("in")).unwrap();
        std::fs::write(at("in"), "no folder").unwrap();
        assert_eq!(file_id.lost(&at("in/file")), Some(Lost::Removed));
    }
}
