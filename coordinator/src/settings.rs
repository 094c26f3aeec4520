//! Settings of a coordinator. Each may stand in the file, in `QSLM_COORDINATOR_NAME`, or be a flag.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use qslm_common::bytes;
use qslm_program::{Coded, LogFormat, Port};
use qslm_transport::{ServerTls, Tokens, Traces, given};
use serde::{Deserialize, Serialize};

use crate::ledger::Limits;
use crate::until_done::Patience;
use crate::{AccessPolicy, Options, Quotas};

/// Settings of a coordinator.
// One field for each setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen on. `[::]` is every address of both families, or of IPv4 on a machine without IPv6.
    #[serde(deserialize_with = "qslm_program::deserialize_address")]
    pub listen: SocketAddr,
    /// Address and port of the live view for browsers, or `off`.
    pub web: Port,
    /// The redb file that keeps everything; input files are kept beside it.
    pub store: PathBuf,
    /// Seconds after which a silent worker's leases are given to others, 1 to 3600.
    pub lease_ttl_s: f64,
    /// Different workers that may vanish over one shard before its trial has failed, 2 to 1000.
    pub max_vanished_workers: u32,
    /// Address and port of health and metrics for the cluster's own machinery, without TLS or tokens, or `off`.
    pub monitor: Port,
    /// A file of lines `ROLE NAME TOKEN` with the roles worker, reader and submitter; if empty, everyone may do
    /// everything.
    pub tokens: PathBuf,
    /// The certificate that callers see, in PEM; turns TLS on for programs and browsers.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Callers need a certificate that one of these signed (mutual TLS), in PEM.
    pub client_ca: PathBuf,
    /// True to listen beyond this machine though anybody who reaches it may do anything.
    pub insecure: bool,
    /// Connections at a time; more wait. 1 to 100000.
    pub max_connections: u32,
    /// Calls per second of one connection; more are told to wait. 1 to 1000000.
    pub calls_per_second: u32,
    /// Uploads that one client (a token's name, or an address) may have under way, 1 to 1000000.
    pub uploads_per_client: u32,
    /// Experiments of one client that have not ended, 1 to 1000000.
    pub experiments_per_client: u32,
    /// Bytes that uploaded files, made artifacts and checkpoints of jobs together may take.
    #[serde(deserialize_with = "bytes::whole")]
    pub artifacts_max_bytes: u64,
    /// True to end, with exit code 0, once all experiments have ended and their results were collected.
    pub until_done: bool,
    /// Seconds for which results are kept ready for somebody who has not said that they are collected, 1 to 86400.
    pub collect_within_s: f64,
    /// Address of an OpenTelemetry collector that takes OTLP over gRPC, `http://HOST:4317`; no traces if
    /// empty.
    pub traces: String,
    /// Logged events: a level, or directives such as `info,qslm_coordinator=debug`.
    pub log: String,
    /// Format of the log: `text` for people, or `json`, an object per line.
    pub log_format: LogFormat,
    /// For tests: dies at the n-th pass of a point, such as `after-commit:3`; see [`crate::CrashPoint`].
    pub crash_at: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7477)),
            web: Port::On(SocketAddr::from(([127, 0, 0, 1], 7478))),
            store: PathBuf::from("qslm.redb"),
            lease_ttl_s: 15.0,
            max_vanished_workers: 3,
            monitor: Port::Off,
            tokens: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            insecure: false,
            max_connections: 4096,
            calls_per_second: 1000,
            uploads_per_client: 8,
            experiments_per_client: 1000,
            artifacts_max_bytes: 256 << 30,
            until_done: false,
            collect_within_s: 600.0,
            traces: String::new(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            crash_at: String::new(),
        }
    }
}

impl Settings {
    /// Options of the coordinator itself.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn options(&self) -> anyhow::Result<Options> {
        let crash_at = self.crash_at.parse().context("crash_at").map_err(Coded::setting)?;
        let traces = Traces::start(&self.traces, "qslm-coordinator", &self.listen.to_string());
        Ok(Options {
            lease_ttl: self.lease_ttl().map_err(Coded::setting)?,
            limits: self.limits().map_err(Coded::setting)?,
            crash_at,
            traces: traces.map_err(Coded::setting)?,
            only_reads: false,
        })
    }

    /// Access policy of the ports.
    ///
    /// # Errors
    /// If files do not go together or cannot be read, a bound makes no sense, or it would be open to the world.
    pub fn door(&self) -> anyhow::Result<AccessPolicy> {
        self.check_door().map_err(Coded::setting)
    }

    fn check_door(&self) -> anyhow::Result<AccessPolicy> {
        let bounds = [
            ("max_connections", self.max_connections, 100_000),
            ("calls_per_second", self.calls_per_second, 1_000_000),
            ("uploads_per_client", self.uploads_per_client, 1_000_000),
            ("experiments_per_client", self.experiments_per_client, 1_000_000),
        ];
        for (name, value, most) in bounds {
            ensure!((1..=most).contains(&value), "{name} = {value}: expected 1 to {most}");
        }
        let [certificate, key, client_ca] =
            [&self.certificate, &self.key, &self.client_ca].map(|path| given(path).map(Path::to_owned));
        let tls = match (certificate, key, client_ca) {
            (Some(certificate), Some(key), client_ca) => Some(ServerTls { certificate, key, client_ca }),
            (None, None, None) => None,
            (None, None, Some(ca)) => bail!("client_ca = {}: needs certificate and key", ca.display()),
            _ => bail!("certificate and key belong together"),
        };
        let tokens = given(&self.tokens).map(Tokens::load).transpose()?;
        let guarded = tokens.is_some() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let web = match self.web {
            Port::On(address) => Some(("web", address)),
            Port::Off => None,
        };
        for (name, address) in [Some(("listen", self.listen)), web].into_iter().flatten() {
            ensure!(
                guarded || self.insecure || address.ip().is_loopback(),
                "{name} = {address}: reachable from other machines, where anybody could do anything; set tokens or \
                 client_ca, or insecure = true to have it so"
            );
        }
        if tokens.is_some() && tls.is_none() && !self.listen.ip().is_loopback() {
            tracing::warn!("tokens without TLS: whoever can read the network can read them");
        }
        Ok(AccessPolicy {
            tls,
            tokens,
            max_connections: self.max_connections as usize,
            calls_per_second: self.calls_per_second,
            quotas: Quotas {
                uploads_per_client: self.uploads_per_client,
                experiments_per_client: self.experiments_per_client,
                artifacts_max_bytes: self.artifacts_max_bytes,
            },
        })
    }

    /// Patience of a coordinator that ends by itself; `None` for one that does not.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn until_done(&self) -> anyhow::Result<Option<Patience>> {
        let seconds = self.collect_within_s;
        if !(1.0..=86_400.0).contains(&seconds) {
            let words = format!("collect_within_s = {seconds}: expected 1 to 86400 seconds");
            return Err(Coded::setting(anyhow!(words)));
        }
        let farewell = self.lease_ttl().map_err(Coded::setting)?;
        Ok(self.until_done.then(|| Patience { farewell, collect: Duration::from_secs_f64(seconds) }))
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        let vanished = self.max_vanished_workers;
        ensure!((2..=1000).contains(&vanished), "max_vanished_workers = {vanished}: expected 2 to 1000");
        Ok(Limits { vanished })
    }

    fn lease_ttl(&self) -> anyhow::Result<Duration> {
        let seconds = self.lease_ttl_s;
        ensure!((1.0..=3600.0).contains(&seconds), "lease_ttl_s = {seconds}: expected 1 to 3600 seconds");
        Ok(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(settings: Settings) -> String {
        settings.door().err().map_or(String::new(), |error| format!("{error:#}"))
    }

    #[test]
    fn what_others_can_reach_needs_authentication_or_the_word_insecure() {
        let open = Settings { listen: "0.0.0.0:7477".parse().unwrap(), ..Settings::default() };
        assert!(error(open.clone()).starts_with("listen = 0.0.0.0:7477: reachable from other machines"));
        assert_eq!(error(Settings { insecure: true, ..open.clone() }), "");
        let tokens = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tokens.path(), "worker w 0123456789abcdef").unwrap();
        assert_eq!(error(Settings { tokens: tokens.path().to_owned(), ..open }), "");
        let web = Settings { web: "[::]:7478".parse().unwrap(), ..Settings::default() };
        assert!(error(web).starts_with("web = [::]:7478: "));
        assert_eq!(error(Settings::default()), "");
    }

    #[test]
    fn files_and_bounds_that_make_no_sense_are_told() {
        let half = Settings { certificate: "a.pem".into(), ..Settings::default() };
        assert_eq!(error(half), "certificate and key belong together");
        let alone = Settings { client_ca: "ca.pem".into(), ..Settings::default() };
        assert_eq!(error(alone), "client_ca = ca.pem: needs certificate and key");
        let none = Settings { max_connections: 0, ..Settings::default() };
        assert_eq!(error(none), "max_connections = 0: expected 1 to 100000");
        let missing = Settings { tokens: "no/such/file".into(), ..Settings::default() };
        assert!(error(missing).starts_with("no/such/file: "));
    }
}
