//! The loop of every kind that trains: step by step, until it is told to stop, with checkpoints whenever one is due.

use qslm_engine::jobs::{JobError, Watch};

/// A run that is done step by step, and can be saved between two.
pub(super) trait Stepping {
    /// Steps that are done.
    fn done(&self) -> u64;

    /// Does a step; the loss that it lowers, before it.
    ///
    /// # Errors
    /// [`JobError`].
    fn step(&mut self) -> Result<f64, JobError>;

    /// A checkpoint.
    fn save(&self) -> Vec<u8>;
}

/// Trains from `first`, the number of steps at which the job begins, up to `last`.
///
/// # Errors
/// [`JobError::Interrupted`], [`JobError::NotFinite`] with the step, and what a step answers.
pub(super) fn go_on(
    run: &mut impl Stepping,
    (first, last): (u64, u64),
    watch: &dyn Watch,
) -> Result<(), JobError> {
    while run.done() < last {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let loss = run.step()?;
        if !loss.is_finite() {
            let step = run.done();
            return Err(JobError::NotFinite(format!(
                "step {step}: the loss is not finite; try a lower rate"
            )));
        }
        watch.progress(run.done() - first, last - first);
        if watch.is_checkpoint_due() {
            watch.save_checkpoint(run.save());
        }
    }
    Ok(())
}
