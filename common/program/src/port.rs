//! Address of a port that may be off.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// `off`, or an address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Port {
    /// It does not listen.
    Off,
    /// It listens here.
    On(SocketAddr),
}

/// A text that is neither `off` nor an address and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected off, or an address and port such as 127.0.0.1:7478")]
pub struct InvalidPort(String);

/// A text that is no address and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected an address and port such as 127.0.0.1:7477")]
pub struct InvalidAddress(String);

/// Reads an address and port to listen on. Names of hosts are none: they may stand for several.
///
/// # Errors
/// [`InvalidAddress`] for anything else.
pub fn address(text: &str) -> Result<SocketAddr, InvalidAddress> {
    text.parse().map_err(|_| InvalidAddress(shown(text)))
}

/// For `#[serde(deserialize_with = ..)]`: reads what [`address`] reads.
///
/// # Errors
/// For anything else.
pub fn deserialize_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// Beginning of a text that is shown.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::On).map_err(|_| InvalidPort(shown(text))),
        }
    }
}

impl TryFrom<String> for Port {
    type Error = InvalidPort;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(address) => address.fmt(f),
        }
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}
