//! The results of an experiment as files: what a sweep leaves where nobody looks on.
//!
//! Front, report, export and the chosen candidate's packed file, under names that do not depend on the experiment, in a folder
//! or below a URL of object storage. Each is written whole or not at all, the front last: where it is, all of them are. A
//! second writing replaces what the first one left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qslm_engine::checkpoint::packed;
use qslm_report::page;

use crate::client::{Client, describe, fetch};
use crate::codes::codes_file;
use crate::commands::export::write_csv;
use crate::exit::{Exit, Failure, Outcome};
use crate::front_file::{FrontFile, candidate};
use crate::input::read_checkpoint;
use crate::object::ObjectPlace;
use crate::place::{Made, OutputPlace};
use crate::selected::Selected;
use crate::spec::Resolved;
use crate::storage::CodesFiles;

const REPORT: &str = "report.html";
const EXPORT: &str = "export.csv";
/// There is none where nothing was chosen.
const PACKED: &str = "packed.safetensors";
const FRONT: &str = "front.json";

/// Place for result files.
pub enum ResultsPlace {
    /// A folder, which is made if it is not there.
    Folder(PathBuf),
    /// Object storage.
    Objects(ObjectPlace),
}

impl ResultsPlace {
    /// The place that a path or a URL names.
    pub fn parse(text: &str) -> Outcome<Self> {
        Ok(match ObjectPlace::parse("--results", text)? {
            Some(place) => Self::Objects(place),
            None => Self::Folder(PathBuf::from(text)),
        })
    }

    /// Writes the results of an experiment that has ended; `front` is its document.
    pub async fn write(&self, client: &mut Client, id: &str, resolved: &Resolved, front: &str) -> Outcome {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
                write_into(folder, client, id, resolved, front).await.map(drop)
            }
            Self::Objects(place) => {
                let folder = tempfile::tempdir();
                let folder = folder.map_err(|error| Failure::folder(&std::env::temp_dir(), &error))?;
                for name in write_into(folder.path(), client, id, resolved, front).await? {
                    place.put_below(name, &folder.path().join(name)).await?;
                }
                Ok(())
            }
        }
    }
}

/// Writes the files into a folder; their names, in the order in which they may be seen.
async fn write_into(
    folder: &Path,
    client: &mut Client,
    id: &str,
    resolved: &Resolved,
    front: &str,
) -> Outcome<Vec<&'static str>> {
    let mut written = Vec::new();
    let place = |name, made| OutputPlace::new(&folder.join(name), made, &[], false);

    let document = describe(client, id).await?;
    place(REPORT, Made::Page)?.write(page::file(&document).as_bytes())?;
    written.push(REPORT);

    write_csv(client, id, &place(EXPORT, Made::Csv)?, EXPORT).await?;
    written.push(EXPORT);

    let parsed = FrontFile::parse(PathBuf::from(id), front)?;
    if parsed.document.chosen.is_some() {
        pack(&place(PACKED, Made::Packed)?, client, parsed, resolved).await?;
        written.push(PACKED);
    }
    place(FRONT, Made::Front)?.write(front.as_bytes())?;
    written.push(FRONT);
    Ok(written)
}

/// Writes the candidate that was chosen.
async fn pack(place: &OutputPlace, client: &mut Client, front: FrontFile, resolved: &Resolved) -> Outcome {
    let hash = resolved.experiment.checkpoint;
    let of_hash = resolved.files.iter().find(|(known, _)| *known == hash);
    let (_, input) = of_hash.ok_or_else(|| Failure::new(Exit::Failure, "the spec has no checkpoint"))?;
    let checkpoint = read_checkpoint(input.path(), &resolved.experiment.network)?;
    let row = front.row(None)?.clone();
    let candidate = candidate(&row, checkpoint.network())?;
    let mut codes = CodesFiles::new();
    for artifact in candidate.artifacts() {
        let bytes = fetch(client, artifact, u64::MAX).await?;
        codes.insert(artifact, Arc::new(codes_file(artifact, bytes)?));
    }
    let selected = Selected { front, row, candidate, codes };
    let provenance = selected.provenance(hash, resolved.origins.get(&hash).cloned());
    let storage = &selected.front.document.storage;
    let file = place.start()?;
    let write =
        || packed::write(file.path(), &checkpoint, &selected.candidate, &selected.codes, storage, provenance);
    tokio::task::block_in_place(write)
        .map_err(|error| Failure::new(Exit::Failure, format!("{PACKED}: {error}")))?;
    file.finish()
}
