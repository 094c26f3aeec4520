//! Files of the Hugging Face Hub, kept as all of its programs keep them.
//!
//! In the cache a repository is a folder: `blobs` are files by entity tag, `snapshots/COMMIT/FILE` are links to them, `refs/NAME` say
//! which commit a branch was at. Whatever was fetched at a commit is never asked for again; of a branch it is asked whether it has
//! moved, and if nobody answers, what is kept is taken.

use std::io;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::address::HubFile;
use crate::checksum::Checksum;
use crate::error::FetchError;
use crate::http::{Answer, Ask, Http};
use crate::settings::Settings;
use crate::transfer::{Transfer, write_failed};
use crate::{Found, Progress};

/// Most bytes of a list of files that are read.
const LONGEST_LIST: usize = 4 << 20;
/// Most files that an error lists.
const LISTED: usize = 8;

pub(crate) async fn fetch(
    file: &HubFile,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<Found, FetchError> {
    let cache = Cache::new(&settings.hub_cache, file);
    if is_commit(&file.revision)
        && let Some(found) = cache.found(file)
    {
        return Ok(found);
    }
    let url = url_of(&settings.endpoint, file)?;
    let unreachable = |reason: String| FetchError::Unreachable {
        address: file.to_string(),
        reason,
        url: url.to_string(),
        place: cache.snapshot(&file.revision, &file.file),
    };
    if settings.offline {
        let missing = || unreachable("HF_HUB_OFFLINE is set, and it is not in the cache".to_owned());
        return cache.found(file).ok_or_else(missing);
    }
    let http = Http::new(settings.token.clone())?;
    let answer = match http.ask(&url, Ask::Head).await {
        Ok(answer) if answer.status().is_server_error() || answer.status().as_u16() == 429 => {
            Err(format!("the Hub answers {}", answer.status()))
        }
        other => other,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            let note = format!("{file}: {why}; what is kept of it is taken");
            let kept = cache.found(file).map(|found| Found { note: Some(note), ..found });
            return kept.ok_or_else(|| unreachable(why));
        }
    };
    if !answer.status().is_success() && !answer.status().is_redirection() {
        return Err(Refusal { file, settings, http: &http }.error(&answer).await);
    }
    let Described { commit, tag, length } = Described::of(&answer).map_err(|reason| FetchError::Server {
        address: file.to_string(),
        reason: format!("{reason}: {} is no Hub", settings.endpoint),
    })?;
    let there = file.at(&commit);
    let transfer = Transfer {
        address: file.to_string(),
        url: url_of(&settings.endpoint, &there)?,
        length,
        checksum: Checksum::of_tag(&tag),
        place: &cache.blob(&tag),
        by_hand: cache.snapshot(&file.revision, &file.file),
    };
    transfer.run(&http, progress).await?;
    cache.keep(file, &commit, &tag)?;
    Ok(Found { path: cache.snapshot(&commit, &file.file), origin: Some(there.to_string()), note: None })
}

/// True for the name of a commit, which stays what it is.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Address of a file's bytes.
fn url_of(endpoint: &str, file: &HubFile) -> Result<Url, FetchError> {
    let HubFile { repository, revision, file } = file;
    let kind = repository.is_dataset.then_some("datasets");
    let parts = kind.into_iter().chain([&*repository.owner, &*repository.name, "resolve", &**revision]);
    place_of(endpoint, parts.chain(file.split('/')))
}

/// Address of the Hub with these parts of a path, each of them escaped.
fn place_of<'a>(endpoint: &str, parts: impl Iterator<Item = &'a str>) -> Result<Url, FetchError> {
    let malformed =
        |reason: String| FetchError::Malformed { address: format!("HF_ENDPOINT = {endpoint}"), reason };
    let mut url = Url::parse(endpoint).map_err(|error| malformed(error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(malformed("expected https://HOST".to_owned()));
    }
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    Ok(url)
}

/// What the Hub says of a file before it sends any of it.
struct Described {
    commit: String,
    /// Entity tag: the hash of the file, as a rule.
    tag: String,
    length: Option<u64>,
}

impl Described {
    /// Description in the headers of an answer. They become names of files, so what is none is refused.
    fn of(answer: &Answer) -> Result<Self, &'static str> {
        let commit = answer.header("x-repo-commit").filter(|commit| is_commit(commit));
        let tag = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"')).filter(|tag| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=128).contains(&tag.len()) && tag.bytes().all(known)
        });
        // That of a redirect is the length of its own words.
        let own = || answer.header("content-length").filter(|_| answer.status().is_success());
        let length = answer.header("x-linked-size").or_else(own).and_then(|length| length.parse().ok());
        Ok(Self {
            commit: commit.ok_or("it names no commit")?.to_owned(),
            tag: tag.ok_or("it names no entity tag")?.to_owned(),
            length,
        })
    }
}

/// The folder of one repository.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    fn new(cache: &Path, file: &HubFile) -> Self {
        let kind = file.repository.kind();
        let folder = cache.join(format!("{kind}--{}--{}", file.repository.owner, file.repository.name));
        Self { folder }
    }

    fn snapshot(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(file)
    }

    fn blob(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(tag)
    }

    /// A file that is kept: of the commit that its revision was at, or put there by hand under the revision's own name.
    fn found(&self, file: &HubFile) -> Option<Found> {
        let at = std::fs::read_to_string(self.folder.join("refs").join(&file.revision)).ok();
        let at = at.map(|at| at.trim().to_owned()).filter(|at| is_commit(at));
        let commits = at.iter().chain([&file.revision]);
        let mut kept = commits.map(|commit| (commit, self.snapshot(commit, &file.file)));
        let (commit, path) = kept.find(|(_, path)| path.is_file())?;
        Some(Found { path, origin: Some(file.at(commit).to_string()), note: None })
    }

    /// Links a blob that is there to where a file of a commit is looked for.
    fn keep(&self, file: &HubFile, commit: &str, tag: &str) -> Result<(), FetchError> {
        let link = self.snapshot(commit, &file.file);
        let depth = file.file.split('/').count();
        let linked = put(&link, |beside| link_to(&self.blob(tag), beside, depth));
        linked.map_err(|source| write_failed(&link, source))?;
        if is_commit(&file.revision) {
            return Ok(());
        }
        let reference = self.folder.join("refs").join(&file.revision);
        let written = put(&reference, |beside| std::fs::write(beside, commit));
        written.map_err(|source| write_failed(&reference, source))
    }
}

/// Makes a file beside its place and moves it there, since others may read what is there at any moment.
fn put(place: &Path, make: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)?;
    let made = tempfile::Builder::new().make_in(folder, make)?;
    made.into_temp_path().persist(place).map_err(|error| error.error)
}

/// Makes a link so many folders below a snapshot, relative so that the cache may be moved.
#[cfg(unix)]
fn link_to(blob: &Path, link: &Path, depth: usize) -> io::Result<()> {
    let up: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    std::os::unix::fs::symlink(up.join("blobs").join(blob.file_name().unwrap_or_default()), link)
}

/// Copies, where links take permissions that people lack.
#[cfg(not(unix))]
fn link_to(blob: &Path, link: &Path, _: usize) -> io::Result<()> {
    std::fs::copy(blob, link).map(drop)
}

/// A file that the Hub refuses.
struct Refusal<'a> {
    file: &'a HubFile,
    settings: &'a Settings,
    http: &'a Http,
}

impl Refusal<'_> {
    /// What the Hub said, and what helps.
    async fn error(&self, answer: &Answer) -> FetchError {
        let HubFile { repository, revision, file } = self.file;
        let (address, status) = (self.file.to_string(), answer.status());
        let has_token = self.settings.token.is_some();
        let token = if has_token { "the token may not read it" } else { "set HF_TOKEN if it is private" };
        match (status.as_u16(), answer.header("x-error-code").unwrap_or_default()) {
            (_, "GatedRepo") => {
                let page = format!("{}/{repository}", self.settings.endpoint);
                let token = if has_token { "" } else { ", then set HF_TOKEN" };
                let reason = format!("{repository} is gated: accept its terms at {page}{token}");
                FetchError::NotAllowed { address, reason }
            }
            (404, "RevisionNotFound") => {
                FetchError::NotFound { address, reason: format!("{repository} has no revision {revision}") }
            }
            (404, "EntryNotFound") => {
                let others = self.others().await.unwrap_or_default();
                let reason = format!("{repository} has no file {file} at {revision}{others}");
                FetchError::NotFound { address, reason }
            }
            (404, _) => FetchError::NotFound {
                address,
                reason: format!("the Hub has no {repository}, or hides it: {token}"),
            },
            // Who asks without a token is told this of what is not there, too.
            (401, "RepoNotFound" | "") | (403, _) => FetchError::NotAllowed {
                address,
                reason: format!("the Hub answers {status}: there is no {repository}, or {token}"),
            },
            (401, _) => {
                FetchError::NotAllowed { address, reason: format!("the Hub answers {status}: {token}") }
            }
            _ => FetchError::Server { address, reason: format!("the Hub answers {status}") },
        }
    }

    /// Words about the files that there are instead.
    async fn others(&self) -> Option<String> {
        let HubFile { repository, revision, file } = self.file;
        let parts = ["api", repository.kind(), &repository.owner, &repository.name, "revision", revision];
        let url = place_of(&self.settings.endpoint, parts.into_iter()).ok()?;
        let mut response = self.http.ask(&url, Ask::From(0)).await.ok()?.response;
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.ok()? {
            text.extend(piece);
            if text.len() > LONGEST_LIST {
                return None;
            }
        }
        let list: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let names = list["siblings"].as_array()?.iter().filter_map(|one| one["rfilename"].as_str());
        let names: Vec<&str> = names.collect();
        let near = names.iter().map(|name| (strsim::damerau_levenshtein(file, name), *name)).min();
        match near.filter(|(distance, _)| *distance <= file.len().div_ceil(3)) {
            Some((_, name)) => Some(format!("; did you mean {name}?")),
            None if names.len() <= LISTED => Some(format!("; it has {}", names.join(", "))),
            None => Some(format!("; it has {} others", names.len())),
        }
    }
}
