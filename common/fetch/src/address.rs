//! Addresses: what stands where a path may stand, and leads to a file somewhere else.
//!
//! `hf://[datasets/]OWNER/NAME[@REVISION]/FILE`, `https://HOST/PATH#sha256=DIGITS` and `file:///PATH`. Whatever becomes a part of
//! a path or of a request later is checked here.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use crate::checksum::Checksum;
use crate::error::FetchError;

/// Kinds of addresses, as an error lists them.
const KINDS: &str = "hf://OWNER/NAME/FILE, https://HOST/PATH#sha256=DIGITS or file:///PATH";

/// Place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file of the Hub.
    Hub(HubFile),
    /// A file of the web.
    Web(WebFile),
    /// A file of this machine.
    Local {
        /// Its path.
        path: PathBuf,
        /// Hash that it has to have, if one is given.
        checksum: Option<Checksum>,
    },
}

/// A file of a repository of the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Repository.
    pub repository: Repository,
    /// Branch, tag or commit.
    pub revision: String,
    /// Path in the repository.
    pub file: String,
}

/// A repository of the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// True for one of data instead of a model.
    pub is_dataset: bool,
    /// User or organisation.
    pub owner: String,
    /// Name.
    pub name: String,
}

/// A file of the web, with the hash that it has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebFile {
    /// Where it is, without the hash.
    pub url: Url,
    /// Its hash.
    pub checksum: Checksum,
    /// Last part of its path, under which it is kept.
    pub name: String,
}

/// Most characters of an address, without what is secret.
const LONGEST: usize = 900;

/// Revision where none is given.
const MAIN: &str = "main";

impl Address {
    /// Address that a text is; `None` for a plain path.
    ///
    /// # Errors
    /// If it looks like an address and is none.
    pub fn parse(text: &str) -> Result<Option<Self>, FetchError> {
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(None);
        };
        let parsed = match scheme.to_ascii_lowercase().as_str() {
            "hf" => HubFile::parse(rest).map(Self::Hub),
            "http" | "https" => WebFile::parse(text).map(Self::Web),
            "file" => local(text),
            _ => Err(format!("no kind of address that is known: expected {KINDS}")),
        };
        let address = without_secrets(text);
        let parsed = match address.chars().count() {
            0..=LONGEST => parsed,
            more => Err(format!("{more} characters: expected at most {LONGEST}")),
        };
        parsed.map(Some).map_err(|reason| FetchError::Malformed { address, reason })
    }
}

/// True for what may stand before `://`.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || "+-.".contains(one))
}

/// An address as errors show it: without user, password and query, which may hold what is secret.
fn without_secrets(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => shown(&url),
        _ => text.to_owned(),
    }
}

/// A place of the web without user, password, query and hash.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

impl HubFile {
    fn parse(rest: &str) -> Result<Self, String> {
        let expected =
            || "expected hf://OWNER/NAME[@REVISION]/FILE, or hf://datasets/OWNER/NAME/FILE".to_owned();
        let (is_dataset, rest) = match rest.split_once('/') {
            Some(("datasets", rest)) => (true, rest),
            Some(("models", rest)) => (false, rest),
            Some(("spaces", _)) => return Err(expected()),
            _ => (false, rest),
        };
        let (owner, rest) = rest.split_once('/').ok_or_else(expected)?;
        let (name, file) = rest.split_once('/').ok_or_else(expected)?;
        let (name, revision) = name.split_once('@').map_or((name, None), |(name, at)| (name, Some(at)));
        // A reference of a pull request has slashes.
        let (revision, file) = match (revision, file.split('/').collect::<Vec<_>>().as_slice()) {
            (None, _) => (MAIN.to_owned(), file.to_owned()),
            (Some("refs"), [kind @ ("pr" | "convert"), one, rest @ ..]) => {
                (format!("refs/{kind}/{one}"), rest.join("/"))
            }
            (Some(revision), _) => {
                let decoded = percent_decode_str(revision).decode_utf8().map_err(|_| expected())?;
                (decoded.into_owned(), file.to_owned())
            }
        };
        for (what, part) in [("owner", owner), ("name", name)] {
            if !is_name(part) {
                return Err(format!("{what} {part:?}: expected letters, digits, `-`, `_` and `.`"));
            }
        }
        for (what, path) in [("revision", &revision), ("file", &file)] {
            if !is_relative(path) {
                return Err(format!("{what} {path:?}: expected names with `/` between them"));
            }
        }
        let repository = Repository { is_dataset, owner: owner.to_owned(), name: name.to_owned() };
        Ok(Self { repository, revision, file })
    }

    /// Another file of the same repository, at the same revision.
    pub fn beside(&self, file: String) -> Option<Self> {
        is_relative(&file).then(|| Self { file, ..self.clone() })
    }

    /// The same file at another revision.
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: revision.to_owned(), ..self.clone() }
    }
}

/// True for what may be an owner or a repository.
fn is_name(text: &str) -> bool {
    let known = |one: char| one.is_ascii_alphanumeric() || "-_.".contains(one);
    !text.is_empty() && text.len() <= 96 && text.chars().all(known) && !text.starts_with('.')
}

/// True for a path that stays where it begins.
fn is_relative(path: &str) -> bool {
    let part = |part: &str| !["", ".", ".."].contains(&part);
    path.split('/').all(part) && !path.chars().any(|one| one == '\\' || one.is_control())
}

impl Repository {
    /// Name of its kind, as the Hub has it in folders and addresses.
    pub(crate) fn kind(&self) -> &'static str {
        if self.is_dataset { "datasets" } else { "models" }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_dataset { "datasets/" } else { "" };
        write!(f, "{kind}{}/{}", self.owner, self.name)
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, revision, file } = self;
        match revision.as_str() {
            MAIN => write!(f, "hf://{repository}/{file}"),
            // One with slashes is written as it is read.
            _ => write!(f, "hf://{repository}@{revision}/{file}"),
        }
    }
}

impl WebFile {
    fn parse(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| error.to_string())?;
        let checksum = url.fragment().unwrap_or_default().to_owned();
        url.set_fragment(None);
        let checksum = checksum.parse::<Checksum>().map_err(|error| match of_hub(&url) {
            Some(hub) => format!("a hash is missing ({error}), or say {hub}"),
            None => format!("a hash is missing: {error}"),
        })?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let name = percent_decode_str(name).decode_utf8().map_err(|error| error.to_string())?.into_owned();
        if !is_relative(&name) || name.contains('/') {
            return Err("it names no file".to_owned());
        }
        Ok(Self { url, checksum, name })
    }
}

impl fmt::Display for WebFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))
    }
}

/// The Hub's own form of a page's address, if it is one of a file.
fn of_hub(url: &Url) -> Option<String> {
    let path = url.path().trim_start_matches('/');
    let (repository, rest) = ["/resolve/", "/blob/"].iter().find_map(|word| path.split_once(word))?;
    let (revision, file) = rest.split_once('/')?;
    let is_hub = url.host_str() == Some("huggingface.co");
    is_hub.then(|| format!("hf://{repository}@{revision}/{file}"))
}

fn local(text: &str) -> Result<Address, String> {
    let expected = || "expected file:///PATH".to_owned();
    let url = Url::parse(text).map_err(|_| expected())?;
    let checksum = url.fragment().map(str::parse).transpose()?;
    let path = url.to_file_path().map_err(|()| expected())?;
    Ok(Address::Local { path, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> HubFile {
        match Address::parse(text) {
            Ok(Some(Address::Hub(file))) => file,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refused(text: &str) -> String {
        Address::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_of_the_hub_has_a_repository_a_revision_and_a_path() {
        let file = hub("hf://ridger/SpikeGPT-OpenWebText-216M/SpikeGPT-216M.pth");
        assert_eq!(file.repository.to_string(), "ridger/SpikeGPT-OpenWebText-216M");
        assert_eq!((file.revision.as_str(), file.file.as_str()), ("main", "SpikeGPT-216M.pth"));
        let data = hub("hf://datasets/Salesforce/wikitext@b08601e/raw/valid.txt");
        assert!(data.repository.is_dataset);
        assert_eq!((data.revision.as_str(), data.file.as_str()), ("b08601e", "raw/valid.txt"));
        for (text, revision) in
            [("hf://a/b@refs/pr/7/c/d.bin", "refs/pr/7"), ("hf://a/b@refs%2Fpr%2F7/c/d.bin", "refs/pr/7")]
        {
            let file = hub(text);
            assert_eq!((file.revision.as_str(), file.file.as_str()), (revision, "c/d.bin"));
            assert_eq!(hub(&file.to_string()), file, "it is read as it is written");
        }
        assert_eq!(hub("hf://models/a/b/c").to_string(), "hf://a/b/c");
    }

    #[test]
    fn nothing_leads_out_of_the_folders_that_files_are_kept_in() {
        for text in [
            "hf://a/b",
            "hf://a",
            "hf://",
            "hf://a/b/",
            "hf://a/b/../c",
            "hf://a/b@../c",
            "hf://a/b@..%2F../c",
            "hf://../b/c",
            "hf://a/..b/c",
            "hf://a/b//c",
            "hf://a/b/c\\d",
            "hf://a b/c/d",
            "hf://spaces/a/b/c",
            "hf://a/b@/c",
            "hf://a/b/c\nd",
        ] {
            assert!(refused(text).contains("expected"), "{text}: {}", refused(text));
        }
        let hash = "0".repeat(64);
        for path in ["", "..", "a/", "%2e%2e", "a%2Fb", "a%5Cb"] {
            let text = format!("https://host/{path}#sha256={hash}");
            assert!(refused(&text).ends_with("it names no file"), "{text}: {}", refused(&text));
        }
    }

    #[test]
    fn a_file_of_the_web_comes_with_its_hash() {
        let hash = "ab".repeat(32);
        let Ok(Some(Address::Web(file))) =
            Address::parse(&format!("https://h:8/a/m%20x.pth?k=v#blake3={hash}"))
        else {
            panic!("an address of the web");
        };
        assert_eq!((file.name.as_str(), file.checksum), ("m x.pth", Checksum::Blake3(hash)));
        let error = refused("https://user:secret@host/m.pth?token=secret");
        assert_eq!(error, "https://host/m.pth: a hash is missing: expected #sha256=DIGITS or #blake3=DIGITS");
        let error = refused("https://huggingface.co/a/b/resolve/main/c/d.pth");
        assert!(error.ends_with("or say hf://a/b@main/c/d.pth"), "{error}");
    }

    #[test]
    fn a_path_is_no_address() {
        for text in ["model.pth", "/a/b", "C:\\models", "a:b", "://x", "../hf:/x", "bytes", "a b://c"] {
            assert_eq!(Address::parse(text).unwrap(), None, "{text}");
        }
        let Ok(Some(Address::Local { path, checksum: None })) = Address::parse("file:///a/b%20c") else {
            panic!("a file of this machine");
        };
        assert_eq!(path, PathBuf::from("/a/b c"));
        assert!(refused("file://host/a").contains("expected file:///PATH"));
        assert!(refused("s3://bucket/key").contains("no kind of address that is known: expected hf://"));
    }
}
