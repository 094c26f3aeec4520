//! Files by address: what people name on the Hugging Face Hub, on the web or on this machine becomes a file here.
//!
//! One idea: an [`Address`] leads to a file that is checked and kept. A file of the Hub is kept where all programs of the Hub
//! keep theirs ([`hub`](crate::Settings): its folders, its token, its variables), one of the web under the hash that its address
//! gives. [`fetch`] takes what is kept already and loads the rest: it goes on where a connection broke, and holds what came
//! against length and hash before anybody sees it. What the files are for is no matter of this package.
//!
//! The crate `hf-hub` is not used: since 1.0 it builds another storage protocol (hf-xet) and a second TLS library (aws-lc) into
//! every program, and before that it checked no hash. Its folders and variables are kept to, so both find each other's files.

mod address;
mod checksum;
mod error;
mod http;
mod hub;
mod settings;
mod transfer;
mod web;

use std::path::PathBuf;

pub use address::{Address, HubFile, Repository, WebFile};
pub use checksum::Checksum;
pub use error::FetchError;
pub use settings::{Settings, Token};

/// Hears how far a file is: bytes that are here, and bytes of all if the server tells.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, Option<u64>) + Send);

/// A file that an address led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path to read it from.
    pub path: PathBuf,
    /// Address that leads to the same bytes tomorrow, with the commit in place of a branch and without anything secret; `None`
    /// for a file of this machine.
    pub origin: Option<String>,
    /// What to tell of it that is no failure.
    pub note: Option<String>,
}

/// The file that an address leads to. Whatever is kept already is not loaded again. It blocks, and may be called anywhere.
///
/// # Errors
/// One line that names the address, what is wrong, and where nothing can be loaded what to fetch by hand.
pub fn fetch(address: &Address, settings: &Settings, progress: Progress<'_>) -> Result<Found, FetchError> {
    match address {
        Address::Hub(file) => on_a_thread(hub::fetch(file, settings, progress)),
        Address::Web(file) => on_a_thread(web::fetch(file, settings, progress)),
        Address::Local { path, checksum } => {
            let name = || path.display().to_string();
            if let Some(wanted) = checksum {
                checksum::check_file(path, wanted).map_err(|error| error.of(name()))?;
            }
            Ok(Found { path: path.clone(), origin: None, note: None })
        }
    }
}

/// Runs a future on a thread and a runtime of its own: callers may be inside of another runtime, or have none.
fn on_a_thread<T: Send>(future: impl Future<Output = Result<T, FetchError>> + Send) -> Result<T, FetchError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(FetchError::Runtime)?.block_on(future)
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
