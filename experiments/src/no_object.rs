//! Object storage in a program that was built without it: there is no such place, and whoever names one is told so.

use std::collections::BTreeSet;
use std::path::Path;

use qslm_common::hash::ContentHash;

use crate::exit::{Exit, Failure, Outcome};

/// A place that this program cannot reach: there is no value of it.
pub enum ObjectPlace {}

impl ObjectPlace {
    /// `None` for a path.
    ///
    /// # Errors
    /// For any URL.
    pub fn parse(flag: &str, text: &str) -> Outcome<Option<Self>> {
        match text.contains("://") {
            true => {
                let words =
                    "this program was built without object storage (cargo build --features object-store)";
                Err(Failure::new(Exit::Usage, format!("{flag} {text}: {words}")))
            }
            false => Ok(None),
        }
    }

    /// See `object.rs`.
    pub async fn refuse_taken(&self, _force: bool) -> Outcome {
        match *self {}
    }

    /// See `object.rs`.
    pub async fn artifacts(&self) -> Outcome<BTreeSet<ContentHash>> {
        match *self {}
    }

    /// See `object.rs`.
    pub async fn put_artifact(&self, _hash: &ContentHash, _file: &Path) -> Outcome {
        match *self {}
    }

    /// See `object.rs`.
    pub async fn put_below(&self, _name: &str, _file: &Path) -> Outcome {
        match *self {}
    }

    /// See `object.rs`.
    pub async fn put_store(&self, _file: &Path) -> Outcome {
        match *self {}
    }
}
