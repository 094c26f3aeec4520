//! Object storage as a place for the copy of a store, or for result files: S3, Google Cloud Storage, Azure Blob Storage or a folder, by a URL.
//!
//! An object is there as a whole or not at all, whoever looks. Artifacts are named by their hashes and go first; the store,
//! which names them, goes last, so that what can be seen is whole.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use object_store::buffered::BufWriter;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreExt};
use qslm_common::hash::ContentHash;
use tokio::io::AsyncWriteExt;
use tokio_stream::StreamExt;
use url::Url;

use crate::exit::{Exit, Failure, Outcome};

/// Schemes of the URLs that are known.
const SCHEMES: [&str; 7] = ["s3", "s3a", "gs", "az", "abfs", "abfss", "file"];

/// A place for a store and its artifacts, or for files below it.
pub struct ObjectPlace {
    objects: Arc<dyn ObjectStore>,
    store: ObjectPath,
    shown: String,
}

impl ObjectPlace {
    /// The place that a URL names; `None` for what is no URL but a path. Keys and addresses are those that the provider's own
    /// tools take: variables that begin with `AWS_`, `GOOGLE_` or `AZURE_`, or what a machine in its cloud is given.
    /// `flag` is how it was said.
    pub fn parse(flag: &str, text: &str) -> Outcome<Option<Self>> {
        let Some((scheme, _)) = text.split_once("://") else { return Ok(None) };
        let wrong = |why: &dyn std::fmt::Display| {
            let expected =
                "expected a path, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or file:///PATH";
            Failure::new(Exit::Usage, format!("{flag} {text}: {why}: {expected}"))
        };
        if !SCHEMES.contains(&scheme) {
            return Err(wrong(&format!("nothing is known of {scheme}://")));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error))?;
        // Its HTTP client takes the ciphers that this process has; whoever was first has chosen them.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (objects, store) =
            object_store::parse_url_opts(&url, std::env::vars()).map_err(|error| wrong(&one_line(&error)))?;
        match store.filename() {
            Some(_) => Ok(Some(Self { objects: objects.into(), store, shown: text.to_owned() })),
            None => Err(wrong(&"it names no object")),
        }
    }

    /// Fails if there is something already, unless it may be replaced.
    pub async fn refuse_taken(&self, force: bool) -> Outcome {
        match self.objects.head(&self.store).await {
            Ok(_) if force => Ok(()),
            Ok(_) => {
                let words = format!("{}: is there already; --force replaces it", self.shown);
                Err(Failure::new(Exit::Conflict, words))
            }
            Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Artifacts that are there.
    pub async fn artifacts(&self) -> Outcome<BTreeSet<ContentHash>> {
        let mut listed = self.objects.list(Some(&self.artifacts_path()));
        let mut there = BTreeSet::new();
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| self.failed(&error))?;
            there.extend(object.location.filename().and_then(|name| name.parse::<ContentHash>().ok()));
        }
        Ok(there)
    }

    /// Puts a file there as an artifact.
    pub async fn put_artifact(&self, hash: &ContentHash, file: &Path) -> Outcome {
        self.put(&self.artifacts_path().join(hash.to_string()), file).await
    }

    /// Puts a file there as the store.
    pub async fn put_store(&self, file: &Path) -> Outcome {
        self.put(&self.store, file).await
    }

    /// Puts a file below it, in the place of one of that name.
    pub async fn put_below(&self, name: &str, file: &Path) -> Outcome {
        self.put(&self.store.clone().join(name), file).await
    }

    /// Puts a file there in pieces, so that memory does not grow with it. Nothing is there unless all of it is.
    async fn put(&self, to: &ObjectPath, file: &Path) -> Outcome {
        let unreadable = |error: std::io::Error| Failure::file(file, &error);
        let mut from = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let size = from.metadata().await.map_err(unreadable)?.len();
        let mut writer = BufWriter::new(self.objects.clone(), to.clone());
        let copied = match tokio::io::copy(&mut from, &mut writer).await {
            Ok(_) => writer.shutdown().await,
            Err(error) => Err(error),
        };
        if let Err(error) = copied {
            // What was sent takes room until it is given up; whether that works does not matter any more.
            drop(writer.abort().await);
            return Err(Failure::new(Exit::Unavailable, format!("{}: {}", self.shown, one_line(&error))));
        }
        let there = self.objects.head(to).await.map_err(|error| self.failed(&error))?.size;
        match there == size {
            true => Ok(()),
            false => {
                let words = format!("{}: {to} has {there} bytes, {size} were sent", self.shown);
                Err(Failure::new(Exit::Failure, words))
            }
        }
    }

    fn artifacts_path(&self) -> ObjectPath {
        ObjectPath::from(format!("{}.artifacts", self.store))
    }

    fn failed(&self, error: &ObjectError) -> Failure {
        let code = match error {
            ObjectError::NotFound { .. } => Exit::NotFound,
            ObjectError::Unauthenticated { .. } | ObjectError::PermissionDenied { .. } => Exit::NotAllowed,
            ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. } => Exit::Conflict,
            ObjectError::Generic { .. } => Exit::Unavailable,
            _ => Exit::Failure,
        };
        Failure::new(code, format!("{}: {}", self.shown, one_line(error)))
    }
}

/// Words of an error and its causes on one line: providers answer with documents.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    qslm_program::chain(error).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn in_memory() -> (Arc<InMemory>, ObjectPlace) {
        let objects = Arc::new(InMemory::new());
        let place = ObjectPlace {
            objects: objects.clone(),
            store: ObjectPath::from("a/b.redb"),
            shown: "memory".to_owned(),
        };
        (objects, place)
    }

    #[tokio::test]
    async fn what_is_put_is_there_and_what_is_there_is_not_replaced_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        // More than one piece.
        let bytes: Vec<u8> = (0..25_000_000u32).map(|at| (at >> 3) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let (objects, place) = in_memory();
        place.refuse_taken(false).await.unwrap();
        let hash = ContentHash::of(&bytes);
        assert!(place.artifacts().await.unwrap().is_empty());
        place.put_artifact(&hash, &file).await.unwrap();
        assert_eq!(place.artifacts().await.unwrap(), [hash].into());
        place.refuse_taken(false).await.unwrap();
        place.put_store(&file).await.unwrap();
        let at = |path: &str| ObjectPath::from(path);
        for path in [at("a/b.redb"), at(&format!("a/b.redb.artifacts/{hash}"))] {
            let there = objects.get(&path).await.unwrap().bytes().await.unwrap();
            assert!(there == bytes, "{path}");
        }
        let taken = place.refuse_taken(false).await.unwrap_err();
        assert_eq!(
            (taken.exit(), taken.to_string().as_str()),
            (Exit::Conflict, "memory: is there already; --force replaces it")
        );
        place.refuse_taken(true).await.unwrap();
        let gone = place.put_store(&folder.path().join("none")).await.unwrap_err();
        assert_eq!(gone.exit(), Exit::NotFound);
    }

    #[test]
    fn a_path_is_no_url_and_a_url_that_makes_no_sense_is_told_with_those_that_do() {
        for path in ["b.redb", "/backup/b.redb", "C:b.redb"] {
            assert!(ObjectPlace::parse("--to", path).unwrap().is_none());
        }
        for (url, why) in [
            ("ftp://a/b", "nothing is known of ftp://"),
            ("memory:///b", "nothing is known of memory://"),
            ("file:///", "it names no object"),
            ("s3://bucket", "it names no object"),
        ] {
            let error = ObjectPlace::parse("--to", url).err().unwrap();
            let words = format!("--to {url}: {why}: expected a path, s3://BUCKET/PATH, ");
            assert!(error.to_string().starts_with(&words) && error.exit() == Exit::Usage, "{error}");
        }
        let s3 = ObjectPlace::parse("--to", "s3://bucket/nightly/b.redb").unwrap().unwrap();
        assert_eq!(s3.artifacts_path(), ObjectPath::from("nightly/b.redb.artifacts"));
        assert!(ObjectPlace::parse("--to", "gs://bucket/b.redb").unwrap().is_some());
    }
}
