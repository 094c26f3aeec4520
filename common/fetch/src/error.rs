//! What can go wrong on the way to a file, each with its address, in one line.

use std::io;
use std::path::PathBuf;

use crate::checksum::CheckError;

/// A file that cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// An address that means nothing.
    #[error("{address}: {reason}")]
    Malformed {
        /// Address as it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is at the address.
    #[error("{address}: {reason}")]
    NotFound {
        /// Address.
        address: String,
        /// What the server has in its place, as far as it tells.
        reason: String,
    },
    /// The server wants a token, or another one.
    #[error("{address}: {reason}")]
    NotAllowed {
        /// Address.
        address: String,
        /// What the server said, and what helps.
        reason: String,
    },
    /// Nothing can be loaded, and nothing is kept.
    #[error("{address}: {reason}; fetch {url} elsewhere and put it at {}", .place.display())]
    Unreachable {
        /// Address.
        address: String,
        /// Why nothing can be loaded.
        reason: String,
        /// Where a browser finds it.
        url: String,
        /// Where it will be found.
        place: PathBuf,
    },
    /// The server does not speak as it should.
    #[error("{address}: {reason}")]
    Server {
        /// Address.
        address: String,
        /// What it did.
        reason: String,
    },
    /// What came is not what was promised.
    #[error("{address}: {source}")]
    Broken {
        /// Address.
        address: String,
        /// The difference.
        source: CheckError,
    },
    /// A file or folder that cannot be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No client: the system gives no threads, or no certificates.
    #[error("cannot start to fetch: {0}")]
    Runtime(io::Error),
}

impl CheckError {
    /// The same of what an address led to.
    pub(crate) fn of(self, address: String) -> FetchError {
        FetchError::Broken { address, source: self }
    }
}
