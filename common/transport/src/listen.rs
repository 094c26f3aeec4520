//! Listening: one socket for both families where `[::]` is asked for, and IPv4 alone where the machine has no IPv6.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens on an address. `[::]` means every address of the machine: IPv4 comes in, too, whatever the system's default is,
/// and a machine without IPv6 listens on `0.0.0.0` instead.
///
/// # Errors
/// If the address cannot be had.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_with(address, bind)
}

fn listen_with(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<TcpListener> {
    let bound = bind(address);
    match bound {
        Err(error) if is_any(address) && has_no_ipv6(&error) => {
            let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::info!("no IPv6 here ({error}): {address} listens on {instead}");
            bind(instead)
        }
        bound => bound,
    }
}

/// True for `[::]`.
fn is_any(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

/// True if the system knows no IPv6, or has no address of it.
fn has_no_ipv6(error: &io::Error) -> bool {
    let unknown = error.raw_os_error() == Some(EAFNOSUPPORT);
    unknown || matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
}

/// Number of the error for a family of addresses that the system does not know.
const EAFNOSUPPORT: i32 = if cfg!(target_os = "linux") { 97 } else { 47 };

/// A socket that listens. What listened here a moment ago is in nobody's way.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if is_any(address) {
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn every_address_is_of_both_families() {
        // In a container without IPv6 it is one, which the next test is about.
        let both = std::net::TcpListener::bind("[::1]:0").is_ok();
        let listener = listen("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip().to_canonical(), Ipv4Addr::LOCALHOST);
        if both {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip(), Ipv6Addr::LOCALHOST);
        }
        // One family where one is asked for.
        let four = listen("0.0.0.0:0".parse().unwrap()).await.unwrap();
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, four.local_addr().unwrap().port())).is_err());
    }

    #[tokio::test]
    async fn a_machine_without_ipv6_listens_on_ipv4_and_other_failures_stay_failures() {
        let without = |error: io::ErrorKind, code: Option<i32>| {
            move |address: SocketAddr| match address {
                SocketAddr::V6(_) => Err(code.map_or_else(|| error.into(), io::Error::from_raw_os_error)),
                SocketAddr::V4(_) => bind(address),
            }
        };
        let any = "[::]:0".parse().unwrap();
        let kind = io::ErrorKind::AddrNotAvailable;
        for code in [None, Some(EAFNOSUPPORT)] {
            let listener = listen_with(any, without(kind, code)).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
        }
        // An address of IPv6 alone, and a port that is taken.
        let one = listen_with("[::1]:0".parse().unwrap(), without(kind, None)).unwrap_err();
        assert_eq!(one.kind(), kind);
        let taken = listen_with(any, without(io::ErrorKind::AddrInUse, None)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let first = listen(any).await.unwrap();
        let again = listen(first.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
