//! Access by token: a file of bearer tokens, each with a role.
//!
//! A line has a role, a name for logs, and the token, separated by white space; `#` begins a comment:
//!
//! ```text
//! worker     pool     5b0ecf4a1d6c4f0f9e7a2c3d4e5f6071
//! submitter  alice    0a1b2c3d4e5f60718293a4b5c6d7e8f9
//! ```

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use crate::watched::Watched;

/// Characters of a token. Whoever guesses has to guess 16 of them at least.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;
/// Bytes of a file that is read at all.
const LARGEST: u64 = 1 << 20;

/// Role of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes leases, brings results, fetches artifacts.
    Worker,
    /// Looks at experiments.
    Reader,
    /// Looks at experiments, and submits and changes them.
    Submitter,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Reader => "reader",
            Self::Submitter => "submitter",
        })
    }
}

/// A caller, known by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name beside the token.
    pub name: String,
    /// Role of the caller.
    pub role: Role,
}

/// The tokens of a file, read again when it changes. They are kept as hashes, and compared as such: how long a
/// comparison takes says nothing about a token.
pub struct Tokens(Watched<HashMap<blake3::Hash, Arc<Caller>>>);

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// One line that names the file, the line, and what is wrong; never a token.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let path: PathBuf = path.to_owned();
        if is_readable_by_all(&path) {
            tracing::warn!("{}: everybody on this machine can read these tokens: chmod o-r", path.display());
        }
        let file = path.clone();
        let read = move || {
            let size = std::fs::metadata(&file).map(|metadata| metadata.len());
            let size = size.with_context(|| file.display().to_string())?;
            ensure!(size <= LARGEST, "{}: {size} bytes: expected at most {LARGEST}", file.display());
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).with_context(|| file.display().to_string())
        };
        Ok(Self(Watched::new([path], read)?))
    }

    /// Number of tokens.
    pub fn count(&self) -> usize {
        self.0.get().len()
    }

    /// The caller with this token, if there is one.
    pub fn caller(&self, token: &str) -> Option<Arc<Caller>> {
        self.0.get().get(&blake3::hash(token.as_bytes())).cloned()
    }
}

/// True if others than the owner and the group of a file may read it, where a system has such.
fn is_readable_by_all(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o004 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

fn parse(text: &str) -> anyhow::Result<HashMap<blake3::Hash, Arc<Caller>>> {
    let mut callers = HashMap::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        let (role, name, token) = match words[..] {
            [] => continue,
            [role, name, token] => (role, name, token),
            _ => bail!("line {number}: {} words: expected ROLE NAME TOKEN", words.len()),
        };
        let role = match role {
            "worker" => Role::Worker,
            "reader" => Role::Reader,
            "submitter" => Role::Submitter,
            // Words may stand in the wrong order, and a token is not to be printed.
            _ => bail!("line {number}: expected worker, reader or submitter as the first word"),
        };
        check(token).with_context(|| format!("line {number}"))?;
        let caller = Arc::new(Caller { name: name.to_owned(), role });
        let known = callers.insert(blake3::hash(token.as_bytes()), caller);
        ensure!(known.is_none(), "line {number}: this token stands on an earlier line, too");
    }
    ensure!(!callers.is_empty(), "no tokens");
    Ok(callers)
}

/// Fails if a text is no token.
pub(crate) fn check(token: &str) -> anyhow::Result<()> {
    let length = token.chars().count();
    ensure!(
        LENGTHS.contains(&length),
        "a token of {length} characters: expected {} to {}",
        LENGTHS.start(),
        LENGTHS.end()
    );
    ensure!(token.chars().all(|c| c.is_ascii_graphic()), "a token has visible ASCII characters only");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[cfg(unix)]
    #[test]
    fn tokens_are_counted_and_a_file_that_everybody_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = ["worker w wwwwwwwwwwwwwwww", "# nobody", "reader r rrrrrrrrrrrrrrrr"];
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        assert_eq!(Tokens::load(file.path()).unwrap().count(), 2);
        for (mode, expected) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_all(file.path()), expected, "{mode:o}");
        }
        // What is no file (a pipe of a shell) is nobody's to read.
        assert!(!is_readable_by_all(Path::new("/dev/null")));
    }

    #[test]
    fn a_token_gives_its_caller() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Some editors write a byte-order mark first.
        let lines = format!("worker pool {TOKEN}\n\n# who\n reader eve {TOKEN}x # eve\n");
        std::fs::write(file.path(), format!("\u{feff}{lines}")).unwrap();
        let tokens = Tokens::load(file.path()).unwrap();
        let caller = tokens.caller(TOKEN).unwrap();
        assert_eq!((caller.name.as_str(), caller.role), ("pool", Role::Worker));
        assert_eq!(tokens.caller(&format!("{TOKEN}x")).unwrap().role, Role::Reader);
        assert!(tokens.caller("0123456789abcde").is_none() && tokens.caller("").is_none());
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_no_token_is_printed() {
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert_eq!(error(""), "no tokens");
        assert_eq!(error("\nworker pool"), "line 2: 2 words: expected ROLE NAME TOKEN");
        let wrong = error(&format!("{TOKEN} worker pool"));
        assert_eq!(wrong, "line 1: expected worker, reader or submitter as the first word");
        assert_eq!(error("worker pool short"), "line 1: a token of 5 characters: expected 16 to 512");
        let twice = error(&format!("worker a {TOKEN}\nreader b {TOKEN}"));
        assert_eq!(twice, "line 2: this token stands on an earlier line, too");
        assert!(error("worker a 0123456789abcdé€").contains("visible ASCII"));
    }
}
