//! Bearer tokens over the router: who may write, and what the others are told.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents},
};
use serde_json::{Value, json};

use crate::harness::{Answer, App, post_json};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const SECRET_FLAG: &str = "--auth-jwt-secret=0123456789abcdef0123456789abcdef";

pub fn token(claims: &Value) -> String {
    let message =
        [&json!({ "alg": "HS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Claims that end far in the future.
pub fn claims(subject: &str, scope: &str) -> Value {
    json!({ "sub": subject, "scope": scope, "exp": 4_000_000_000_u32 })
}

async fn write(app: &App, method: &str, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    app.send(request.body(Body::from(post_json("t"))).unwrap()).await
}

#[tokio::test]
async fn without_a_key_writes_are_open() {
    let app = App::ready(&[]).await;
    assert_eq!(write(&app, "POST", "/posts", None).await.status, StatusCode::CREATED);
    assert_eq!(write(&app, "POST", "/posts", Some("Bearer nonsense")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn with_a_key_every_write_needs_a_token_that_may_write() {
    let app = App::ready(&[SECRET_FLAG]).await;
    let may = format!("Bearer {}", token(&claims("ada", "posts:read posts:write")));
    let may_not = format!("Bearer {}", token(&claims("eve", "posts:read")));
    let expired = format!("Bearer {}", token(&json!({ "sub": "ada", "scope": "posts:write", "exp": 1 })));
    let created = write(&app, "POST", "/posts", Some(&may)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    for (method, path) in [("POST", "/posts"), ("PUT", "/posts/1"), ("DELETE", "/posts/1")] {
        let cases = [
            (None, 401, "missing_token", "Bearer"),
            (Some("Basic YTpi"), 401, "missing_token", "Bearer"),
            (
                Some(expired.as_str()),
                401,
                "invalid_token",
                r#"Bearer error="invalid_token", error_description="the token has expired""#,
            ),
            (
                Some("Bearer x"),
                401,
                "invalid_token",
                r#"Bearer error="invalid_token", error_description="the token cannot be read""#,
            ),
            (
                Some(may_not.as_str()),
                403,
                "insufficient_scope",
                r#"Bearer error="insufficient_scope", scope="posts:write""#,
            ),
        ];
        for (authorization, status, code, challenge) in cases {
            let refused = write(&app, method, path, authorization).await;
            assert_eq!(refused.status.as_u16(), status, "{method} {authorization:?}: {refused:?}");
            assert_eq!(refused.header("www-authenticate"), Some(challenge));
            assert_eq!(refused.header("content-type"), Some("application/problem+json"));
            assert_eq!(refused.json()["code"], code);
            assert!(refused.header("x-request-id").is_some());
        }
    }
    assert_eq!(write(&app, "DELETE", "/posts/1", Some(&may)).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn reads_and_probes_need_no_token_but_a_bad_one_is_never_let_pass() {
    let app = App::ready(&[SECRET_FLAG]).await;
    for path in ["/posts", "/livez", "/readyz", "/metrics", "/health"] {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(app.get("/nowhere").await.status, StatusCode::NOT_FOUND);
    assert_eq!(write(&app, "GET", "/posts", Some("Bearer x")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(write(&app, "GET", "/livez", Some("Bearer x")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_is_never_sent_back() {
    let app = App::ready(&[SECRET_FLAG]).await;
    let token = token(&json!({ "sub": "ada", "exp": 1 }));
    let refused = write(&app, "POST", "/posts", Some(&format!("Bearer {token}"))).await;
    assert!(!format!("{refused:?}").contains(&token[..20]), "{refused:?}");
}

#[tokio::test]
async fn an_idempotency_key_is_its_callers_own() {
    let app = App::ready(&[SECRET_FLAG]).await;
    let mut made = Vec::new();
    for subject in ["ada", "ada", "eve"] {
        let token = token(&claims(subject, "posts:write"));
        let request = Request::post("/posts")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", "k1");
        let answer = app.send(request.body(Body::from(post_json("t"))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        made.push((answer.json()["id"].as_i64().unwrap(), answer.header("idempotency-replayed").is_some()));
    }
    assert_eq!(made, [(1, false), (1, true), (2, false)]);
}

/// A key pair of the kind that most issuers have. Neither ring nor any crate here makes one.
struct Rsa {
    public_pem: String,
    pair: RsaKeyPair,
}

impl Rsa {
    fn generate() -> Self {
        let openssl = |arguments: &[&str], input: &[u8]| {
            let mut child = Command::new("openssl")
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl must be on the PATH");
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "openssl {arguments:?}");
            output.stdout
        };
        let private = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], b"");
        let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &private);
        let public_pem = String::from_utf8(openssl(&["pkey", "-pubout"], &private)).unwrap();
        Self { public_pem, pair: RsaKeyPair::from_pkcs8(&pkcs8).unwrap() }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn jwk(&self, id: &str) -> Value {
        let RsaPublicKeyComponents::<Vec<u8>> { n, e } = self.pair.public().into();
        let (modulus, exponent) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": modulus, "e": exponent })
    }
}

/// The status of a write with this token, and what the challenge says of it.
async fn judged(app: &App, token: &str) -> (u16, String) {
    let answer = write(app, "POST", "/posts", Some(&format!("Bearer {token}"))).await;
    (answer.status.as_u16(), answer.header("www-authenticate").unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_real_rs256_key_lets_in_what_it_signed_and_nothing_else() {
    let (ours, theirs) = (Rsa::generate(), Rsa::generate());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &ours.public_pem).unwrap();
    let app = App::ready(&[&format!("--auth-jwt-public-key={}", file.path().display())]).await;
    let (header, good) = (json!({ "alg": "RS256", "typ": "JWT" }), claims("ada", "posts:write"));
    let token = ours.token(&header, &good);
    for _ in 0..2 {
        // The second time, from what is remembered.
        assert_eq!(judged(&app, &token).await.0, 201);
    }
    let expired = json!({ "sub": "ada", "scope": "posts:write", "exp": 1 });
    let (message, _) = token.rsplit_once('.').unwrap();
    let none =
        [&json!({ "alg": "none" }), &good].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    // The public key, which everyone has, taken for an HMAC secret.
    let confused =
        [&json!({ "alg": "HS256" }), &good].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, ours.public_pem.as_bytes()), confused.as_bytes());
    for (token, why) in [
        (theirs.token(&header, &good), "the token's signature is wrong"),
        (ours.token(&header, &expired), "the token has expired"),
        (format!("{none}."), "the token cannot be read"),
        (
            format!("{confused}.{}", URL_SAFE_NO_PAD.encode(tag)),
            "the token's algorithm is not the one in use here",
        ),
        (format!("{message}."), "the token's signature is wrong"),
    ] {
        let (status, challenge) = judged(&app, &token).await;
        assert!(status == 401 && challenge.contains(why), "{why}: {status} {challenge}");
    }
}

#[tokio::test]
async fn keys_are_changed_without_a_gap() {
    let (old, new) = (Rsa::generate(), Rsa::generate());
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = async |keys: &Value| {
        std::fs::write(file.path(), json!({ "keys": keys }).to_string()).unwrap();
        App::ready(&[&format!("--auth-jwt-jwks={}", file.path().display())]).await
    };
    let token =
        |key: &Rsa, id: &str| key.token(&json!({ "alg": "RS256", "kid": id }), &claims("ada", "posts:write"));
    let both = with(&json!([old.jwk("2026-01"), new.jwk("2026-02")])).await;
    assert_eq!(judged(&both, &token(&old, "2026-01")).await.0, 201);
    assert_eq!(judged(&both, &token(&new, "2026-02")).await.0, 201);
    let (status, challenge) = judged(&both, &token(&old, "2026-02")).await;
    assert!(status == 401 && challenge.contains("signature is wrong"), "{status} {challenge}");
    let after = with(&json!([new.jwk("2026-02")])).await;
    assert_eq!(judged(&after, &token(&new, "2026-02")).await.0, 201);
    let (status, challenge) = judged(&after, &token(&old, "2026-01")).await;
    assert!(status == 401 && challenge.contains("none of the keys in use here"), "{status} {challenge}");
}
