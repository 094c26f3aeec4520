//! What lies between a program and the network.
//!
//! Inwards: [`incoming`] accepts connections, with TLS if there is a certificate; [`gate`] lets calls in by the role of
//! their token and by their number; [`client`] is the other end, and waits for one that is not there yet. [`monitor`] is what a cluster's own machinery looks at,
//! [`traces`] what it is sent.
//! Certificates and tokens are files, read again when they change ([`watched`]).

pub mod address;
pub mod client;
mod flags;
pub mod gate;
pub mod incoming;
pub mod monitor;
mod reach;
pub mod tls;
pub mod tokens;
pub mod traces;
pub mod watched;

pub use client::{Access, Connector, Link, given};
pub use flags::AccessFlags;
pub use gate::{Gate, Needs};
pub use incoming::{Connection, Incoming, Peer};
pub use monitor::Monitor;
pub use reach::Unreachable;
pub use tls::ServerTls;
pub use tokens::{Caller, Role, Tokens};
pub use traces::Traces;
pub use watched::Watched;
