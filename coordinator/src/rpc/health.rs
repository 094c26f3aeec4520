//! Health of the coordinator, by the standard gRPC health service.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::driver::{Handle, Refusal};

/// Time between two questions to the driver, and the longest that it may take to answer.
const OFTEN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

/// Says of both services whether the driver answers and the store can be written, until `stop` is cancelled. Of the
/// program as a whole (the empty service) it is said that it lives, which is all that a restart could mend.
pub async fn watch_health(driver: Handle, health: HealthReporter, stop: CancellationToken) {
    let say = async |status| {
        for service in ["qslm.v1.Work", "qslm.v1.Experiments"] {
            health.set_service_status(service, status).await;
        }
    };
    loop {
        let answer = tokio::time::timeout(PATIENCE, driver.snapshot()).await;
        // One that has too much to do does something.
        let well = matches!(answer, Ok(Ok(_) | Err(Refusal::Busy)));
        say(if well { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            () = tokio::time::sleep(OFTEN) => {}
            () = stop.cancelled() => break,
        }
    }
    say(ServingStatus::NotServing).await;
}
