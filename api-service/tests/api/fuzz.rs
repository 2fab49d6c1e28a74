//! Inputs that nobody thought of: whatever the bytes, each gets an answer that is no failure of the service, in bounded time.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Request, StatusCode, Uri},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use crate::{
    auth::{SECRET_FLAG, claims, token},
    harness::{Answer, App, Server},
};

/// The longest that one request may take, on a machine that has other things to do.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Every header that the service reads, beside those that HTTP itself needs.
const HEADERS: [&str; 10] = [
    "accept-encoding",
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "traceparent",
    "x-forwarded-for",
    "x-request-id",
    "origin",
];

/// Bytes that a header's value may have, among them pieces of what each parser looks for.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(prop_oneof![Just(b'\t'), 32..=126_u8, 128..=255_u8], 0..6),
        prop::sample::select(vec![
            "*",
            "\"",
            "W/",
            "\"v1\"",
            ", ",
            ";q=",
            "0.5",
            "1.",
            "gzip",
            "br",
            "zstd",
            "identity",
            "Bearer ",
            "e30.e30.",
            "00-",
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "-01",
            "127.0.0.1",
            "[::1]:80",
            "application/json",
            "charset",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
    ];
    prop_oneof![
        3 => prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat()),
        1 => prop::sample::select(vec!["*", "\"v1\"", "W/\"v1\", \"v7\"", "key", "text/plain"])
            .prop_map(|whole| whole.as_bytes().to_vec()),
    ]
}

/// A query of the parameters that some route reads, with values that are percent-encoded bytes or text as it is.
fn query() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["limit", "after", "author", "tag", "fields", "cpu", "else"]);
    let text = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| bytes
            .iter()
            .map(|byte| format!("%{byte:02x}"))
            .collect::<Vec<_>>()
            .concat()),
        "[!$'-;=?-~]{0,16}",
        prop::sample::select(vec![
            "1",
            "0",
            "-1",
            "9223372036854775808",
            "id,title",
            "MTox",
            "1ms",
            "%",
            "%zz"
        ])
        .prop_map(str::to_owned),
    ];
    let pairs = prop::collection::vec((name, text), 1..4).prop_map(|pairs| {
        pairs.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join("&")
    });
    prop_oneof![Just(String::new()), pairs]
}

/// Bytes, text that is nearly a post, and JSON of any shape.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("1e999".to_owned()),
        ".{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\ud800""#.to_owned()),
        Just(r#""\u0000""#.to_owned()),
    ];
    let json = leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop::sample::select(vec!["title", "body", "author", "tags", "other", ""]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((name, inner), 0..5).prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        3 => json.prop_map(String::into_bytes),
        2 => ("[a-z]{1,12}", ".{0,12}", prop::collection::vec("[a-z-]{1,4}", 0..3)).prop_map(|(title, body, tags)| {
            serde_json::json!({ "title": title, "body": body, "tags": tags }).to_string().into_bytes()
        }),
    ]
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() })
}

/// A success, or a refusal that says why.
fn sound(answer: &Answer) -> Result<(), TestCaseError> {
    prop_assert!(answer.status.as_u16() < 500, "{answer:?}");
    if answer.status.is_client_error() {
        prop_assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        // An answer to HEAD has none.
        if !answer.body.is_empty() {
            prop_assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        }
    }
    Ok(())
}

#[test]
fn any_head_and_body_get_an_answer_with_a_reason() {
    let runtime = Runtime::new().unwrap();
    let app =
        runtime.block_on(App::ready(&[SECRET_FLAG, "--rate-limit=1000000/s", "--rate-limit-trusted-hops=1"]));
    let good = format!("Bearer {}", token(&claims("ada", "posts:write")));
    // The post that was made last, so that conditions on what is there are met.
    let last = AtomicI64::new(1);
    let method =
        prop::sample::select(vec!["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]);
    let path = prop_oneof![
        prop::sample::select(vec![
            "/posts",
            "/posts/1",
            "/posts/2",
            "/posts/1/html",
            "/public/posts",
            "/work"
        ])
        .prop_map(str::to_owned),
        "/posts/[!-~&&[^?#]]{0,8}(/html)?",
    ];
    let headers = prop::collection::vec((prop::sample::select(HEADERS.to_vec()), value()), 0..3);
    let seen = Mutex::new(BTreeSet::new());
    let case = (method, path, query(), headers, body(), prop::array::uniform2(prop::bool::weighted(0.8)));
    runner(20_000)
        .run(&case, |(method, path, query, headers, body, [allowed, json])| {
            // Deleted, it would leave nothing for the conditions of the next cases.
            let id = if method == "DELETE" { 1 } else { last.load(Ordering::Relaxed) };
            let path = path.replace("last", &id.to_string());
            let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return Ok(()) };
            let mut request = Request::builder().method(method).uri(uri);
            // Past the first checks, so that what comes behind them is met too.
            if allowed {
                request = request.header("authorization", &good);
            }
            if json {
                request = request.header("content-type", "application/json");
            }
            for (name, value) in headers {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                request = request.header(HeaderName::from_static(name), value);
            }
            let Ok(request) = request.body(Body::from(body)) else { return Ok(()) };
            let answer = runtime.block_on(app.send(request));
            seen.lock().unwrap().insert(answer.status.as_u16());
            if answer.status == StatusCode::CREATED {
                last.store(answer.json()["id"].as_i64().unwrap(), Ordering::Relaxed);
            }
            sound(&answer)
        })
        .unwrap();
    let seen = seen.into_inner().unwrap();
    let reached = [200, 201, 204, 400, 401, 404, 405, 415, 422];
    assert!(
        reached.iter().all(|status| seen.contains(status)),
        "not every kind of answer is reached: {seen:?}"
    );
    // As sound as before.
    assert_eq!(runtime.block_on(app.get("/posts")).status, StatusCode::OK);
}

/// What may stand on a connection: bytes, or lines that are nearly HTTP.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        prop::sample::select(vec![
            "GET /posts HTTP/1.1",
            "POST /posts HTTP/1.1",
            "GET /posts/1 HTTP/1.0",
            "PUT * HTTP/1.1",
            "GET  / HTTP/1.1",
            "get / http/1.1",
            "PRI * HTTP/2.0",
            "host: t",
            "host:",
            "content-length: 5",
            "content-length: -1",
            "content-length: 99999999999999999999",
            "content-length: 5\r\ncontent-length: 6",
            "transfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: x",
            "content-type: application/json",
            "connection: close",
            "connection: upgrade",
            "expect: 100-continue",
            "5\r\n{\"a\":\r\n0\r\n",
            "ffffffffffffffffff\r\n",
            " folded",
            ": nameless",
            "x\0: y",
            "",
        ])
        .prop_map(|line| line.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..24),
    ];
    let end = prop::sample::select(vec!["\r\n", "\n", "\r", "\r\n\r\n"]);
    prop::collection::vec((line, end), 0..8).prop_map(|lines| {
        lines.iter().flat_map(|(line, end)| [line.as_slice(), end.as_bytes()].concat()).collect()
    })
}

#[test]
fn any_bytes_on_a_connection_end_it_in_time_and_never_as_a_failure() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::ready(&[
        "--head-timeout=200ms",
        "--body-timeout=200ms",
        "--idle-timeout=300ms",
    ]));
    runner(300)
        .run(&(stream(), prop::bool::weighted(0.9)), |(bytes, ends)| {
            let answer = runtime.block_on(async {
                let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
                // The server may have closed before the end of it.
                let _ = stream.write_all(&bytes).await;
                if ends {
                    let _ = stream.shutdown().await;
                }
                let mut answer = Vec::new();
                let read = tokio::time::timeout(ANSWER_LIMIT, stream.read_to_end(&mut answer)).await;
                read.is_ok().then_some(answer)
            });
            let answer = answer.ok_or_else(|| TestCaseError::fail("the connection is still open"))?;
            let answer = String::from_utf8_lossy(&answer);
            for status in answer.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..3)) {
                prop_assert!(matches!(status, "1" | "2" | "3" | "4"), "{answer}");
            }
            Ok(())
        })
        .unwrap();
    let answer = runtime.block_on(server.get("/posts"));
    assert_eq!(answer.status, StatusCode::OK);
    let metrics = runtime.block_on(server.get("/metrics"));
    assert!(!metrics.text().contains(r#"status="500""#), "{}", metrics.text());
}
