//! End of the program: a code and, unless it is 0, one line that says why.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use qslm_coordinator::store::StoreError;
use tokio_util::sync::CancellationToken;

/// The documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Anything without a code of its own: a broken file, a failed evaluation.
    Failure = 1,
    /// The command line or a spec asks for something that makes no sense.
    Usage = 2,
    /// A file, experiment or candidate that is not there.
    NotFound = 3,
    /// Something else holds what is needed, such as a store that is in use.
    Conflict = 4,
    /// The coordinator, or a server that has a file, cannot be reached; trying again may help.
    Unavailable = 5,
    /// The experiment finished, but with failed trials or without a candidate that meets the constraints.
    Unmet = 6,
    /// The coordinator, whatever stands in front of it, or a server that has a file does not allow it.
    NotAllowed = 7,
    /// No worker was there for as long as somebody was told to wait for one; the experiment goes on once there is.
    NoWorker = 8,
    /// Interrupted by Ctrl-C; 143 if by SIGTERM.
    Interrupted = 130,
}

/// What comes before the words of a coordinator.
const COORDINATOR: &str = "coordinator: ";

/// A failure on its way to the user.
#[derive(Debug)]
pub struct Failure {
    code: Exit,
    message: String,
}

impl Failure {
    /// A failure with its code and line.
    pub fn new(code: Exit, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// An input file that cannot be used: not found if it is not there. What the system said tells, and not a second look.
    pub fn file(path: &Path, error: &(dyn Error + 'static)) -> Self {
        let (mut kind, mut cause) = (None, Some(error));
        while let Some(error) = cause {
            kind = kind.or_else(|| Some(error.downcast_ref::<io::Error>()?.kind()));
            cause = error.source();
        }
        match kind.and_then(of_the_system) {
            Some((code, words)) => Self::new(code, format!("{}: {words}", path.display())),
            None => Self::new(Exit::Failure, format!("{}: {error}", path.display())),
        }
    }

    /// A folder that cannot be made or used.
    pub fn folder(path: &Path, error: &io::Error) -> Self {
        let words = match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => "is no folder".to_owned(),
            _ => error.to_string(),
        };
        Self::new(Exit::Failure, format!("{}: {words}", path.display()))
    }

    /// A worker that was waited for in vain, as long as somebody said; `what` becomes of it all the same.
    pub fn no_worker(what: &str, most: Duration) -> Self {
        let most = humantime::format_duration(most);
        let words =
            format!("no worker for {most} (--no-worker-timeout); {what}: qslm-worker --coordinator URL");
        Self::new(Exit::NoWorker, words)
    }

    /// A signal that came first.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// Fails if there is no such file.
    pub fn unless_file(path: &Path) -> Outcome {
        match unusable(path) {
            None => Ok(()),
            Some((code, words)) => Err(Self::new(code, format!("{}: {words}", path.display()))),
        }
    }

    /// The same failure, of a store instead of the coordinator that reads it here.
    pub fn of_store(mut self, store: &Path) -> Self {
        if let Some(said) = self.message.strip_prefix(COORDINATOR) {
            self.message = format!("store {}: {said}", store.display());
        }
        self
    }

    /// The code.
    pub fn exit(&self) -> Exit {
        self.code
    }

    /// Prints the line and turns into the code.
    pub fn report(self) -> ExitCode {
        self.reported().into()
    }

    /// Prints the line and ends the program, whatever its other threads do.
    #[expect(
        clippy::disallowed_methods,
        reason = "for programs that have nothing open which a destructor closes"
    )]
    pub fn exit_now(self) -> ! {
        std::process::exit(self.reported().into())
    }

    /// Prints the line. Returns the code.
    fn reported(self) -> u8 {
        const SIGTERM: u8 = 15;
        let code = match (self.code, qslm_program::signal()) {
            (Exit::Interrupted, SIGTERM) => 128 + SIGTERM,
            (code, _) => code as u8,
        };
        let _ = qslm_program::fail(code, &self.message);
        code
    }
}

/// The reason why a path leads to no file, if so.
pub fn unusable(path: &Path) -> Option<(Exit, String)> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() => None,
        Ok(there) if there.is_dir() => of_the_system(io::ErrorKind::IsADirectory),
        Ok(_) => Some((Exit::Failure, "is no ordinary file".to_owned())),
        Err(error) => Some(of_the_system(error.kind()).unwrap_or_else(|| (Exit::Failure, error.to_string()))),
    }
}

/// The code and words where the system refuses a file.
fn of_the_system(kind: io::ErrorKind) -> Option<(Exit, String)> {
    let (code, words) = match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => (Exit::NotFound, "no such file"),
        io::ErrorKind::IsADirectory => (Exit::Failure, "is a folder, not a file"),
        io::ErrorKind::PermissionDenied => (Exit::Failure, "permission denied"),
        _ => return None,
    };
    Some((code, words.to_owned()))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<tonic::Status> for Failure {
    /// A coordinator's refusal, or its absence.
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        // What a coordinator says has no source; a connection that broke has.
        let first = std::iter::successors(std::error::Error::source(&status), |&cause| cause.source()).last();
        let broken = first.is_some();
        let code = match status.code() {
            _ if broken => Exit::Unavailable,
            Code::NotFound => Exit::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
            Code::InvalidArgument => Exit::Usage,
            Code::FailedPrecondition | Code::AlreadyExists => Exit::Conflict,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Exit::Unavailable,
            _ => Exit::Failure,
        };
        let said = status.message();
        let cause = first.map(ToString::to_string).filter(|cause| !said.contains(cause));
        Self::new(
            code,
            format!("{COORDINATOR}{said}{}", cause.map_or(String::new(), |cause| format!(": {cause}"))),
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = if matches!(error, StoreError::InUse(_)) { Exit::Conflict } else { Exit::Failure };
        Self::new(code, error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, qslm_program::chain(error.as_ref()))
    }
}

/// Outcome of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// The outcome of `work`, unless it is interrupted before.
pub async fn unless<T>(
    interrupted: &CancellationToken,
    work: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    tokio::select! {
        done = work => done,
        () = interrupted.cancelled() => Err(Failure::interrupted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error that wraps the system's, as readers do.
    #[derive(Debug, thiserror::Error)]
    enum Wrapped {
        #[error("cannot read: {0}")]
        Io(#[from] io::Error),
        #[error(transparent)]
        Deeper(#[from] Box<Wrapped>),
    }

    #[test]
    fn what_a_store_refuses_is_not_blamed_on_a_coordinator() {
        let said = Failure::from(tonic::Status::not_found("no experiment \"x\""));
        let message = said.of_store(Path::new("runs/s.redb")).message;
        assert_eq!(message, "store runs/s.redb: no experiment \"x\"");
    }

    #[test]
    fn what_the_system_said_of_a_file_is_told_and_not_what_a_second_look_finds() {
        let said = |kind: io::ErrorKind| {
            let wrapped = Wrapped::Deeper(Box::new(Wrapped::Io(kind.into())));
            let failure = Failure::file(Path::new("Cargo.toml"), &wrapped);
            (failure.code, failure.message)
        };
        let words = |code, words: &str| (code, format!("Cargo.toml: {words}"));
        // The file is there; the reader found that it was not.
        assert_eq!(said(io::ErrorKind::NotFound), words(Exit::NotFound, "no such file"));
        assert_eq!(said(io::ErrorKind::PermissionDenied), words(Exit::Failure, "permission denied"));
        assert_eq!(said(io::ErrorKind::IsADirectory), words(Exit::Failure, "is a folder, not a file"));
        assert_eq!(said(io::ErrorKind::TimedOut), words(Exit::Failure, "cannot read: timed out"));
        let gone = Failure::file(Path::new("no/such"), &std::fmt::Error);
        assert_eq!(gone.code, Exit::Failure, "an error that is not about finding it");
        assert_eq!(unusable(Path::new("Cargo.toml")), None);
        assert_eq!(unusable(Path::new("Cargo.toml/x")).unwrap().0, Exit::NotFound);
        assert_eq!(unusable(Path::new("src")).unwrap().1, "is a folder, not a file");
    }
}
