//! A server that answers the paths of the Hub, and a storage at another address that it sends clients to.

use std::collections::BTreeMap;
use std::net::TcpListener as Listener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, LOCATION, RANGE};
use axum::http::{Method, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;

/// The commit that `main` is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_blob(bytes: &[u8]) -> String {
    let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &whole).as_ref())
}

/// Address at which nobody listens.
pub fn nobody() -> String {
    let address = Listener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}")
}

struct HubFile {
    bytes: Vec<u8>,
    /// What is sent in the place of that.
    sent: Option<Vec<u8>>,
    is_large: bool,
}

#[derive(Default)]
struct Inner {
    commit: String,
    files: BTreeMap<(String, String), HubFile>,
    storage: String,
    /// Methods of requests, ranges that were asked for, tokens that the storage was shown.
    methods: Vec<String>,
    ranges: Vec<String>,
    tokens_elsewhere: usize,
    token: Option<String>,
    gated: Option<String>,
    busy: usize,
    /// Bytes after which a connection of the storage breaks.
    most: Option<usize>,
    no_ranges: bool,
    no_headers: bool,
}

type Shared = Arc<Mutex<Inner>>;

/// The server; it ends with the value.
pub struct Server {
    inner: Shared,
    url: String,
    _runtime: Runtime,
}

impl Server {
    /// Listens on two ports: the Hub's and the storage's.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inner = Shared::default();
        let serve = |router: Router| {
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(async move { axum::serve(listener, router).await });
                format!("http://{address}")
            })
        };
        let storage = serve(Router::new().fallback(storage).with_state(inner.clone()));
        let url = serve(Router::new().fallback(hub).with_state(inner.clone()));
        let mut first = inner.lock().unwrap();
        (first.storage, first.commit) = (storage, COMMIT.to_owned());
        drop(first);
        Self { inner, url, _runtime: runtime }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
    }

    fn file(&self, repository: &str, file: &str, bytes: &[u8], is_large: bool) {
        let key = (repository.to_owned(), file.to_owned());
        let value = HubFile { bytes: bytes.to_vec(), sent: None, is_large };
        self.change(|inner| drop(inner.files.insert(key, value)));
    }

    /// A file that lies in the storage.
    pub fn large(&self, repository: &str, file: &str, bytes: &[u8]) {
        self.file(repository, file, bytes, true);
    }

    /// A file that the Hub sends itself.
    pub fn small(&self, repository: &str, file: &str, bytes: &[u8]) {
        self.file(repository, file, bytes, false);
    }

    /// Describes a file as before, and sends something else.
    pub fn send_instead(&self, repository: &str, file: &str, bytes: &[u8]) {
        let key = (repository.to_owned(), file.to_owned());
        self.change(|inner| inner.files.get_mut(&key).unwrap().sent = Some(bytes.to_vec()));
    }

    pub fn move_to(&self, commit: &str) {
        self.change(|inner| commit.clone_into(&mut inner.commit));
    }

    pub fn break_after(&self, bytes: usize) {
        self.change(|inner| inner.most = Some(bytes));
    }

    pub fn without_ranges(&self) {
        self.change(|inner| inner.no_ranges = true);
    }

    pub fn without_headers(&self) {
        self.change(|inner| inner.no_headers = true);
    }

    pub fn be_busy(&self, times: usize) {
        self.change(|inner| inner.busy = times);
    }

    pub fn gate(&self, repository: &str) {
        self.change(|inner| inner.gated = Some(repository.to_owned()));
    }

    pub fn want_token(&self, token: &str) {
        self.change(|inner| inner.token = Some(format!("Bearer {token}")));
    }

    pub fn requests(&self, method: &str) -> usize {
        self.inner.lock().unwrap().methods.iter().filter(|one| *one == method).count()
    }

    pub fn ranges(&self) -> Vec<String> {
        self.inner.lock().unwrap().ranges.clone()
    }

    pub fn tokens_elsewhere(&self) -> usize {
        self.inner.lock().unwrap().tokens_elsewhere
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn refuse(status: u16, code: &str) -> Response<Body> {
    answer(status, &[("x-error-code", code)], "no")
}

async fn hub(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let mut inner = shared.lock().unwrap();
    inner.methods.push(request.method().to_string());
    if inner.busy > 0 {
        inner.busy -= 1;
        return answer(503, &[], "busy");
    }
    let path = request.uri().path().trim_start_matches('/').to_owned();
    if let Some(api) = path.strip_prefix("api/models/") {
        let repository = api.split_once("/revision/").unwrap().0;
        let names = inner.files.keys().filter(|(of, _)| of == repository);
        let names: Vec<String> = names.map(|(_, file)| format!("{{\"rfilename\":\"{file}\"}}")).collect();
        return answer(200, &[], format!("{{\"siblings\":[{}]}}", names.join(",")));
    }
    let Some((repository, rest)) = path.split_once("/resolve/") else {
        // A file of the web, in the same storage.
        return match path.strip_prefix("elsewhere/") {
            Some(file) => {
                answer(302, &[(LOCATION.as_str(), &format!("{}/owner/name/{file}", inner.storage))], "")
            }
            None => refuse(404, ""),
        };
    };
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if inner.gated.as_deref() == Some(repository) {
        return refuse(if shown.is_some() { 403 } else { 401 }, "GatedRepo");
    }
    let is_known = inner.files.keys().any(|(of, _)| of == repository);
    if !is_known || inner.token.as_deref().is_some_and(|token| Some(token) != shown) {
        return refuse(if shown.is_some() { 404 } else { 401 }, "RepoNotFound");
    }
    let (revision, file) = rest.split_once('/').unwrap();
    if revision != "main" && revision != inner.commit {
        return refuse(404, "RevisionNotFound");
    }
    let Some(found) = inner.files.get(&(repository.to_owned(), file.to_owned())) else {
        return refuse(404, "EntryNotFound");
    };
    if inner.no_headers {
        return answer(200, &[], "hello");
    }
    let commit = ("x-repo-commit", &*inner.commit);
    if found.is_large {
        let location = format!("{}/{repository}/{file}", inner.storage);
        let tag = format!("\"{}\"", sha256(&found.bytes));
        let size = found.bytes.len().to_string();
        let headers =
            [commit, ("x-linked-etag", &tag), ("x-linked-size", &size), (LOCATION.as_str(), &location)];
        return answer(302, &headers, "Found. Redirecting");
    }
    let tag = format!("W/\"{}\"", git_blob(&found.bytes));
    answer(200, &[commit, ("etag", &tag)], found.sent.as_ref().unwrap_or(&found.bytes).clone())
}

async fn storage(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let mut inner = shared.lock().unwrap();
    inner.methods.push(request.method().to_string());
    inner.tokens_elsewhere += usize::from(request.headers().contains_key(AUTHORIZATION));
    let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    inner.ranges.extend(range.clone());
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let mut parts = path.splitn(3, '/');
    let repository = format!("{}/{}", parts.next().unwrap(), parts.next().unwrap_or_default());
    let key = (repository, parts.next().unwrap_or_default().to_owned());
    let Some(found) = inner.files.get(&key) else { return refuse(404, "") };
    assert_eq!(request.method(), Method::GET);
    let bytes = found.sent.as_ref().unwrap_or(&found.bytes).clone();
    let start = range.filter(|_| !inner.no_ranges).map_or(0, |range| {
        range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse::<usize>().unwrap()
    });
    if start > bytes.len() {
        return answer(StatusCode::RANGE_NOT_SATISFIABLE.as_u16(), &[], "");
    }
    let (length, last) = ((bytes.len() - start).to_string(), bytes.len().saturating_sub(1));
    let content_range = format!("bytes {start}-{last}/{}", bytes.len());
    let status = if start > 0 { 206 } else { 200 };
    let mut headers = vec![("content-length", &*length)];
    if start > 0 {
        headers.push(("content-range", &content_range));
    }
    match inner.most {
        None => answer(status, &headers, bytes[start..].to_vec()),
        Some(most) => {
            // A body that ends in an error: the connection breaks before all that was promised is there.
            let piece = Bytes::copy_from_slice(&bytes[start..bytes.len().min(start + most)]);
            let is_all = start + most >= bytes.len();
            let broken = (!is_all).then(|| Err(std::io::Error::other("broken on purpose")));
            let pieces = std::iter::once(Ok(piece)).chain(broken);
            // What was sent before is on its way by then.
            let pieces = tokio_stream::iter(pieces).then(async |piece| {
                if piece.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                piece
            });
            answer(status, &headers, Body::from_stream(pieces))
        }
    }
}
