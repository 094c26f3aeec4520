//! The frame of a program: everything that is the same whatever the program does.
//!
//! One idea: a program is a function of its settings. [`run`] reads them in layers ([`settings`]: defaults, file, variables,
//! flags), calls the function on a runtime of its own, and turns its error into one line on standard error and an exit code,
//! which a [`Coded`] error chooses. Underneath: [`flags`] parses the command line and [`say`] writes a line, also to an end
//! that is gone; [`init_log`] starts the log, and [`init_service_log`] one that never blocks; [`cancelled_by_signals`] gives
//! the token by which a program ends within a bounded time; [`limits`] asks the system for threads and open files before
//! they are needed.
//!
//! Beside the frame stand a few things that all programs do alike: [`chain`] says an error and its causes on one line,
//! [`hash_file`] names a file by its content, [`in_pieces`] cuts it for sending, [`quietly`] catches panics of other people's
//! code, [`Port`] is an address that may be off, and a [`CrashPlan`] says where to die, for tests. Connections and tokens are
//! in `qslm-transport`.

mod chain;
mod crash;
mod ending;
mod hash;
pub mod limits;
mod log;
mod pieces;
mod port;
mod quiet;
mod said;
pub mod settings;

pub use chain::chain;
pub use crash::{CrashPlan, CrashPoints, InvalidPlan};
pub use ending::{TERMINATION_MESSAGE, fail};
pub use hash::{hash_file, hash_reader};
pub use log::{LogFlags, LogFormat, init_log, init_service_log};
pub use pieces::in_pieces;
pub use port::{InvalidAddress, InvalidPort, Port, address, deserialize_address};
pub use quiet::{panic_words, quietly};
pub use said::{flags, say};

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// Time that threads may go on once a program is done. An evaluation looks only between two sequences whether it should
/// stop, and nobody waits for it then.
const GRACE: Duration = Duration::from_secs(3);

/// A failure with an exit code of its own.
#[derive(Debug)]
pub struct Coded {
    code: u8,
    error: anyhow::Error,
}

impl Coded {
    /// Makes an error end the program with `code`.
    pub fn error(code: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
        Self { code, error: error.into() }.into()
    }

    /// A setting that makes no sense.
    pub fn setting(error: impl Into<anyhow::Error>) -> anyhow::Error {
        Self::error(2, error)
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.error.as_ref()))
    }
}

impl std::error::Error for Coded {}

/// Runs a program: reads its settings as [`settings::load`] does and calls `body` with them. A failure is
/// printed on one line, and left where [`fail`] leaves it; the exit code is 2 for settings that make no sense, that of a [`Coded`] failure, and 1 for
/// anything else.
pub fn run<T, F>(
    file: Option<&Path>,
    prefix: &str,
    flags: &impl Serialize,
    body: impl FnOnce(T) -> F,
) -> ExitCode
where
    T: Default + Serialize + DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    let body = |settings| block_on(body(settings)).unwrap_or_else(Err);
    let (error, code) = match settings::load(file, prefix, flags).map(body) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let code = error.downcast_ref::<Coded>().map_or(1, |coded| coded.code);
            (error, code)
        }
        Err(error) => (error, 2),
    };
    fail(code, &chain(error.as_ref()))
}

/// Runs a future to its end on a runtime of its own, and leaves what else is going on a few seconds to end.
///
/// # Errors
/// If the runtime cannot be started: there are too few threads or open files.
pub fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    limits::ensure_files(limits::OF_A_RUNTIME)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = limits::runtime_threads()? {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().context("cannot start")?;
    {
        let _entered = runtime.enter();
        limits::large_files_are_errors().context("cannot start")?;
    }
    let output = runtime.block_on(future);
    runtime.shutdown_timeout(GRACE);
    Ok(output)
}

/// The number of the signal that ended the program, if one did.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// The number of the first SIGINT (2) or SIGTERM (15) that [`cancelled_by_signals`] saw; 0 before.
pub fn signal() -> u8 {
    SIGNAL.load(Ordering::Relaxed)
}

/// A token that is cancelled by the first SIGINT or SIGTERM; later ones change nothing. Whoever holds it ends
/// within a bounded time.
///
/// # Errors
/// If the signals cannot be watched.
pub fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancel = token.clone();
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        #[cfg(unix)]
        let signal = tokio::select! {
            _ = tokio::signal::ctrl_c() => 2,
            _ = terminate.recv() => 15,
        };
        #[cfg(not(unix))]
        let signal = {
            let _ = tokio::signal::ctrl_c().await;
            2
        };
        SIGNAL.store(signal, Ordering::Relaxed);
        cancel.cancel();
    });
    Ok(token)
}
