//! Refusals as people read them: in the frame of all pages, with a way back. Programs get the words alone.

use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use qslm_report::page::{Page, render};

use super::{NAVIGATION, with_type};

/// Bytes of a refusal's words at most.
const MOST_WORDS: usize = 64 * 1024;

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalBody<'a> {
    title: &'a str,
    words: &'a str,
    /// Sentence about what helps; empty where the words say all.
    help: &'static str,
}

/// Frames whatever is refused, by the gate, by a handler or because there is no such page.
pub(super) async fn frame(request: Request, next: Next) -> Response {
    let reads_pages = accepts_pages(request.headers());
    let response = next.run(request).await;
    let is_refusal = response.status().is_client_error() || response.status().is_server_error();
    if reads_pages && is_refusal { framed(response).await } else { response }
}

/// True if whoever asks says that it shows pages, as browsers do where people look on.
fn accepts_pages(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

async fn framed(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let words = to_bytes(body, MOST_WORDS).await.unwrap_or_default();
    let html = page(parts.status, String::from_utf8_lossy(&words).trim());
    let mut framed = with_type("text/html; charset=utf-8", Body::from(html));
    *framed.status_mut() = parts.status;
    // What asks a browser for a token, among others; what was said of the words themselves is not true any more.
    for (name, value) in &parts.headers {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            framed.headers_mut().insert(name, value.clone());
        }
    }
    framed
}

fn page(status: StatusCode, words: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Refused");
    let help = match status {
        StatusCode::UNAUTHORIZED => {
            "Load the page again and give any name, with the token of a reader as password."
        }
        StatusCode::FORBIDDEN => "Close the browser, so that it asks for another token.",
        _ => "",
    };
    Page::framed(&format!("qslm: {title}"), &render(&RefusalBody { title, words, help }), NAVIGATION).html()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn only_who_shows_pages_gets_one() {
        let asks =
            |accept: &str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]);
        assert!(accepts_pages(&asks("text/html,application/xhtml+xml,*/*;q=0.8")));
        for program in ["*/*", "application/json", "text/event-stream"] {
            assert!(!accepts_pages(&asks(program)), "{program}");
        }
        assert!(!accepts_pages(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_framed_refusal_keeps_its_status_words_and_what_asks_for_a_token() {
        let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"qslm\"")];
        let response = (StatusCode::UNAUTHORIZED, ask, "a <token> is needed\n").into_response();
        let framed = framed(response).await;
        assert_eq!(framed.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(framed.headers()[header::WWW_AUTHENTICATE], "Basic realm=\"qslm\"");
        assert_eq!(framed.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(framed.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let body = to_bytes(framed.into_body(), MOST_WORDS).await.unwrap();
        let html = String::from_utf8(body.to_vec()).unwrap();
        assert!(html.contains("<nav>") && html.contains("<h1>Unauthorized</h1>"), "{html}");
        assert!(html.contains("is needed") && !html.contains("<token>"), "{html}");
    }
}
