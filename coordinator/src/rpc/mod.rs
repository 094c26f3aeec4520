//! The gRPC services: thin translations between wire messages and requests to the driver.

mod experiments;
mod health;
mod needs;
mod quotas;
mod work;

pub use experiments::ExperimentsService;
pub use health::watch_health;
pub use needs::needs;
pub use quotas::Quotas;
pub use work::WorkService;

use std::time::Duration;

use qslm_transport::gate::busy;
use tonic::Status;

use crate::driver::Refusal;

/// Bytes per message of an artifact stream.
const CHUNK: usize = 256 * 1024;
/// When to call again if too many calls wait.
const SOON: Duration = Duration::from_millis(500);

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::not_found(words),
            Refusal::Ambiguous(_) => Self::failed_precondition(words),
            Refusal::Busy => busy(&words, SOON),
            Refusal::Stopping => Self::unavailable(words),
        }
    }
}
