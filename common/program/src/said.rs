//! Output of a program: lines on standard error, and the help that its flags ask for.
//!
//! Nobody may be there to read: standard error may be a full disk or a pipe that was closed. What `eprintln!` does then is
//! to panic, and what the panic says goes to the same place, so that the program aborts. A line that cannot be written is
//! dropped here, and the work goes on.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// Writes a line to standard error; one that cannot be written is dropped.
pub fn say(line: impl fmt::Display) {
    // In one piece, so that lines of several programs do not mix in one file.
    let text = format!("{line}\n");
    drop(io::stderr().write_all(text.as_bytes()));
}

/// The flags of this process. Help, a version, or what is wrong with the flags is printed, and is the exit code.
///
/// # Errors
/// The exit code, if there is nothing to do but to end with it.
pub fn flags<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|answer| {
        let printed = answer.print().and_then(|()| io::stdout().flush());
        match printed {
            // Help is what was asked for. A reader that went away (`| head`) is no failure.
            Err(error) if !answer.use_stderr() && error.kind() != io::ErrorKind::BrokenPipe => {
                say(format_args!("error: standard output: {error}"));
                ExitCode::FAILURE
            }
            _ => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2)),
        }
    })
}
