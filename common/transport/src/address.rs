//! Addresses that are called: `http://HOST:PORT`, or `https://HOST:PORT` for TLS, and nothing else.

use anyhow::{Context, bail, ensure};
use axum::http::Uri;

/// Reads the address that the setting `name` has; whether it is one of TLS.
///
/// # Errors
/// One line that names the setting, the address and what is expected.
pub fn is_encrypted(name: &str, url: &str) -> anyhow::Result<bool> {
    let expected = || format!("{name} = {url:?}: expected http://HOST:PORT or https://HOST:PORT");
    let uri: Uri = url.parse().with_context(expected)?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => bail!(expected()),
    };
    let authority = uri.authority().with_context(expected)?;
    // Whoever gives a path, a question or a name with a password expects something of it.
    let bare = matches!(uri.path_and_query().map_or("/", |rest| rest.as_str()), "" | "/");
    ensure!(bare && !authority.as_str().contains('@') && !authority.host().is_empty(), expected());
    // What is no number of a port would be read as if there were none.
    if let Some(port) = authority.as_str()[authority.host().len()..].strip_prefix(':') {
        let known = port.parse::<u16>().is_ok_and(|port| port > 0);
        ensure!(known, "{name} = {url:?}: port {port}: expected 1 to 65535");
    }
    Ok(encrypted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_a_port() {
        for (url, encrypted) in [
            ("http://localhost:7477", false),
            ("http://10.0.0.5:1/", false),
            ("https://coordinator.qslm.svc:65535", true),
            ("https://[::1]:7477", true),
            ("https://a_b", true),
            ("HTTP://A:1", false),
        ] {
            assert_eq!(is_encrypted("coordinator", url).unwrap(), encrypted, "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_what_is_expected() {
        let error = |url: &str| is_encrypted("traces", url).unwrap_err().to_string();
        for url in [
            "",
            "localhost:7477",
            "/run/qslm.sock",
            "unix:///run/qslm.sock",
            "unix:/run/qslm.sock",
            "ftp://a:1",
            "http://",
            "http:///",
            "http://:7477",
            "http://a b:1",
            "http://[::1:7477",
            "http://me:secret@a:1",
            "http://a:1/path",
            "http://a:1?b=c",
        ] {
            let expected = format!("traces = {url:?}: expected http://HOST:PORT or https://HOST:PORT");
            assert_eq!(error(url), expected);
        }
        for port in ["99999", "65536", "0", "", "-1", "http", "7477x"] {
            let url = format!("http://a:{port}");
            assert_eq!(error(&url), format!("traces = {url:?}: port {port}: expected 1 to 65535"));
        }
    }
}
