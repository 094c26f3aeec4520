//! The flags of programs that call a coordinator, the same for all of them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

/// Flags of [`Access`](crate::Access).
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct AccessFlags {
    /// Whoever signed the coordinator's certificate, in PEM [default: the system's roots]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// A certificate of your own in PEM, where the coordinator asks for one
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    /// A file that holds your token
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
}

impl AccessFlags {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let all = [&self.ca, &self.certificate, &self.key, &self.token_file];
        all.into_iter().flatten().map(PathBuf::as_path)
    }
}
