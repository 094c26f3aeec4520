//! Accepting connections: at most so many, each of which has to say something sensible soon.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::watched::Watched;

/// Time that a caller may take until its first request has begun. Whoever opens connections and says nothing holds a
/// place for no longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that HTTP/2 begins with; HTTP/1 requests are longer, too.
const PREFACE: usize = 24;
/// The pause after the system refuses to accept, for want of file descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections as they come in, ready to be served.
pub struct Incoming {
    receiver: mpsc::Receiver<Connection>,
    address: io::Result<SocketAddr>,
}

/// A connection, with TLS or without.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    /// Bytes that have to come yet until the caller is taken seriously, and the time by which they have to.
    patience: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

/// Stream of a connection, without TLS or with it.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The other end of a connection; requests that come over it carry it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address of the peer.
    pub address: SocketAddr,
    /// Rate limit: calls that it may make at once, refilled as time goes by (a token bucket).
    pace: Arc<Mutex<Pace>>,
}

#[derive(Debug)]
struct Pace {
    calls: f64,
    since: Instant,
}

impl Peer {
    fn new(address: SocketAddr) -> Self {
        // The first call fills it.
        let pace = Pace { calls: f64::INFINITY, since: Instant::now() };
        // On a socket of both families IPv4 comes as `::ffff:A.B.C.D`: one caller has one name.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { address, pace: Arc::new(Mutex::new(pace)) }
    }

    /// Takes one of `per_second` calls, as many of which may come at once; or else the time to wait
    /// (back-pressure).
    pub fn take(&self, per_second: u32) -> Result<(), Duration> {
        self.take_at(f64::from(per_second), Instant::now())
    }

    fn take_at(&self, per_second: f64, now: Instant) -> Result<(), Duration> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(pace.since).as_secs_f64() * per_second;
        pace.calls = (pace.calls + earned).min(per_second);
        pace.since = now;
        if pace.calls < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - pace.calls) / per_second));
        }
        pace.calls -= 1.0;
        Ok(())
    }
}

impl Incoming {
    /// Accepts on `listener` until `stop` is cancelled. Beyond `most` connections, callers wait.
    pub fn new(
        listener: TcpListener,
        tls: Option<Arc<Watched<ServerConfig>>>,
        most: usize,
        stop: CancellationToken,
    ) -> Self {
        Self::patient(listener, tls, most, PATIENCE, stop)
    }

    fn patient(
        listener: TcpListener,
        tls: Option<Arc<Watched<ServerConfig>>>,
        most: usize,
        patience: Duration,
        stop: CancellationToken,
    ) -> Self {
        let address = listener.local_addr();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            tokio::select! {
                () = accept(&listener, tls, most, patience, sender) => {}
                () = stop.cancelled() => {}
            }
        });
        Self { receiver, address }
    }

    /// The connections as a stream for a tonic server.
    pub fn stream(self) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
        use tokio_stream::StreamExt;
        tokio_stream::wrappers::ReceiverStream::new(self.receiver).map(Ok)
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.receiver.recv().await {
            Some(connection) => {
                let address = connection.peer.address;
                (connection, address)
            }
            // Nobody accepts any more; whoever serves hears of that in another way.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.address.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

async fn accept(
    listener: &TcpListener,
    tls: Option<Arc<Watched<ServerConfig>>>,
    most: usize,
    patience: Duration,
    sender: mpsc::Sender<Connection>,
) {
    let places = Arc::new(Semaphore::new(most));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Answers are small, and somebody waits for them.
        drop(socket.set_nodelay(true));
        let (sender, tls) = (sender.clone(), tls.clone());
        tokio::spawn(async move {
            let stream = match tls {
                None => Stream::Left(socket),
                Some(tls) => {
                    let handshake = TlsAcceptor::from(tls.get()).accept(socket);
                    match tokio::time::timeout(patience, handshake).await {
                        Ok(Ok(stream)) => Stream::Right(Box::new(stream)),
                        Ok(Err(error)) => {
                            tracing::debug!(%address, %error, "no TLS with this caller");
                            return;
                        }
                        Err(_) => return,
                    }
                }
            };
            let patience = Some((PREFACE, Box::pin(tokio::time::sleep(patience))));
            let connection = Connection { stream, peer: Peer::new(address), patience, _place: place };
            drop(sender.send(connection).await);
        });
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((missing, until)) = &mut self.patience else { return read };
        let come = buffer.filled().len() - before;
        if come >= *missing {
            self.patience = None;
        } else {
            *missing -= come;
            if read.is_pending() {
                ready!(until.as_mut().poll(context));
                let slow = io::Error::new(io::ErrorKind::TimedOut, "the caller says nothing");
                return Poll::Ready(Err(slow));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_second_of_calls_may_come_at_once_and_then_they_wait() {
        let peer = Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let start = Instant::now();
        assert!((0..10).all(|_| peer.take_at(10.0, start).is_ok()));
        let wait = peer.take_at(10.0, start).unwrap_err();
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(101), "{wait:?}");
        assert!(peer.take_at(10.0, start + Duration::from_millis(101)).is_ok());
        assert!(peer.take_at(10.0, start + Duration::from_millis(102)).is_err());
        // Who was away for an hour has a second's worth again, not an hour's.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| peer.take_at(10.0, later).is_ok()).count(), 10);
    }

    #[tokio::test]
    async fn a_caller_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let soon = Duration::from_millis(50);
        let mut incoming = Incoming::patient(listener, None, 8, soon, CancellationToken::new());
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = incoming.receiver.recv().await.unwrap();
        silent.write_all(&[0; PREFACE - 1]).await.unwrap();
        let mut bytes = [0; 64];
        let mut read = 0;
        let error = loop {
            match slow.read(&mut bytes).await {
                Ok(more) => read += more,
                Err(error) => break error,
            }
        };
        assert_eq!((read, error.kind()), (PREFACE - 1, io::ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn beyond_the_bound_callers_wait_until_others_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, None, 1, CancellationToken::new());
        let _first = TcpStream::connect(address).await.unwrap();
        let served = incoming.receiver.recv().await.unwrap();
        let second = TcpStream::connect(address).await.unwrap();
        assert!(incoming.receiver.try_recv().is_err());
        drop(served);
        assert_eq!(incoming.receiver.recv().await.unwrap().peer.address, second.local_addr().unwrap());
    }
}
