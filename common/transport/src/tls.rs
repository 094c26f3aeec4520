//! The coordinator's side of TLS: a certificate with its key, and whose certificates callers need, if any.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::watched::Watched;

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, followed by those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificate authority of the callers, each of which then needs a certificate (mutual TLS).
    pub client_ca: Option<PathBuf>,
}

impl ServerTls {
    /// The settings for accepting connections; connections that are open when the files change keep the old ones.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn watched(self) -> anyhow::Result<Watched<ServerConfig>> {
        let paths = [Some(self.certificate.clone()), Some(self.key.clone()), self.client_ca.clone()];
        Watched::new(paths.into_iter().flatten(), move || self.config())
    }

    fn config(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).with_context(|| path.display().to_string())?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.with_context(|| path.display().to_string())?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.with_context(|| format!("{}: no private key in PEM", self.key.display()))?;
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, key)
            .with_context(|| format!("{} with {}", self.certificate.display(), self.key.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates of a file, one at least.
fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = found.with_context(|| path.display().to_string())?;
    ensure!(!found.is_empty(), "{}: no certificate in PEM", path.display());
    Ok(found)
}
