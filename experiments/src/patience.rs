//! Patience with a coordinator that goes away while somebody waits for an experiment: it is started again, moved to another
//! node, or its tokens are rotated, and the experiment goes on.

use std::time::{Duration, Instant};

use qslm_transport::Connector;

use crate::client::{Client, connect};
use crate::exit::{Exit, Failure, Outcome};

/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Time that a call has to go on before its end is an outage of its own.
const SERVED: Duration = Duration::from_secs(5);

/// The way back to a coordinator, and how long an outage may last.
pub struct Patience<'a> {
    connector: &'a Connector,
    longest: Duration,
    /// True if it has let this caller in: then a token that it does not know is one that is being rotated.
    was_let_in: bool,
}

impl<'a> Patience<'a> {
    /// Patience with a coordinator that was reached.
    pub fn new(connector: &'a Connector, longest: Duration) -> Self {
        Self { connector, longest, was_let_in: false }
    }

    /// The same, of a caller that was let in.
    #[must_use]
    pub fn let_in(self) -> Self {
        Self { was_let_in: true, ..self }
    }

    /// Calls `ask` again, on another connection, for as long as it fails for the coordinator's absence. Whatever it does has to
    /// be safe to do twice.
    ///
    /// # Errors
    /// The failure that does not pass, or the one of an outage that was too long.
    pub async fn call<T>(
        &self,
        client: &mut Client,
        mut ask: impl AsyncFnMut(&mut Client) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut outage: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let failure = match ask(client).await {
                Err(failure) if self.passes(&failure) => failure,
                other => return other,
            };
            outage = outage.filter(|_| begun.elapsed() < SERVED);
            if outage.is_none() {
                let patience_s = self.longest.as_secs_f64();
                tracing::warn!(patience_s, "{failure}; waits for it to come back");
            }
            let since = *outage.get_or_insert_with(Instant::now);
            let left = self.longest.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(failure);
            }
            tokio::time::sleep(PAUSE.min(left)).await;
            let again = connect(self.connector, left.saturating_sub(PAUSE)).await;
            // What it said last is the reason, also where warnings are not shown.
            *client = again.map_err(|absent| Failure::new(absent.exit(), format!("{failure}; {absent}")))?;
        }
    }

    fn passes(&self, failure: &Failure) -> bool {
        match failure.exit() {
            Exit::Unavailable => true,
            Exit::NotAllowed => self.was_let_in,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Embedded;

    const LONG: Duration = Duration::from_secs(20);

    fn failure(code: Exit) -> Outcome<u32> {
        Err(Failure::new(code, "its last words"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_passes_is_asked_again_and_what_does_not_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::start(&folder.path().join("s.redb")).await.unwrap();
        let (connector, mut client) = (embedded.connector().unwrap(), embedded.connect().await.unwrap());
        let patience = || Patience::new(&connector, LONG);
        for (patience, first, asked) in [
            (patience(), Exit::Unavailable, 2),
            (patience().let_in(), Exit::NotAllowed, 2),
            (patience(), Exit::NotAllowed, 1),
            (patience().let_in(), Exit::NotFound, 1),
            (Patience::new(&connector, Duration::ZERO), Exit::Unavailable, 1),
        ] {
            let mut asks = 0;
            let answer = patience
                .call(&mut client, async |_| {
                    asks += 1;
                    if asks == 1 { failure(first) } else { Ok(7) }
                })
                .await;
            assert_eq!(asks, asked, "{first:?}");
            match asked {
                2 => assert_eq!(answer.unwrap(), 7),
                _ => assert_eq!(answer.unwrap_err().exit(), first),
            }
        }
        // One that does not come back: what it said last is the reason.
        embedded.stop().await.unwrap();
        let short = Patience::new(&connector, Duration::from_secs(1));
        let gone = short.call(&mut client, async |_| failure(Exit::Unavailable)).await.unwrap_err();
        assert_eq!(gone.exit(), Exit::Unavailable);
        assert!(gone.to_string().starts_with("its last words; no coordinator answers at http://"), "{gone}");
    }
}
