//! Limits of the system on a program: threads, open files, and bytes of a file.
//!
//! A runtime that lacks a thread does not fail: it keeps what the thread was for until another one is free, which may be
//! never. A server that lacks open files does not fail either: whoever calls it waits. So what is needed is tried before.

use std::io;
use std::sync::mpsc::channel;
use std::thread;

use anyhow::Context;

/// Threads that a program has beside those that it reckons with: for names that are looked up, files, a bar that moves.
const BESIDE: usize = 4;
/// Files that a runtime has open, and one or two that are read.
pub(crate) const OF_A_RUNTIME: usize = 8;
/// Files that are open already, as a guess.
const OPEN: usize = 256;

/// Number of threads that a runtime may take: one per core, or what there is; `None` if there are enough.
///
/// # Errors
/// If not even one is left beside what else is needed.
pub(crate) fn runtime_threads() -> anyhow::Result<Option<usize>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    match spare_threads(cores + BESIDE) {
        (_, None) => Ok(None),
        (found, Some(_)) if found > BESIDE => Ok(Some(found - BESIDE)),
        (found, Some(error)) => Err(error).with_context(|| few_threads(BESIDE + 1, found)),
    }
}

/// Fails unless so many more threads can run at once.
///
/// # Errors
/// One line that says how many there may be.
pub fn ensure_threads(needed: usize) -> anyhow::Result<()> {
    let needed = needed + BESIDE;
    match spare_threads(needed) {
        (_, None) => Ok(()),
        (found, Some(error)) => Err(error).with_context(|| few_threads(needed, found)),
    }
}

/// Number of `wanted` more threads that can run at once, and the reason why there are not more.
fn spare_threads(wanted: usize) -> (usize, Option<io::Error>) {
    thread::scope(|scope| {
        let (mut waiting, mut error) = (Vec::new(), None);
        while waiting.len() < wanted && error.is_none() {
            // Each waits for its sender to go.
            let (sender, receiver) = channel::<()>();
            match thread::Builder::new().spawn_scoped(scope, move || receiver.recv()) {
                Ok(_) => waiting.push(sender),
                Err(refused) => error = Some(refused),
            }
        }
        (waiting.len(), error)
    })
}

/// Fails unless so many more files can be open at once. The limit is raised as far as it may be.
///
/// # Errors
/// One line that says how many there may be.
pub fn ensure_files(needed: usize) -> anyhow::Result<()> {
    if spare_files(needed).1.is_none() {
        return Ok(());
    }
    // What matters is whether there are enough afterwards.
    drop(rlimit::increase_nofile_limit((needed + OPEN) as u64));
    let (found, error) = spare_files(needed);
    error.map_or(Ok(()), Err).with_context(|| few("open files", needed, found, "open files (ulimit -n)"))
}

/// Number of `wanted` more files that can be open at once, and the reason why there are not more.
#[cfg(unix)]
fn spare_files(wanted: usize) -> (usize, Option<io::Error>) {
    use std::os::fd::AsFd;
    let stderr = io::stderr();
    let mut open = Vec::new();
    while open.len() < wanted {
        match stderr.as_fd().try_clone_to_owned() {
            Ok(file) => open.push(file),
            Err(error) => return (open.len(), Some(error)),
        }
    }
    (wanted, None)
}

#[cfg(not(unix))]
fn spare_files(wanted: usize) -> (usize, Option<io::Error>) {
    (wanted, None)
}

fn few_threads(needed: usize, found: usize) -> String {
    few("threads", needed, found, "processes (ulimit -u, pids.max)")
}

fn few(what: &str, needed: usize, found: usize, limit: &str) -> String {
    format!("{needed} more {what} are needed and {found} can be had; raise the limit of {limit}")
}

/// Has the system report a file that grows beyond its limit (`ulimit -f`) as a failed write, instead of ending the
/// program without a word. Has to be called on a tokio runtime.
///
/// # Errors
/// If the signal cannot be handled.
#[cfg(unix)]
pub(crate) fn large_files_are_errors() -> io::Result<()> {
    /// SIGXFSZ of Linux on anything but MIPS, and of macOS and the BSDs.
    const TOO_LARGE: i32 = 25;
    // A signal that is handled does not end the program; the handler stays when this is dropped.
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(TOO_LARGE)).map(drop)
}

#[cfg(not(unix))]
pub(crate) fn large_files_are_errors() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_small_program_needs_can_be_had() {
        ensure_threads(8).unwrap();
        ensure_files(16).unwrap();
        assert!(matches!((spare_threads(3), spare_files(3)), ((3, None), (3, None))));
    }
}
