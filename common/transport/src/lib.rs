//! The way from a program to the network and back: addresses, TLS, tokens, back-pressure, health, metrics and traces.
//!
//! One idea: whoever calls is known before anything is read of the call. [`listen`] opens a port, [`Incoming`] accepts connections, with TLS if there
//! is a certificate ([`tls`]), bounds their number and their patience, and gives each request its [`Peer`]; [`serving`]
//! answers what comes over them. The [`Gate`]
//! lets a call in by the [`Role`] of its token ([`tokens`]) and by the number of calls of its connection; a caller that is
//! too fast is told how long to wait ([`gate::busy`]).
//!
//! [`Connector`] is the other end: an [`address`], [`Access`] (certificates and a token), and a [`Link`] that presents the
//! token with every call; [`Unreachable`] says why there is no connection. Certificates and tokens are files, read again
//! when they change ([`Watched`]). [`Monitor`] serves health and metrics to a cluster's own machinery, [`Traces`] sends spans
//! to a collector. What calls mean is left to `qslm-proto` and to those who serve them.

pub mod address;
pub mod client;
mod flags;
pub mod gate;
pub mod incoming;
mod listen;
pub mod monitor;
mod reach;
pub mod serving;
pub mod tls;
pub mod tokens;
pub mod traces;
pub mod watched;

pub use client::{Access, Connector, Link, given};
pub use flags::AccessFlags;
pub use gate::{Gate, Needs};
pub use incoming::{Connection, Incoming, Peer};
pub use listen::listen;
pub use monitor::Monitor;
pub use reach::Unreachable;
pub use tls::ServerTls;
pub use tokens::{Caller, Role, Tokens};
pub use traces::Traces;
pub use watched::Watched;
