//! Connecting to a coordinator: causes why one is not reached, and which of them are worth trying again.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::client::{Connector, Link};
use crate::serving::Boxed;

/// Time that one try may take.
const TRY: Duration = Duration::from_secs(5);
/// Time that the last one may take: it begins when the time is up.
const LAST_TRY: Duration = Duration::from_millis(200);
/// The pauses between tries: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Cause why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No name server knows the host, or none answers.
    #[error("name not found: {0}")]
    Name(String),
    /// The host answers, and nobody listens at that port.
    #[error("connection refused")]
    Refused,
    /// Nothing comes back.
    #[error("timed out")]
    TimedOut,
    /// The two ends do not agree on TLS: a certificate that is not trusted, for one.
    #[error("{0}")]
    Tls(String),
    /// A certificate of one's own that cannot be read.
    #[error("{0}")]
    File(String),
    /// Anything else that networks do.
    #[error("{0}")]
    Other(String),
}

impl Unreachable {
    /// The first of an error and its causes.
    fn of(error: &(dyn Error + 'static)) -> Self {
        let causes = || std::iter::successors(Some(error), |&error| error.source());
        let first = causes().last().unwrap_or(error);
        // The words of hyper's connector; its error has no other mark.
        if causes().any(|error| error.to_string() == "dns error") {
            return Self::Name(first.to_string());
        }
        let other = || Self::Other(first.to_string());
        causes().find_map(|error| error.downcast_ref()).map_or_else(other, Self::of_io)
    }

    fn of_io(error: &io::Error) -> Self {
        let of_tls = || error.get_ref()?.downcast_ref::<rustls::Error>();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => {
                of_tls().map_or_else(|| Self::Other(error.to_string()), |error| Self::Tls(error.to_string()))
            }
        }
    }

    /// True if it may be otherwise in a moment. Certificates are changed by people.
    fn passes(&self) -> bool {
        !matches!(self, Self::Tls(_) | Self::File(_))
    }
}

impl Connector {
    /// A connection that is there.
    ///
    /// # Errors
    /// The cause, if there is none.
    pub async fn connect(&self) -> Result<Link, Unreachable> {
        timeout(TRY, self.try_once()).await.unwrap_or(Err(Unreachable::TimedOut))
    }

    /// A connection that is there. A network or a coordinator that is just coming up is waited for, `patience` at most;
    /// without any there is one try.
    ///
    /// # Errors
    /// The last cause, or the first that does not pass.
    pub async fn connect_within(&self, patience: Duration) -> Result<Link, Unreachable> {
        if patience.is_zero() {
            return self.connect().await;
        }
        let until = Instant::now() + patience;
        let mut pause = PAUSES.0;
        let mut last = None;
        loop {
            let most = until.saturating_duration_since(Instant::now()).clamp(LAST_TRY, TRY);
            let cause = match timeout(most, self.try_once()).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(cause)) => cause,
                // A try that there was no time for says nothing; the one before it does.
                Err(_) => last.take().filter(|_| most < TRY).unwrap_or(Unreachable::TimedOut),
            };
            let left = until.saturating_duration_since(Instant::now());
            if !cause.passes() || left.is_zero() {
                return Err(cause);
            }
            if last.is_none() {
                tracing::info!(coordinator = self.url(), %cause, patience_s = patience.as_secs_f64(), "not reached yet; tries again");
            }
            last = Some(cause);
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn try_once(&self) -> Result<Link, Unreachable> {
        let endpoint = self.endpoint().map_err(|error| Unreachable::File(format!("{error:#}")))?;
        let channel = dial(endpoint).await.map_err(|error| Unreachable::of(&error))?;
        Ok(self.link(channel))
    }
}

/// Connects. Boxed, as what serves is.
fn dial(endpoint: Endpoint) -> Boxed<'static, Result<Channel, tonic::transport::Error>> {
    Box::pin(async move { endpoint.connect().await })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::Access;

    fn to(url: &str) -> Connector {
        Connector::new(url, Access::default()).unwrap()
    }

    /// A port at which nobody listens now.
    async fn free() -> std::net::SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn every_cause_is_told_at_once_without_patience() {
        let cause = async |url: &str| to(url).connect_within(Duration::ZERO).await.err().unwrap();
        assert_eq!(cause(&format!("http://{}", free().await)).await, Unreachable::Refused);
        let name = cause("http://no-such-host.invalid:7477").await;
        assert!(matches!(name, Unreachable::Name(_)), "{name:?}");
        assert!(name.to_string().starts_with("name not found: "), "{name}");
    }

    #[tokio::test]
    async fn a_coordinator_that_comes_up_a_moment_later_is_reached() {
        let address = free().await;
        let connector = to(&format!("http://{address}"));
        let mut connecting =
            tokio::spawn(async move { connector.connect_within(Duration::from_secs(60)).await });
        // It tries and is refused for as long as nobody listens.
        assert!(timeout(PAUSES.0 * 2, &mut connecting).await.is_err());
        let listener = TcpListener::bind(address).await.unwrap();
        let (accepted, link) = tokio::join!(listener.accept(), connecting);
        assert!(accepted.is_ok() && link.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_does_not_answer_is_waited_for_as_long_as_told() {
        let (begun, patience) = (Instant::now(), Duration::from_millis(400));
        let connector = to(&format!("http://{}", free().await));
        assert_eq!(connector.connect_within(patience).await.err(), Some(Unreachable::Refused));
        assert!(begun.elapsed() >= patience, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_cannot_get_better_by_waiting_is_told_at_once() {
        // Whoever speaks no TLS breaks it off with the first byte.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = to(&format!("https://{}", listener.local_addr().unwrap()));
        let answer = async {
            use tokio::io::AsyncWriteExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            socket
        };
        let (_socket, cause) = tokio::join!(answer, connector.connect_within(Duration::from_secs(3600)));
        let cause = cause.err().unwrap();
        assert!(matches!(cause, Unreachable::Tls(_)), "{cause:?}");
    }
}
