//! A proxy on loopback that misbehaves on request: it delays, goes silent and cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Passes on what comes.
    Fine,
    /// Passes on each piece so much later.
    Slow(Duration),
    /// Passes on nothing; connections stay open, and new ones are taken.
    Silent,
}

struct State {
    weather: Weather,
    /// Connections with a lower number are to end.
    cut_below: u64,
    next: u64,
}

/// Passes connections on to one address. Threads end with their connections.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { weather: Weather::Fine, cut_below: 0, next: 0 };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let proxy = Self { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // While nobody listens behind the proxy, whoever comes is turned away.
                let Ok(outgoing) = TcpStream::connect(target) else { continue };
                let number = {
                    let mut state = lock(&shared);
                    state.next += 1;
                    state.next
                };
                for (from, to) in [(&incoming, &outgoing), (&outgoing, &incoming)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = shared.clone();
                    std::thread::spawn(move || pass_on(from, to, number, &shared));
                }
            }
        });
        proxy
    }

    pub fn set(&self, weather: Weather) {
        lock(&self.shared).weather = weather;
        self.shared.1.notify_all();
    }

    /// Ends every connection.
    pub fn cut(&self) {
        let mut state = lock(&self.shared);
        state.cut_below = state.next + 1;
        self.shared.1.notify_all();
    }
}

fn lock(shared: &Arc<(Mutex<State>, Condvar)>) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, number: u64, shared: &Arc<(Mutex<State>, Condvar)>) {
    // So that a cut is noticed on a connection on which nothing comes.
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                0
            }
            Err(_) => break,
        };
        if !may_pass(number, read > 0, shared) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Waits until what was read may go on. `false` if the connection is cut.
fn may_pass(number: u64, any: bool, shared: &Arc<(Mutex<State>, Condvar)>) -> bool {
    let mut state = lock(shared);
    let delay = match state.weather {
        Weather::Slow(delay) if any => delay,
        _ => Duration::ZERO,
    };
    if !delay.is_zero() {
        let whole = |state: &mut State| number >= state.cut_below;
        state = shared.1.wait_timeout_while(state, delay, whole).unwrap_or_else(PoisonError::into_inner).0;
    }
    while any && state.weather == Weather::Silent && number >= state.cut_below {
        state = shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    number >= state.cut_below
}
