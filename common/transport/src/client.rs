//! The caller's side: the address of a coordinator, and what it takes to be let in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::watched::Watched;
use crate::{address, tokens};

/// A connection that presents its token with every call.
pub type Link = InterceptedService<Channel, Bearer>;

/// Time that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Files in PEM and a file that holds a token. An empty path is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Certificate authority of the coordinator; the system's roots if empty.
    pub ca: PathBuf,
    /// Certificate of this caller, where the coordinator asks for one (mutual TLS).
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// The token, with white space around it or without.
    pub token_file: PathBuf,
}

/// A way to connect to a coordinator. Certificates are read whenever a connection is made, the token when it changes.
#[derive(Clone)]
pub struct Connector {
    url: String,
    access: Access,
    bearer: Bearer,
    keep_alive: Option<Duration>,
}

impl Connector {
    /// Connector for the coordinator at `url`: `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    ///
    /// # Errors
    /// One line that names what is wrong with the address or a file.
    pub fn new(url: &str, access: Access) -> anyhow::Result<Self> {
        let bearer = Bearer::new(given(&access.token_file))?;
        let connector = Self { url: url.to_owned(), access, bearer, keep_alive: None };
        connector.endpoint()?;
        Ok(connector)
    }

    /// The coordinator's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives a connection up on which nothing came back for so long.
    #[must_use]
    pub fn keep_alive(self, time: Duration) -> Self {
        Self { keep_alive: Some(time), ..self }
    }

    /// A connection that is made with the first call.
    ///
    /// # Errors
    /// If a certificate cannot be read.
    pub fn lazy(&self) -> anyhow::Result<Link> {
        Ok(self.link(self.endpoint()?.connect_lazy()))
    }

    /// A link over a connection.
    pub(crate) fn link(&self, channel: Channel) -> Link {
        InterceptedService::new(channel, self.bearer.clone())
    }

    pub(crate) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let url = &self.url;
        let encrypted = address::is_encrypted("coordinator", url)?;
        let mut endpoint = Endpoint::from_shared(url.clone()).with_context(|| url.clone())?;
        endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        if let Some(time) = self.keep_alive {
            endpoint = endpoint.http2_keep_alive_interval(time).keep_alive_timeout(time);
        }
        if !encrypted {
            let for_tls = [
                ("ca", &self.access.ca),
                ("certificate", &self.access.certificate),
                ("key", &self.access.key),
            ];
            for (name, path) in for_tls {
                ensure!(
                    given(path).is_none(),
                    "{name} = {}: coordinator = {url:?} is not https",
                    path.display()
                );
            }
            return Ok(endpoint);
        }
        endpoint.tls_config(self.tls()?).with_context(|| format!("coordinator = {url:?}"))
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let Access { ca, certificate, key, .. } = &self.access;
        let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        let mut tls = ClientTlsConfig::new();
        tls = match given(ca) {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        match (given(certificate), given(key)) {
            (Some(certificate), Some(key)) => {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            (None, None) => {}
            _ => bail!("certificate and key belong together"),
        }
        Ok(tls)
    }
}

/// A path of a setting, of which an empty one is none.
pub fn given(path: &Path) -> Option<&Path> {
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

/// Adds the token, if there is one, to every call.
#[derive(Clone)]
pub struct Bearer(Option<Arc<Watched<MetadataValue<Ascii>>>>);

impl Bearer {
    fn new(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file.map(Path::to_owned) else { return Ok(Self(None)) };
        let file = path.clone();
        let read = move || {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let token = text.strip_prefix('\u{feff}').unwrap_or(&text).trim();
            tokens::check(token).with_context(|| file.display().to_string())?;
            Ok(format!("Bearer {token}").parse()?)
        };
        Ok(Self(Some(Arc::new(Watched::new([path], read)?))))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", MetadataValue::clone(&token.get()));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_makes_no_sense_is_told() {
        let error = |url: &str, access| format!("{:#}", Connector::new(url, access).err().unwrap());
        for url in ["", "localhost:7477", "ftp://a:1", "http://"] {
            assert!(error(url, Access::default()).contains("expected http://HOST:PORT"), "{url}");
        }
        let ca = Access { ca: "ca.pem".into(), ..Access::default() };
        assert_eq!(error("http://a:1", ca), "ca = ca.pem: coordinator = \"http://a:1\" is not https");
        let half = Access { certificate: "me.pem".into(), ..Access::default() };
        assert_eq!(error("https://a:1", half), "certificate and key belong together");
        let nowhere = Access { token_file: "no/such/token".into(), ..Access::default() };
        assert!(error("http://a:1", nowhere).starts_with("no/such/token: "));
    }
}
