//! Failures of evaluations: whose fault it is, the cause in one word, and the reason in a sentence.

use qslm_proto::v1;

/// Reason why a shard was not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvaluationFailure {
    /// The evaluation fails, here or anywhere.
    Evaluation {
        /// The cause, to be counted.
        cause: Cause,
        /// The reason, to be read.
        reason: String,
    },
    /// A fault of this machine: another one may succeed.
    Machine {
        /// The cause, to be counted.
        cause: Cause,
        /// The reason, to be read.
        reason: String,
    },
    /// The caller asked to stop.
    Interrupted,
}

/// Cause of a failure. See the wire format, which has the same ones, for what each of them covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A loss or a sum that is no finite number.
    NotFinite,
    /// Too little memory.
    Memory,
    /// A backend that is not there.
    Backend,
    /// A checkpoint or candidate that does not fit.
    Checkpoint,
    /// A text, sentences or a tokenizer that does not fit.
    Data,
    /// A panic.
    Panic,
    /// Files that cannot be read or kept, or that were damaged.
    Disk,
    /// Anything else.
    Other,
}

impl EvaluationFailure {
    /// A failure of the evaluation itself.
    pub fn evaluation(cause: Cause, reason: impl ToString) -> Self {
        Self::Evaluation { cause, reason: reason.to_string() }
    }

    /// A fault of this machine.
    pub fn machine(cause: Cause, reason: impl ToString) -> Self {
        Self::Machine { cause, reason: reason.to_string() }
    }
}

impl From<Cause> for v1::shard_failure::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::NotFinite => Self::NotFinite,
            Cause::Memory => Self::Memory,
            Cause::Backend => Self::Backend,
            Cause::Checkpoint => Self::Checkpoint,
            Cause::Data => Self::Data,
            Cause::Panic => Self::Panic,
            Cause::Disk => Self::Disk,
            Cause::Other => Self::Other,
        }
    }
}

impl From<EvaluationFailure> for v1::ShardFailure {
    fn from(failure: EvaluationFailure) -> Self {
        use v1::shard_failure::{Cause, Kind};
        let (reason, kind, cause) = match failure {
            EvaluationFailure::Evaluation { cause, reason } => (reason, Kind::Evaluation, cause.into()),
            EvaluationFailure::Machine { cause, reason } => (reason, Kind::Machine, cause.into()),
            EvaluationFailure::Interrupted => {
                ("interrupted".to_owned(), Kind::Interrupted, Cause::Unspecified)
            }
        };
        // For coordinators that know no kinds.
        let retryable = kind != Kind::Evaluation;
        Self { reason, retryable, kind: kind.into(), cause: cause.into() }
    }
}

#[cfg(test)]
mod tests {
    use qslm_proto::v1::ShardFailure;
    use qslm_proto::v1::shard_failure::{Cause as WireCause, Kind};

    use super::*;

    #[test]
    fn a_failure_travels_with_kind_cause_and_reason() {
        let on_the_wire = |failure: EvaluationFailure| {
            let sent = ShardFailure::from(failure);
            (sent.kind(), sent.cause(), sent.retryable, sent.reason)
        };
        let diverged =
            EvaluationFailure::evaluation(Cause::NotFinite, "the loss of sequence 3 is not finite");
        let words = "the loss of sequence 3 is not finite".to_owned();
        assert_eq!(on_the_wire(diverged), (Kind::Evaluation, WireCause::NotFinite, false, words));
        let full = EvaluationFailure::machine(Cause::Disk, "no space left");
        assert_eq!(on_the_wire(full), (Kind::Machine, WireCause::Disk, true, "no space left".to_owned()));
        let stopped = (Kind::Interrupted, WireCause::Unspecified, true, "interrupted".to_owned());
        assert_eq!(on_the_wire(EvaluationFailure::Interrupted), stopped);
    }
}
