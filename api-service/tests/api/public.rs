//! What browsers and proxies rely on to keep answers: entity tags, conditions, codings.

use std::io::Read;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};

use crate::harness::{Answer, App};

const LIST: &str = "/public/posts";

async fn get(app: &App, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

/// An app with enough posts that a page is worth compressing.
async fn app() -> App {
    let app = App::ready(&[]).await;
    for number in 0..20 {
        app.post(&format!("post number {number}, with a title of some length")).await;
    }
    app
}

#[tokio::test]
async fn each_coding_has_a_tag_of_its_own_and_the_same_content() {
    let app = app().await;
    let plain = get(&app, "GET", LIST, &[]).await;
    assert_eq!((plain.status, plain.header("content-encoding")), (StatusCode::OK, None));
    let mut tags = vec![plain.header("etag").unwrap().to_owned()];
    for coding in ["gzip", "br", "zstd"] {
        let coded = get(&app, "GET", LIST, &[("accept-encoding", coding)]).await;
        assert_eq!(coded.header("content-encoding"), Some(coding));
        assert_eq!(coded.header("content-length"), Some(coded.body.len().to_string().as_str()));
        assert!(coded.body.len() * 2 < plain.body.len());
        let mut content = Vec::new();
        match coding {
            "gzip" => _ = flate2::read::GzDecoder::new(&coded.body[..]).read_to_end(&mut content).unwrap(),
            "br" => _ = brotli::Decompressor::new(&coded.body[..], 4096).read_to_end(&mut content).unwrap(),
            _ => zstd::stream::copy_decode(&coded.body[..], &mut content).unwrap(),
        }
        assert_eq!(content, plain.body);
        tags.push(coded.header("etag").unwrap().to_owned());
    }
    assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')), "{tags:?}");
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4);
}

#[tokio::test]
async fn a_client_that_has_the_answer_gets_304_with_the_headers_of_the_200() {
    let app = app().await;
    for coding in ["identity", "gzip"] {
        let whole = get(&app, "GET", LIST, &[("accept-encoding", coding)]).await;
        let tag = whole.header("etag").unwrap();
        for condition in [tag.to_owned(), format!("W/{tag}"), format!(r#""other,", {tag}"#), "*".to_owned()] {
            for method in ["GET", "HEAD"] {
                let headers = [("accept-encoding", coding), ("if-none-match", &*condition)];
                let answer = get(&app, method, LIST, &headers).await;
                assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{condition}");
                for name in ["etag", "cache-control", "vary"] {
                    assert_eq!(answer.header(name), whole.header(name), "{name}");
                }
                assert_eq!(answer.header("content-encoding"), None);
                assert_eq!(answer.header("content-length"), None);
            }
        }
        let other = get(&app, "GET", LIST, &[("accept-encoding", coding), ("if-none-match", "\"x\"")]).await;
        assert_eq!((other.status, &other.body), (StatusCode::OK, &whole.body));
    }
    let gzip = get(&app, "GET", LIST, &[("accept-encoding", "gzip")]).await;
    let plain = get(&app, "GET", LIST, &[("if-none-match", gzip.header("etag").unwrap())]).await;
    assert_eq!(plain.status, StatusCode::OK, "the tag of another coding is another tag");
    let broken = get(&app, "GET", LIST, &[("if-none-match", "no quotes")]).await;
    assert_eq!(
        (broken.status, broken.json()["field"].as_str()),
        (StatusCode::BAD_REQUEST, Some("if-none-match"))
    );
}

#[tokio::test]
async fn head_says_what_get_would() {
    let app = app().await;
    let (whole, head) = (get(&app, "GET", LIST, &[]).await, get(&app, "HEAD", LIST, &[]).await);
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    for name in ["etag", "cache-control", "vary", "content-type", "content-length"] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
}

#[tokio::test]
async fn says_how_long_it_may_be_kept_and_by_whom() {
    let app = app().await;
    let answer = get(&app, "GET", LIST, &[]).await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60, stale-while-revalidate=300"));
    assert_eq!(answer.header("vary"), Some("accept-encoding"));
    let post = get(&app, "GET", "/posts/1", &[]).await;
    assert_eq!((post.header("cache-control"), post.header("etag")), (Some("no-cache"), Some("\"v1\"")));
    assert_eq!(
        get(&app, "GET", "/posts/1", &[("if-none-match", "\"v1\"")]).await.status,
        StatusCode::NOT_MODIFIED
    );
}

#[tokio::test]
async fn a_write_changes_the_tag_at_once() {
    let app = app().await;
    let before = get(&app, "GET", LIST, &[]).await;
    let body = r#"{"title": "changed", "body": ""}"#;
    for (method, path, status) in [
        ("PUT", "/posts/20", StatusCode::OK),
        ("POST", "/posts", StatusCode::CREATED),
        ("DELETE", "/posts/21", StatusCode::NO_CONTENT),
    ] {
        let before = get(&app, "GET", LIST, &[]).await;
        assert_eq!(app.json(method, path, body).await.status, status);
        let after = get(&app, "GET", LIST, &[("if-none-match", before.header("etag").unwrap())]).await;
        assert_eq!(after.status, StatusCode::OK, "{method}");
    }
    assert_ne!(get(&app, "GET", LIST, &[]).await.header("etag"), before.header("etag"));
}

#[tokio::test]
async fn small_answers_are_left_as_they_are() {
    let app = App::ready(&[]).await;
    app.post("only").await;
    let answer = get(&app, "GET", LIST, &[("accept-encoding", "br")]).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (StatusCode::OK, None));
    assert_eq!(answer.header("vary"), Some("accept-encoding"));
}
