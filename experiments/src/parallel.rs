//! Work cut over threads, with results in order, so that they do not depend on how many threads there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qslm_common::measurement::Counts;
use qslm_common::task::Shard;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, EvaluateError, evaluate, evaluate_each};

/// As many threads as asked for, or one per core.
pub fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

/// `f(0)`, `f(1)` ... `f(count - 1)` in this order, computed in `threads` threads, or as many as the system allows. After a failure nothing more is
/// started; the failure of the lowest index wins.
pub fn map<T: Send, E: Send>(
    count: usize,
    threads: usize,
    f: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result = f(index);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((index, result));
        }
        done
    };
    let mut results = std::thread::scope(|scope| {
        // This thread is one of them.
        let other = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads.clamp(1, count.max(1))).map_while(other).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let mut results: Vec<(usize, Result<T, E>)> = work();
        results.extend(others.into_iter().flat_map(join));
        results
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The counts of all of the data.
pub fn evaluate_all(model: &SpikeGpt, data: &Dataset, threads: usize) -> Result<Counts, EvaluateError> {
    let of = threads.clamp(1, data.len().max(1)) as u32;
    let part = |index| evaluate(model, data, Shard { index: index as u32, of }.range(data.len()), &|| false);
    Ok(Counts::sum(model.network().population_count(), &map(of as usize, threads, part)?)?)
}

/// The counts of every sequence of the data.
pub fn evaluate_every(
    model: &SpikeGpt,
    data: &Dataset,
    threads: usize,
) -> Result<Vec<Counts>, EvaluateError> {
    let of = threads.clamp(1, data.len().max(1)) as u32;
    let part = |index| {
        evaluate_each(model, data, Shard { index: index as u32, of }.range(data.len()), None, &|| false)
    };
    Ok(map(of as usize, threads, part)?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_threads() {
        for threads in [1, 2, 7] {
            let squares = map::<_, ()>(100, threads, |index| Ok(index * index)).unwrap();
            assert_eq!(squares, (0..100).map(|index| index * index).collect::<Vec<_>>());
        }
        assert_eq!(map::<(), ()>(0, 3, |_| Err(())), Ok(vec![]));
    }

    #[test]
    fn a_failure_ends_the_work() {
        let started = AtomicUsize::new(0);
        let result = map(1_000_000, 1, |index| {
            started.fetch_add(1, Ordering::Relaxed);
            if index == 3 { Err(index) } else { Ok(()) }
        });
        assert_eq!((result, started.into_inner()), (Err(3), 4));
    }
}
