//! Gate before every call: access by the role of the caller, and back-pressure, a bound on the calls of a connection per
//! second, with the time after which a refused one may be made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::incoming::Peer;
use crate::tokens::{Caller, Role, Tokens};

/// Name that gRPC gives to the milliseconds after which a refused call may be made again (gRPC proposal A6).
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Need of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// No token: the call says nothing and does nothing of interest.
    Nothing,
    /// Any token.
    Anyone,
    /// A token of this role; a submitter may do what a reader may.
    Role(Role),
}

/// Name of a client, as far as it is known: the one beside the token, or else the address. Requests carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(pub String);

/// Calls and pages that were not let in, since the server started.
#[derive(Debug, Default)]
pub struct Denied {
    token: AtomicU64,
    role: AtomicU64,
    pace: AtomicU64,
}

impl Denied {
    fn count(&self, status: &Status) {
        let counter = match status.code() {
            Code::Unauthenticated => &self.token,
            Code::PermissionDenied => &self.role,
            _ => &self.pace,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Numbers by reason: no token that is known, a token of another role, too many calls of a connection.
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        let reasons = [("token", &self.token), ("role", &self.role), ("pace", &self.pace)];
        reasons.map(|(reason, counter)| (reason, counter.load(Ordering::Relaxed)))
    }
}

/// Gate of a server.
pub struct Gate {
    tokens: Option<Tokens>,
    needs: fn(&str) -> Needs,
    calls_per_second: u32,
    denied: Denied,
}

impl Gate {
    /// Gate of a server; without `tokens`, everyone may do everything. `needs` is what a call of a path, such
    /// as `/qslm.v1.Work/Report`, needs.
    pub fn new(tokens: Option<Tokens>, needs: fn(&str) -> Needs, calls_per_second: u32) -> Self {
        Self { tokens, needs, calls_per_second, denied: Denied::default() }
    }

    /// Number of those who were not let in.
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Puts the gate before gRPC services.
    pub fn guard(self: Arc<Self>, routes: Routes) -> Routes {
        routes.into_axum_router().layer(middleware::from_fn_with_state(self, call)).into()
    }

    /// Puts the gate before pages, which readers may see.
    pub fn guard_pages(self: Arc<Self>, pages: axum::Router) -> axum::Router {
        pages.layer(middleware::from_fn_with_state(self, page))
    }

    /// The caller who is let in; `None` where nobody has to say who it is.
    fn admit(&self, headers: &HeaderMap, needs: Needs) -> Result<Option<Arc<Caller>>, Status> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        if needs == Needs::Nothing {
            return Ok(None);
        }
        let token =
            bearer(headers).ok_or_else(|| Status::unauthenticated("a token is needed (token_file)"))?;
        let caller =
            tokens.caller(token).ok_or_else(|| Status::unauthenticated("this token is not known"))?;
        match needs {
            Needs::Role(role) if !may(&caller, role) => Err(Status::permission_denied(format!(
                "{} is a {}; this takes a {role}",
                caller.name, caller.role
            ))),
            _ => Ok(Some(caller)),
        }
    }
}

fn may(caller: &Caller, role: Role) -> bool {
    caller.role == role || (caller.role == Role::Submitter && role == Role::Reader)
}

/// A call that may be made again after a while.
pub fn busy(words: &str, wait: Duration) -> Status {
    let mut status = Status::resource_exhausted(words);
    let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    if let Ok(value) = milliseconds.to_string().parse() {
        status.metadata_mut().insert(PUSHBACK, value);
    }
    status
}

/// Time to wait that the refusal of a call asks for, if it does.
pub fn pushback(status: &Status) -> Option<Duration> {
    let milliseconds = status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

async fn call(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let paced = match request.extensions().get::<Peer>() {
        Some(peer) => peer.take(gate.calls_per_second),
        None => Ok(()),
    };
    let admitted = match paced {
        Ok(()) => gate.admit(request.headers(), (gate.needs)(request.uri().path())),
        Err(wait) => Err(busy("this connection makes too many calls", wait)),
    };
    let (from, call) = (address(&request), request.uri().path().to_owned());
    match admitted {
        Ok(caller) => {
            let name = caller.map_or_else(|| from.clone(), |caller| caller.name.clone());
            request.extensions_mut().insert(ClientName(name.clone()));
            let response = next.run(request).await;
            // A call that fails before it has an answer says so in its headers.
            if let Some(status) = Status::from_header_map(response.headers()).filter(is_refusal) {
                tracing::info!(client = name, from, call, reason = status.message(), "refused a call");
            }
            response
        }
        Err(status) => {
            gate.denied.count(&status);
            // What is too fast is told to who calls; in a log it would be as many lines.
            if status.code() != Code::ResourceExhausted {
                tracing::info!(from, call, reason = status.message(), "refused a call");
            }
            status.into_http::<Body>()
        }
    }
}

/// True of the answer to a call that makes no sense here or now, as opposed to one that is to be made again.
fn is_refusal(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Ok, ResourceExhausted, Unavailable};
    !matches!(status.code(), Ok | Aborted | Cancelled | DeadlineExceeded | ResourceExhausted | Unavailable)
}

/// Address that a request comes from.
fn address(request: &Request) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.map_or_else(|| "somebody".to_owned(), |peer| peer.address.ip().to_string())
}

async fn page(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Some(tokens) = &gate.tokens else { return next.run(request).await };
    // Programs send a bearer token; a browser asks for a name, which does not matter, and a password.
    let caller = match (bearer(request.headers()), password(request.headers())) {
        (Some(token), _) => tokens.caller(token),
        (None, Some(token)) => tokens.caller(&token),
        (None, None) => None,
    };
    let refused = |status: &Status| {
        gate.denied.count(status);
        let (from, page) = (address(&request), request.uri().path());
        tracing::info!(from, page, reason = status.message(), "refused a page");
    };
    match caller {
        Some(caller) if may(&caller, Role::Reader) => next.run(request).await,
        Some(caller) => {
            refused(&Status::permission_denied(format!("{} is a {}", caller.name, caller.role)));
            (StatusCode::FORBIDDEN, "this takes the token of a reader\n").into_response()
        }
        None => {
            refused(&Status::unauthenticated("a token is needed"));
            let ask =
                HeaderValue::from_static("Basic realm=\"qslm: any name, a reader's token as password\"");
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, ask)], "a token is needed\n")
                .into_response()
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn password(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    Some(text.split_once(':')?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines =
            ["worker w wwwwwwwwwwwwwwww", "reader r rrrrrrrrrrrrrrrr", "submitter s ssssssssssssssss"];
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        Gate::new(Some(Tokens::load(file.path()).unwrap()), |_| Needs::Anyone, 100)
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn each_role_may_do_what_it_is_there_for() {
        let gate = gate();
        let allowed = |who: char, role| {
            let token = format!("Bearer {}", who.to_string().repeat(16));
            gate.admit(&headers(&token), Needs::Role(role)).is_ok()
        };
        let table = "wrs"
            .chars()
            .map(|who| [Role::Worker, Role::Reader, Role::Submitter].map(|role| allowed(who, role)));
        let expected = [[true, false, false], [false, true, false], [false, true, true]];
        assert_eq!(table.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn without_a_known_token_there_is_no_call() {
        let gate = gate();
        let code = |headers, needs| gate.admit(&headers, needs).map(drop).map_err(|status| status.code());
        let refused = Err(tonic::Code::Unauthenticated);
        assert_eq!(code(HeaderMap::new(), Needs::Anyone), refused);
        assert_eq!(code(headers("Bearer xxxxxxxxxxxxxxxx"), Needs::Anyone), refused);
        assert_eq!(code(headers("wwwwwwwwwwwwwwww"), Needs::Anyone), refused);
        assert_eq!(code(headers("Bearer wwwwwwwwwwwwwwww"), Needs::Anyone), Ok(()));
        assert_eq!(code(HeaderMap::new(), Needs::Nothing), Ok(()));
        let status =
            gate.admit(&headers("Bearer wwwwwwwwwwwwwwww"), Needs::Role(Role::Submitter)).unwrap_err();
        assert_eq!(status.message(), "w is a worker; this takes a submitter");
    }

    #[test]
    fn a_browser_sends_the_token_as_a_password() {
        let header = format!("Basic {}", STANDARD.encode("me:rrrr:rrrr"));
        assert_eq!(password(&headers(&header)).as_deref(), Some("rrrr:rrrr"));
        assert_eq!(password(&headers("Basic !!")), None);
    }

    #[test]
    fn how_long_to_wait_survives_the_way() {
        let status = busy("later", Duration::from_millis(250));
        assert_eq!(
            (status.code(), pushback(&status)),
            (tonic::Code::ResourceExhausted, Some(Duration::from_millis(250)))
        );
        assert_eq!(pushback(&Status::internal("x")), None);
    }
}
