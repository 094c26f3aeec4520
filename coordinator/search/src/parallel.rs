//! Parallel map over a range, on all cores.

use std::ops::Range;
use std::thread::{self, ScopedJoinHandle};

/// Items below which a second thread is not worth its start.
const WORTH_A_THREAD: usize = 512;

/// Results of `f` for the slices of a range, in order, on all cores if that is worth it.
pub(crate) fn in_parallel<T: Send, E: Send>(
    range: Range<usize>,
    f: &(impl Fn(Range<usize>) -> Result<Vec<T>, E> + Sync),
) -> Result<Vec<T>, E> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(range.len() / WORTH_A_THREAD).max(1);
    let share = range.len().div_ceil(threads).max(1);
    let first = range.start..range.end.min(range.start + share);
    let others = (first.end..range.end).step_by(share).map(|start| start..range.end.min(start + share));
    thread::scope(|scope| {
        let start = |slice: Range<usize>| {
            let started = thread::Builder::new().spawn_scoped(scope, {
                let slice = slice.clone();
                move || f(slice)
            });
            started.map_err(|_| slice)
        };
        let others: Vec<_> = others.map(start).collect();
        let mut all = f(first)?;
        for other in others {
            match other.map(ScopedJoinHandle::join) {
                Ok(Ok(slice)) => all.extend(slice?),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // The system allows no more threads.
                Err(slice) => all.extend(f(slice)?),
            }
        }
        Ok(all)
    })
}
