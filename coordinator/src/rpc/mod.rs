//! The gRPC services: thin translations between wire messages and requests to the driver.

mod backup;
mod experiments;
mod health;
mod needs;
mod quotas;
mod space;
pub mod status;
mod told;
mod transfer;
mod work;

pub use experiments::ExperimentsService;
pub use health::watch_health;
pub use needs::needs;
pub use quotas::Quotas;
pub use work::WorkService;

use std::io::ErrorKind;
use std::time::Duration;

use qslm_transport::gate::busy;
use tonic::Status;

use crate::driver::Refusal;
use crate::store::ArtifactError;

/// Delay after which to call again if too many calls wait (back-pressure).
const SOON: Duration = Duration::from_millis(500);

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::not_found(words),
            Refusal::Ambiguous(_) => Self::failed_precondition(words),
            Refusal::Invalid(_) => Self::invalid_argument(words),
            Refusal::Conflict(_) => Self::already_exists(words),
            Refusal::NotNow(_) => Self::failed_precondition(words),
            Refusal::Busy => busy(&words, SOON),
            Refusal::Stopping | Refusal::Failed(_) => Self::unavailable(words),
            Refusal::Superseded(_) => Self::aborted(words),
        }
    }
}

/// Answer to the caller about an artifact that is not stored or not handed out.
fn refuse(error: ArtifactError) -> Status {
    let words = error.to_string();
    match error {
        ArtifactError::OtherContent { .. } | ArtifactError::TooLarge => Status::invalid_argument(words),
        ArtifactError::TooMuch(_) => Status::resource_exhausted(words),
        ArtifactError::Missing { .. } => Status::not_found(words),
        ArtifactError::Damaged { .. } => Status::data_loss(words),
        // Trying again mends nothing; anything else that is wrong with a disk may pass.
        ArtifactError::Unreadable { error, .. } if error.kind() == ErrorKind::PermissionDenied => {
            Status::failed_precondition(words)
        }
        ArtifactError::Unwritable { .. } | ArtifactError::Unreadable { .. } => Status::internal(words),
    }
}
