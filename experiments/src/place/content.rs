//! Kind of a file, by how it begins.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file that are looked at.
const START: u64 = 256;

/// Kind of file that a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A report as one HTML file.
    Page,
    /// A report as a JSON document.
    Report,
    /// Candidates as comma-separated values.
    Csv,
    /// Candidates as lines of JSON.
    Lines,
    /// Candidates as Parquet.
    Parquet,
    /// A plot as vectors.
    Svg,
    /// A plot as pixels.
    Png,
    /// The front of a run.
    Front,
    /// A candidate as a file to deploy.
    Packed,
    /// Logits as safetensors.
    Logits,
    /// Sensitivities as comma-separated values.
    Sensitivities,
    /// A spec.
    Spec,
    /// A store.
    Store,
}

/// Kind of what is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An empty file.
    Empty,
    /// A store of ours.
    Store,
    /// PyTorch, or safetensors with this header.
    Checkpoint(Vec<u8>),
    /// sqlite.
    Database,
    /// Anything else, with its first bytes.
    Other(Vec<u8>),
}

/// Looks at the start of a file.
pub(super) fn content_of(path: &Path) -> io::Result<Content> {
    let mut start = Vec::new();
    File::open(path)?.take(START).read_to_end(&mut start)?;
    Ok(match &start[..] {
        [] => Content::Empty,
        start if start.starts_with(b"redb\x1A\x0A\xA9\x0D\x0A") => Content::Store,
        start if start.starts_with(b"SQLite format 3\0") => Content::Database,
        // A zip archive, and the pickles of PyTorch's older format.
        start if start.starts_with(b"PK\x03\x04") => Content::Checkpoint(Vec::new()),
        [0x80, 2..=5, ..] => Content::Checkpoint(Vec::new()),
        // The length of a header, and the header.
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Content::Checkpoint(start[8..].to_vec()),
        _ => Content::Other(start),
    })
}

impl Made {
    /// Name in a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Page => "report",
            Self::Report => "report in JSON",
            Self::Csv => "CSV export",
            Self::Lines => "export in lines of JSON",
            Self::Parquet => "Parquet export",
            Self::Svg => "SVG plot",
            Self::Png => "PNG plot",
            Self::Front => "front",
            Self::Packed => "packed file",
            Self::Logits => "file of logits",
            Self::Sensitivities => "table of sensitivities",
            Self::Spec => "spec",
            Self::Store => "store",
        }
    }

    /// True if a file is what the same command wrote before. A spec is somebody's own from then on, and so is a store.
    pub(super) fn is(self, content: &Content) -> bool {
        let begins: &[u8] = match self {
            Self::Page => b"<!doctype html>",
            Self::Report => b"{\"format\":",
            Self::Csv => b"stage,candidate,",
            Self::Lines => b"{\"stage\":",
            Self::Parquet => b"PAR1",
            Self::Svg => b"<svg ",
            Self::Png => b"\x89PNG\r\n\x1a\n",
            Self::Front => b"{",
            Self::Packed => b"{\"__metadata__\":{\"qslm.manifest\":",
            Self::Logits => b"{\"logits\":",
            Self::Sensitivities => b"unit,block,module,scheme",
            Self::Spec | Self::Store => return false,
        };
        match (self, content) {
            (Self::Packed | Self::Logits, Content::Checkpoint(header)) => header.starts_with(begins),
            (Self::Packed | Self::Logits, _) => false,
            (_, Content::Other(start)) => start.starts_with(begins),
            _ => false,
        }
    }
}
