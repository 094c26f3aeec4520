//! How the program ends: a code and, unless it is 0, one line that says why.

use std::fmt;
use std::process::ExitCode;

use qslm_coordinator::store::StoreError;

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
    /// The coordinator cannot be reached; trying again may help.
    Unavailable = 5,
    /// The experiment finished, but with failed trials or without a candidate that meets the constraints.
    Unmet = 6,
    /// The coordinator, or whatever stands in front of it, does not allow it.
    NotAllowed = 7,
    /// Interrupted by Ctrl-C; 143 if by SIGTERM.
    Interrupted = 130,
}

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

    /// An input file that cannot be used: not found if it is not there.
    pub fn file(path: &std::path::Path, error: &dyn std::error::Error) -> Self {
        let code = if path.exists() { Exit::Failure } else { Exit::NotFound };
        let message = match code {
            Exit::NotFound => format!("{}: no such file", path.display()),
            _ => format!("{}: {error}", path.display()),
        };
        Self { code, message }
    }

    /// Fails if there is no such file.
    pub fn unless_file(path: &std::path::Path) -> Outcome {
        match path.is_file() {
            true => Ok(()),
            false => Err(Self::new(Exit::NotFound, format!("{}: no such file", path.display()))),
        }
    }

    /// Prints the line and turns into the code.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            qslm_program::say(format_args!("error: {}", self.message));
        }
        const SIGTERM: u8 = 15;
        match (self.code, qslm_program::signal()) {
            (Exit::Interrupted, SIGTERM) => ExitCode::from(128 + SIGTERM),
            (code, _) => ExitCode::from(code as u8),
        }
    }
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
            format!("coordinator: {said}{}", cause.map_or(String::new(), |cause| format!(": {cause}"))),
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
        // `{:#}` joins the causes with colons, on one line.
        Self::new(Exit::Failure, format!("{error:#}"))
    }
}

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;
