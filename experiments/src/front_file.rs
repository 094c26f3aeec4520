//! The front that a run wrote, and the candidates in it.

use std::path::{Path, PathBuf};

use qslm_common::candidate::Candidate;
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::hash::ContentHash;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::read_text;

/// A front with the file that it came from.
pub struct FrontFile {
    path: PathBuf,
    /// Content of the file.
    pub document: FrontDocument,
}

impl FrontFile {
    /// Reads a front.
    pub fn read(path: &Path) -> Outcome<Self> {
        Self::parse(path.to_owned(), &read_text(path)?)
    }

    /// Front of its text, with the file or the experiment that it came from.
    pub fn parse(path: PathBuf, text: &str) -> Outcome<Self> {
        let document = serde_json::from_str(text).map_err(|error| {
            Failure::new(Exit::Failure, format!("{}: not a front: {error}", path.display()))
        })?;
        Ok(Self { path, document })
    }

    /// The file or experiment, as it is shown.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Refuses a checkpoint, by its hash, that the front was not measured on.
    pub fn check_checkpoint(&self, hash: ContentHash, checkpoint: &Path) -> Outcome {
        if self.document.checkpoint == hash {
            return Ok(());
        }
        let (front, file) = (self.path.display(), checkpoint.display());
        Err(Failure::new(Exit::Conflict, format!("{front} was measured on another checkpoint than {file}")))
    }

    /// The row whose id starts with `id`; the chosen one if there is none.
    pub fn row(&self, id: Option<&str>) -> Outcome<&FrontRow> {
        let (path, document) = (self.path.display(), &self.document);
        let Some(id) = id else {
            let none = format!("{path}: no candidate was chosen; name one with --candidate");
            return document.chosen.as_ref().ok_or_else(|| Failure::new(Exit::NotFound, none));
        };
        let rows = document.front.iter().chain(&document.chosen).chain(&document.float);
        let found: Vec<&FrontRow> = rows.filter(|row| row.candidate.to_string().starts_with(id)).collect();
        let distinct = found.iter().any(|row| row.candidate != found[0].candidate);
        match found.first() {
            Some(row) if !distinct => Ok(row),
            Some(_) => Err(Failure::new(Exit::Conflict, format!("several candidates start with {id:?}"))),
            None => Err(Failure::new(Exit::NotFound, format!("{path}: no candidate {id:?}"))),
        }
    }
}

/// The candidate of a row, checked against the id that the row names.
pub fn candidate(row: &FrontRow, network: &Network) -> Outcome<Candidate> {
    let wrong =
        |what: String| Failure::new(Exit::Failure, format!("candidate {}: {what}", row.candidate.short()));
    let mut problem = None;
    let mut candidate = Candidate::new(network, |unit| {
        let text = row.schemes.get(&unit.name).map_or("missing", String::as_str);
        text.parse().unwrap_or_else(|error| {
            problem = Some(format!("{}: {error}", unit.name));
            Scheme::Float
        })
    });
    match row.vectors.as_deref().map(str::parse) {
        None => {}
        Some(Ok(scheme)) => candidate = candidate.with_vectors(scheme),
        Some(Err(error)) => problem = Some(format!("vectors: {error}")),
    }
    for (unit, artifact) in &row.codes {
        candidate = candidate.with_codes([unit.as_str()], Some(*artifact));
    }
    for (unit, bytes) in &row.coded_bytes {
        candidate = candidate.with_coded_bytes(unit, *bytes);
    }
    for (unit, text) in &row.activations {
        match text.parse() {
            Ok(scheme) => candidate = candidate.with_activations([unit.as_str()], Some(scheme)),
            Err(error) => problem = Some(format!("activation of {unit}: {error}")),
        }
    }
    for (population, text) in &row.membranes {
        match text.parse() {
            Ok(scheme) => candidate = candidate.with_membranes([population.as_str()], Some(scheme)),
            Err(error) => problem = Some(format!("membrane of {population}: {error}")),
        }
    }
    match problem {
        Some(problem) => Err(wrong(problem)),
        None if candidate.id() != row.candidate => {
            Err(wrong("its schemes are not those of its id".to_owned()))
        }
        None => Ok(candidate),
    }
}
