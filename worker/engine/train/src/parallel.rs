//! Work shared among threads: jobs that write to places of their own.
//!
//! No number depends on which thread computed it, because no two jobs add to the same place.

use std::sync::Mutex;

/// Runs every job on one of as many threads as there are scratches. Whoever is free takes the next one.
///
/// # Panics
/// If a job does.
pub(crate) fn for_each<Scratch: Send, Job: Send>(
    scratches: &mut [Scratch],
    jobs: impl IntoIterator<Item = Job, IntoIter: Send>,
    run: impl Fn(&mut Scratch, Job) + Sync,
) {
    let jobs = Mutex::new(jobs.into_iter());
    // A lock that a panicking job held leaves jobs as they were: the panic goes on to the caller in any case.
    let next = || jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let work = |scratch: &mut Scratch| {
        while let Some(job) = next() {
            run(scratch, job);
        }
    };
    let Some((own, others)) = scratches.split_first_mut() else { return };
    std::thread::scope(|scope| {
        for scratch in others {
            scope.spawn(|| work(scratch));
        }
        work(own);
    });
}

/// Cuts a buffer of rows of `width` numbers into pieces of so many rows each.
///
/// # Panics
/// If there are fewer rows.
pub(crate) fn split_rows(
    mut buffer: &mut [f32],
    width: usize,
    rows: impl IntoIterator<Item = usize>,
) -> Vec<&mut [f32]> {
    let cut = |rows: usize| buffer.split_off_mut(..rows * width).expect("as many rows as there are");
    rows.into_iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let mut places = vec![0; 100];
            let mut counts = vec![0; threads];
            for_each(&mut counts, places.iter_mut().enumerate(), |count, (index, place)| {
                *count += 1;
                *place += index;
            });
            assert_eq!(places, (0..100).collect::<Vec<_>>());
            assert_eq!(counts.iter().sum::<usize>(), 100);
        }
    }

    #[test]
    fn rows_are_cut_where_windows_end() {
        let mut buffer: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let pieces = split_rows(&mut buffer, 2, [1, 0, 3]);
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [2, 0, 6]);
        assert_eq!(pieces[2][0], 2.0);
    }
}
