//! Fetching an artifact for a lease, with patience: which failures of a call pass, and which are an answer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use qslm_common::hash::ContentHash;
use qslm_proto::v1::work_client::WorkClient;
use qslm_transport::Link;
use tonic::Code;

use crate::backoff::backoff;
use crate::cache::{ArtifactCache, CacheError};
use crate::failure::{Cause, EvaluationFailure};

/// Attempts after which it is believed that the coordinator cannot read an artifact.
const PATIENCE: u32 = 6;

/// The file of an artifact. That the coordinator is away is no fault of the trial, so this tries until the lease ends.
pub(crate) async fn fetch(
    hash: ContentHash,
    cache: &ArtifactCache,
    client: &WorkClient<Link>,
    interrupt: &AtomicBool,
) -> Result<PathBuf, EvaluationFailure> {
    for failures in 1.. {
        match cache.ensure(hash, &mut client.clone()).await {
            Ok(path) => return Ok(path),
            Err(CacheError::Fetch { status, .. })
                if is_passing(status.code()) && (failures < PATIENCE || !is_answer(status.code())) =>
            {
                tracing::warn!(artifact = %hash, code = %status.code(), "cannot be fetched now");
            }
            Err(error) => {
                let cause = match error {
                    CacheError::Io { .. } | CacheError::TooLarge { .. } => Cause::Disk,
                    CacheError::Fetch { .. } | CacheError::OtherContent { .. } => Cause::Other,
                };
                return Err(EvaluationFailure::machine(cause, error));
            }
        }
        tokio::time::sleep(backoff(failures)).await;
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
    }
    Err(EvaluationFailure::Interrupted)
}

/// True for a code that may be the coordinator's own word, that it cannot read the file, and not the connection's.
fn is_answer(code: Code) -> bool {
    matches!(code, Code::Internal | Code::Unknown)
}

/// True if a call failed for the connection's sake and not for what it asked.
pub(crate) fn is_passing(code: Code) -> bool {
    !matches!(
        code,
        Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::DataLoss
    )
}
