//! The gRPC services: thin translations between wire messages and requests to the driver.

mod experiments;
mod work;

pub use experiments::ExperimentsService;
pub use work::WorkService;

use tonic::Status;

use crate::driver::Refusal;

/// Bytes per message of an artifact stream.
const CHUNK: usize = 256 * 1024;

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::not_found(words),
            Refusal::Ambiguous(_) => Self::failed_precondition(words),
            Refusal::Busy => Self::resource_exhausted(words),
            Refusal::Stopping => Self::unavailable(words),
        }
    }
}
