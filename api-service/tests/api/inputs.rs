//! Every kind of bad input gets a 4xx that says what is wrong and where, never a 500.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Answer, App, Server};

/// Method, path, body, and the status, code and field of the answer.
type Case<'a> = (&'a str, &'a str, &'a str, u16, &'a str, Option<&'a str>);

#[tokio::test]
async fn bad_input_is_refused_with_its_reason() {
    let app = App::ready(&[]).await;
    let long_title = format!(r#"{{"title": "{}", "body": ""}}"#, "ü".repeat(201));
    let long_body = format!(r#"{{"title": "t", "body": "{}"}}"#, "x".repeat(65_537));
    let huge = format!(r#"{{"title": "t", "body": "{}"}}"#, "x".repeat(1_000_000));
    let deep = "[".repeat(100_000);
    let with = |field: &str| format!(r#"{{"title": "t", "body": "", {field}}}"#);
    let long_author = with(&format!(r#""author": "{}""#, "ü".repeat(81)));
    let long_tag = with(&format!(r#""tags": ["{}"]"#, "x".repeat(41)));
    let eleven_tags = with(&format!(r#""tags": [{}]"#, ["\"a\""; 11].join(",")));
    let cases: &[Case] = &[
        ("POST", "/posts", "", 400, "bad_request", None),
        ("POST", "/posts", "{", 400, "bad_request", None),
        ("POST", "/posts", "{} {}", 400, "bad_request", None),
        ("POST", "/posts", "\u{feff}{}", 400, "bad_request", None),
        ("POST", "/posts", r#"["title", "body"]"#, 400, "bad_request", None),
        ("POST", "/posts", &deep, 400, "bad_request", None),
        ("POST", "/posts", r#"{"title": "\ud800", "body": ""}"#, 400, "bad_request", None),
        ("POST", "/posts", "{}", 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": null, "body": ""}"#, 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": 5, "body": ""}"#, 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": "", "body": ""}"#, 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": " \t ", "body": ""}"#, 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": "a\u0000b", "body": ""}"#, 422, "invalid_field", Some("title")),
        ("POST", "/posts", &long_title, 422, "invalid_field", Some("title")),
        ("POST", "/posts", r#"{"title": "t"}"#, 422, "invalid_field", Some("body")),
        ("POST", "/posts", r#"{"title": "t", "body": "\u0000"}"#, 422, "invalid_field", Some("body")),
        ("POST", "/posts", r#"{"title": "t", "body": ["x"]}"#, 422, "invalid_field", Some("body")),
        ("POST", "/posts", r#"{"title": "t", "body": "", "id": 7}"#, 422, "invalid_field", Some("id")),
        ("POST", "/posts", &long_body, 422, "invalid_field", Some("body")),
        ("POST", "/posts", &with(r#""author": """#), 422, "invalid_field", Some("author")),
        ("POST", "/posts", &with(r#""author": " ""#), 422, "invalid_field", Some("author")),
        ("POST", "/posts", &with(r#""author": "a\u0000b""#), 422, "invalid_field", Some("author")),
        ("POST", "/posts", &with(r#""author": {"id": 1}"#), 422, "invalid_field", Some("author")),
        ("POST", "/posts", &long_author, 422, "invalid_field", Some("author")),
        ("POST", "/posts", &with(r#""tags": "a""#), 422, "invalid_field", Some("tags")),
        ("POST", "/posts", &with(r#""tags": ["a", "b", 3]"#), 422, "invalid_field", Some("tags[2]")),
        ("POST", "/posts", &with(r#""tags": ["a", "b", "C"]"#), 422, "invalid_field", Some("tags[2]")),
        ("POST", "/posts", &with(r#""tags": ["a", ""]"#), 422, "invalid_field", Some("tags[1]")),
        ("POST", "/posts", &with(r#""tags": ["a,b"]"#), 422, "invalid_field", Some("tags[0]")),
        ("POST", "/posts", &with(r#""tags": [null]"#), 422, "invalid_field", Some("tags[0]")),
        ("POST", "/posts", &with(r#""tags": ["ü"]"#), 422, "invalid_field", Some("tags[0]")),
        ("POST", "/posts", &long_tag, 422, "invalid_field", Some("tags[0]")),
        ("POST", "/posts", &eleven_tags, 422, "invalid_field", Some("tags")),
        ("POST", "/posts", &huge, 413, "body_too_large", None),
        ("PUT", "/posts/1", "{}", 422, "invalid_field", Some("title")),
        ("GET", "/posts/0", "", 400, "bad_request", Some("id")),
        ("GET", "/posts/-1", "", 400, "bad_request", Some("id")),
        ("GET", "/posts/+1", "", 400, "bad_request", Some("id")),
        ("GET", "/posts/one", "", 400, "bad_request", Some("id")),
        ("GET", "/posts/%ff", "", 400, "bad_request", Some("id")),
        ("GET", "/posts/9223372036854775808", "", 400, "bad_request", Some("id")),
        ("DELETE", "/posts/x", "", 400, "bad_request", Some("id")),
        ("GET", "/posts?limit=0", "", 400, "bad_request", Some("limit")),
        ("GET", "/posts?limit=101", "", 400, "bad_request", Some("limit")),
        ("GET", "/posts?limit=", "", 400, "bad_request", Some("limit")),
        ("GET", "/posts?limit=ten", "", 400, "bad_request", Some("limit")),
        ("GET", "/posts?limit=1&limit=2", "", 400, "bad_request", None),
        ("GET", "/posts?after=42", "", 400, "bad_request", Some("after")),
        ("GET", "/posts?after=%00", "", 400, "bad_request", Some("after")),
        ("GET", "/posts?author=0", "", 400, "bad_request", Some("author")),
        ("GET", "/posts?author=ann", "", 400, "bad_request", Some("author")),
        ("GET", "/posts?author=9223372036854775808", "", 400, "bad_request", Some("author")),
        ("GET", "/posts?author=1&author=2", "", 400, "bad_request", None),
        ("GET", "/posts?tag=", "", 400, "bad_request", Some("tag")),
        ("GET", "/posts?tag=UPPER", "", 400, "bad_request", Some("tag")),
        ("GET", "/posts?tag=%00", "", 400, "bad_request", Some("tag")),
        ("GET", "/posts?tag=%ff", "", 400, "bad_request", None),
        ("GET", "/posts?fields=", "", 400, "bad_request", Some("fields")),
        ("GET", "/posts?fields=id,secret", "", 400, "bad_request", Some("fields")),
        ("GET", "/posts/1?fields=secret", "", 400, "bad_request", Some("fields")),
        ("GET", "/posts/1?fields=id&fields=title", "", 400, "bad_request", None),
        ("GET", "/posts?after=%ff", "", 400, "bad_request", None),
        ("GET", "/posts?%ff=1", "", 400, "bad_request", None),
        ("GET", "/work", "", 400, "bad_request", Some("cpu")),
        ("GET", "/work?cpu=2", "", 400, "bad_request", Some("cpu")),
        ("GET", "/work?cpu=-2ms", "", 400, "bad_request", Some("cpu")),
        ("GET", "/work?cpu=1001ms", "", 400, "bad_request", Some("cpu")),
        ("GET", "/nowhere", "", 404, "route_not_found", None),
        ("GET", "/posts/", "", 404, "route_not_found", None),
        ("PATCH", "/posts/1", "", 405, "method_not_allowed", None),
        ("BREW", "/posts", "", 405, "method_not_allowed", None),
    ];
    for (method, path, body, status, code, field) in cases {
        let answer = app.json(method, path, (*body).to_owned()).await;
        let case = format!("{method} {path} {}", body.chars().take(60).collect::<String>());
        assert_eq!(answer.status.as_u16(), *status, "{case}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{case}");
        let problem = answer.json();
        assert_eq!(problem["code"], *code, "{case}");
        assert_eq!(problem["status"], *status, "{case}");
        assert_eq!(problem["field"].as_str(), *field, "{case}: {problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{case}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_refused() {
    let app = App::ready(&[]).await;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let request =
            Request::post("/posts").header("content-type", content_type).body(Body::from("{}")).unwrap();
        assert_eq!(app.send(request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
    }
    let request = Request::post("/posts").header("content-type", "Application/JSON; charset=utf-8");
    let accepted: Answer = app.send(request.body(Body::from(r#"{"title": "t", "body": ""}"#)).unwrap()).await;
    assert_eq!(accepted.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let app = App::ready(&[]).await;
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    let answer = app.json("POST", "/posts", Body::from_stream(chunks)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_method_that_is_not_allowed_learns_which_are() {
    let app = App::ready(&[]).await;
    let answer = app.json("PATCH", "/posts/1", "").await;
    let allowed: std::collections::BTreeSet<_> = answer.header("allow").unwrap().split(',').collect();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"].into());
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_refused_with_its_reason() {
    let app = App::ready(&[]).await;
    let long = app.get(&format!("/posts?after={}", "a".repeat(8_000))).await;
    assert_eq!((long.status, long.json()["code"].as_str()), (StatusCode::URI_TOO_LONG, Some("uri_too_long")));
    let request = Request::get("/posts").header("x-large", "a".repeat(33_000)).body(Body::empty()).unwrap();
    let large = app.send(request).await;
    assert_eq!(large.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(large.json()["code"], "head_too_large");
}

#[tokio::test]
async fn options_tells_the_methods_and_head_is_get_without_its_body() {
    let app = App::ready(&[]).await;
    for (path, methods) in [("/posts", "GET,HEAD,POST"), ("/livez", "GET,HEAD"), ("/metrics", "GET,HEAD")] {
        let options = app.json("OPTIONS", path, "").await;
        assert_eq!(
            (options.status, options.header("allow")),
            (StatusCode::NO_CONTENT, Some(methods)),
            "{path}"
        );
        let refused = app.json("BREW", path, "").await;
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(
            (refused.header("allow"), &refused.json()["code"]),
            (Some(methods), &"method_not_allowed".into())
        );
    }
    let (get, head) = (app.get("/posts").await, app.json("HEAD", "/posts", "").await);
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn only_pages_of_origins_in_the_settings_may_use_it() {
    let preflight = |origin: &str| {
        Request::options("/posts")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = async |app: &App, origin: &str| {
        app.send(preflight(origin)).await.header("access-control-allow-origin").map(str::to_owned)
    };
    let closed = App::ready(&[]).await;
    assert_eq!(allowed(&closed, "https://app.example").await, None);
    let some = App::ready(&["--cors-origins=https://app.example,https://other.example"]).await;
    assert_eq!(allowed(&some, "https://app.example").await.as_deref(), Some("https://app.example"));
    assert_eq!(allowed(&some, "https://evil.example").await, None);
    let any = App::ready(&["--cors-origins=*"]).await;
    assert_eq!(allowed(&any, "https://evil.example").await.as_deref(), Some("*"));
}

/// What the server answers to these bytes, and then closes.
async fn raw(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset after the answer is as good an end.
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap_or_else(|_| {
        panic!("the server closes; sent {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]))
    });
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::ready(&["--body-timeout=100ms"]).await;
    let head =
        "POST /posts HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let answer = raw(server.port, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"body_timeout""#), "{answer}");
}

/// Sends `bytes` one by one, with a pause between them, until the server closes; what it answered, and after how long.
async fn trickled(stream: TcpStream, bytes: &'static [u8], pause: Duration) -> (String, Duration) {
    let began = Instant::now();
    let (mut from, mut to) = stream.into_split();
    let sender = tokio::spawn(async move {
        for byte in bytes.iter().cycle() {
            // After the end, writing fails.
            if to.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    });
    let mut answer = Vec::new();
    // A reset after the answer is as good an end.
    let read = tokio::time::timeout(Duration::from_secs(20), from.read_to_end(&mut answer));
    let _ = read.await.expect("the server closes");
    sender.abort();
    (String::from_utf8(answer).unwrap(), began.elapsed())
}

#[tokio::test]
async fn a_head_that_comes_by_the_byte_is_not_waited_for() {
    let server = Server::ready(&["--head-timeout=200ms", "--idle-timeout=1m"]).await;
    let (pause, late) = (Duration::from_millis(20), Duration::from_millis(200));
    let connect = async || TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let head = b"GET /posts HTTP/1.1\r\nhost: t\r\nx-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let first = trickled(connect().await, head, pause);

    // What was answered before it makes no difference, nor does a wait before the head's first byte.
    let mut kept = connect().await;
    kept.write_all(b"GET /posts HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    assert!(kept.read(&mut answer).await.unwrap() > 0);
    tokio::time::sleep(2 * late).await;
    let second = trickled(kept, head, pause);

    for (answer, took) in [first.await, second.await] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains(r#""code":"head_timeout""#), "{answer}");
        assert!((late..Duration::from_secs(10)).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn only_the_head_is_bounded_by_its_time() {
    let server = Server::ready(&["--head-timeout=100ms"]).await;
    let late = Duration::from_millis(300);
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let body = r#"{"title": "t", "body": ""}"#;
    let head = format!(
        "POST /posts HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{{",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Time itself is the condition here.
    tokio::time::sleep(late).await;
    stream.write_all(&body.as_bytes()[1..]).await.unwrap();
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer[..count]));
    tokio::time::sleep(late).await;
    stream.write_all(b"GET /work?cpu=300ms HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..count]));
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let server = Server::ready(&[]).await;
    let body = r#"{"title": "t", "body": ""}"#;
    let head = format!(
        "POST /posts HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(server.port, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "), "{answer}");
}

#[tokio::test]
async fn what_is_no_http_gets_a_4xx_and_the_connection_ends() {
    let server = Server::ready(&[]).await;
    let many = "x: 1\r\n".repeat(101);
    let huge = "a".repeat(70_000);
    for (bytes, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("GET /posts HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET /posts HTTP/1.1\r\nhost: t\r\nbroken\r\n\r\n".to_owned(), "400"),
        ("POST /posts HTTP/1.1\r\nhost: t\r\ncontent-length: x\r\n\r\n".to_owned(), "400"),
        (format!("GET /posts HTTP/1.1\r\nhost: t\r\n{many}\r\n"), "431"),
        (format!("GET /posts HTTP/1.1\r\nhost: t\r\nconnection: close\r\nx: {huge}\r\n\r\n"), "431"),
    ] {
        let answer = raw(server.port, bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.40}: {answer:?}");
    }
    assert_eq!(server.get("/posts").await.status, StatusCode::OK);
}
