//! Requests: one client, redirects by hand, and patience with a server that is busy.
//!
//! Redirects are followed here because the Hub answers on the first hop what a file is, and because its token goes to the Hub
//! alone and never to where that sends us.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};

use crate::error::FetchError;
use crate::settings::Token;

/// Time for a connection to come about, and longest time without a byte.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
/// Waits before a request is made again.
const WAITS: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(3)];
/// Most redirects on the way to a file.
const HOPS: usize = 10;

/// A client, and the token of the server that it begins with.
pub(crate) struct Http {
    client: Client,
    token: Option<Token>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ask {
    /// Headers of the server itself, wherever it would send us.
    Head,
    /// The bytes from this one on.
    From(u64),
}

/// An answer, with the headers of the redirects that led to it.
pub(crate) struct Answer {
    /// The last response.
    pub(crate) response: Response,
    before: Vec<HeaderMap>,
}

impl Answer {
    /// A header of the last response that has it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = std::iter::once(self.response.headers()).chain(self.before.iter().rev());
        all.filter_map(|headers| headers.get(name)).next().and_then(|value| value.to_str().ok())
    }

    /// Status of the last response.
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

impl Http {
    /// A client that shows `token` to whoever it asks first.
    pub(crate) fn new(token: Option<Token>) -> Result<Self, FetchError> {
        // The library that connections of the programs have. Somebody may have said so before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("qslm/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(SILENCE)
            .build();
        let failed = |error: reqwest::Error| FetchError::Runtime(io::Error::other(cause(&error)));
        Ok(Self { client: client.map_err(failed)?, token })
    }

    /// Asks, again while the server is busy or does not answer; in words why there is no answer.
    pub(crate) async fn ask(&self, url: &Url, ask: Ask) -> Result<Answer, String> {
        let mut waits = WAITS.into_iter();
        loop {
            let asked = self.ask_once(url, ask).await;
            let may_change = match &asked {
                Ok(answer) => is_transient(answer.status()),
                Err(no_answer) => no_answer.may_change,
            };
            match waits.next().filter(|_| may_change) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return asked.map_err(|no_answer| no_answer.why),
            }
        }
    }

    async fn ask_once(&self, first: &Url, ask: Ask) -> Result<Answer, NoAnswer> {
        let mut url = first.clone();
        let mut before = Vec::new();
        for _ in 0..HOPS {
            let method = if ask == Ask::Head { Method::HEAD } else { Method::GET };
            // Lengths and hashes are of the file, not of what a server makes of it on the way.
            let mut request = self.client.request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(Token(token)) = self.token.as_ref().filter(|_| url.origin() == first.origin()) {
                request = request.bearer_auth(token);
            }
            if let Ask::From(start @ 1..) = ask {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let response = request.send().await.map_err(|error| NoAnswer {
                why: cause(&error),
                // Who refuses a connection, has no name or another certificate does so a second later.
                may_change: !error.is_connect(),
            })?;
            let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(to) = to else { return Ok(Answer { response, before }) };
            let to = to.to_str().ok().and_then(|to| url.join(to).ok());
            let to = to.ok_or_else(|| NoAnswer::redirect("it leads to no address"))?;
            if ask == Ask::Head && to.origin() != first.origin() {
                return Ok(Answer { response, before });
            }
            if url.scheme() == "https" && to.scheme() != "https" {
                return Err(NoAnswer::redirect("it leads to an address without encryption"));
            }
            before.push(response.headers().clone());
            url = to;
        }
        Err(NoAnswer::redirect("it leads on and on"))
    }
}

/// Nothing that could be used as an answer.
struct NoAnswer {
    why: String,
    /// True if it may be another matter soon.
    may_change: bool,
}

impl NoAnswer {
    fn redirect(why: &str) -> Self {
        Self { why: why.to_owned(), may_change: false }
    }
}

/// True for an answer that may be another one soon.
fn is_transient(status: StatusCode) -> bool {
    [408, 429, 500, 502, 503, 504].contains(&status.as_u16())
}

/// The innermost cause of an error, which says what happened; the outer ones say where, with the whole address.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let last = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    match last {
        _ if error.is_timeout() => "it does not answer".to_owned(),
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}
