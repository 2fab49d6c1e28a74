use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, StatusCode};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser;
use proptest::prelude::*;
use ring::{
    hmac, rand,
    signature::{self as rules, KeyPair},
};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

fn options(flags: &[&str]) -> Options {
    Flags::try_parse_from(std::iter::once("test").chain(flags.iter().copied())).unwrap().options
}

fn verifier(flags: &[&str]) -> Verifier {
    let secret = format!("--auth-jwt-secret={SECRET}");
    let flags: Vec<_> = std::iter::once(secret.as_str()).chain(flags.iter().copied()).collect();
    Verifier::new(&options(&flags)).unwrap().unwrap()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// `claims` over those of a good token; null takes one away.
fn claims(over: Value) -> Value {
    let mut claims = json!({ "sub": "ada", "scope": "posts:write", "exp": now() + 300 });
    let Value::Object(over) = over else { panic!("an object") };
    for (name, value) in over {
        match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(&name),
            value => claims[name] = value,
        }
    }
    claims
}

fn unsigned(header: &Value, claims: &Value) -> String {
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
}

fn with_signature(message: &str, signature: &[u8]) -> String {
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signed_by(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    with_signature(&message, signature.as_ref())
}

fn signed(over: Value) -> String {
    signed_by(SECRET.as_bytes(), &json!({ "alg": "HS256", "typ": "JWT" }), &claims(over))
}

fn headers(authorization: &[u8]) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_bytes(authorization).unwrap())])
}

fn identify(verifier: &Verifier, token: &str) -> Result<Identity, String> {
    match verifier.identify(&headers(format!("Bearer {token}").as_bytes())) {
        Ok(identity) => Ok(identity.expect("a token was sent")),
        Err(ApiError::InvalidToken(why)) => Err(why.to_owned()),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_good_token_tells_its_subject_and_whether_it_writes() {
    let verifier = verifier(&[]);
    let identity = identify(&verifier, &signed(json!({}))).unwrap();
    assert_eq!((&*identity.subject.0, identity.writes), ("ada", true));
    for (scope, writes) in [
        (json!("posts:read posts:write"), true),
        (json!("posts:read"), false),
        (json!("posts:writer"), false),
        (Value::Null, false),
    ] {
        let identity = identify(&verifier, &signed(json!({ "scope": scope }))).unwrap();
        assert_eq!(identity.writes, writes, "{scope}");
    }
}

#[test]
fn a_token_that_is_not_good_is_refused_with_its_reason() {
    let verifier = verifier(&["--auth-jwt-issuer=us", "--auth-jwt-audience=posts", "--auth-jwt-leeway=30s"]);
    let good = json!({ "iss": "us", "aud": ["other", "posts"] });
    assert!(identify(&verifier, &signed(good.clone())).is_ok());
    let with = |over: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        signed(claims)
    };
    for (over, why) in [
        (json!({ "exp": now() - 60 }), "the token has expired"),
        (json!({ "exp": null }), "the token lacks exp"),
        (json!({ "exp": "soon" }), "the token lacks exp"),
        (json!({ "exp": -1 }), "the token lacks exp"),
        (json!({ "nbf": now() + 60 }), "the token is not valid yet"),
        (json!({ "iss": "them" }), "the token is from another issuer"),
        (json!({ "iss": null }), "the token lacks iss"),
        (json!({ "aud": "other" }), "the token is for another audience"),
        (json!({ "aud": null }), "the token lacks aud"),
        (json!({ "sub": null }), "the token cannot be read"),
        (json!({ "sub": 7 }), "the token cannot be read"),
        (json!({ "sub": "" }), "the token's sub must have 1 to 255 bytes"),
        (json!({ "sub": "x".repeat(256) }), "the token's sub must have 1 to 255 bytes"),
        (json!({ "scope": ["posts:write"] }), "the token cannot be read"),
    ] {
        assert_eq!(identify(&verifier, &with(over.clone())).unwrap_err(), why, "{over}");
    }
    assert!(identify(&verifier, &with(json!({ "exp": now() - 20, "nbf": now() + 20 }))).is_ok(), "leeway");
}

#[test]
fn the_token_never_chooses_the_algorithm() {
    let hs = verifier(&[]);
    let claims = claims(json!({}));
    for algorithm in ["none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "EdDSA", ""] {
        let token = signed_by(SECRET.as_bytes(), &json!({ "alg": algorithm }), &claims);
        assert!(identify(&hs, &token).is_err(), "{algorithm:?}");
        let bare = format!("{}.", unsigned(&json!({ "alg": algorithm }), &claims));
        assert!(identify(&hs, &bare).is_err(), "{algorithm:?} without a signature");
    }
    assert!(
        identify(&hs, &signed_by(&[b'x'; 32], &json!({ "alg": "HS256" }), &claims)).is_err(),
        "other secret"
    );
    let crit = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    assert!(identify(&hs, &signed_by(SECRET.as_bytes(), &crit, &claims)).is_err(), "unknown extension");

    // The classic: the public key, which everyone has, taken for an HMAC secret.
    let (pem, public, _) = ed25519();
    let ed = from_pem(&pem).unwrap();
    for secret in [pem.as_bytes(), &public] {
        assert!(identify(&ed, &signed_by(secret, &json!({ "alg": "HS256" }), &claims)).is_err());
        assert!(identify(&ed, &signed_by(secret, &json!({ "alg": "EdDSA" }), &claims)).is_err());
    }
}

#[test]
fn public_keys_check_what_their_private_keys_signed() {
    let claims = claims(json!({}));
    let (pem, _, pair) = ed25519();
    let message = unsigned(&json!({ "alg": "EdDSA" }), &claims);
    let token = with_signature(&message, pair.sign(message.as_bytes()).as_ref());
    assert!(identify(&from_pem(&pem).unwrap(), &token).is_ok());
    let (other, ..) = ed25519();
    assert!(identify(&from_pem(&other).unwrap(), &token).is_err(), "another key");

    let random = rand::SystemRandom::new();
    let rule = &rules::ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = rules::EcdsaKeyPair::generate_pkcs8(rule, &random).unwrap();
    let pair = rules::EcdsaKeyPair::from_pkcs8(rule, document.as_ref(), &random).unwrap();
    let message = unsigned(&json!({ "alg": "ES256" }), &claims);
    let token = with_signature(&message, pair.sign(&random, message.as_bytes()).unwrap().as_ref());
    let p256: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    assert!(identify(&from_pem(&to_pem(&p256, pair.public_key().as_ref())).unwrap(), &token).is_ok());
}

#[test]
fn a_token_is_checked_once() {
    let mut verifier = verifier(&[]);
    let (token, other) = (signed(json!({})), signed(json!({ "sub": "eve" })));
    assert!(identify(&verifier, &token).is_ok());
    // Whatever is checked against its key from now on fails.
    verifier.keys[0].key = DecodingKey::from_secret(&[0; 32]);
    let identity = identify(&verifier, &token).unwrap();
    assert_eq!((&*identity.subject.0, identity.writes), ("ada", true));
    assert!(identify(&verifier, &other).is_err());
}

/// A key of a set, and what signs with it.
fn jwk(id: Option<&str>) -> (Value, rules::Ed25519KeyPair) {
    let (_, public, pair) = ed25519();
    let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(public) });
    if let Some(id) = id {
        key["kid"] = json!(id);
    }
    (key, pair)
}

fn signed_with(pair: &rules::Ed25519KeyPair, id: Option<&str>) -> String {
    let mut header = json!({ "alg": "EdDSA" });
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    let message = unsigned(&header, &claims(json!({})));
    with_signature(&message, pair.sign(message.as_bytes()).as_ref())
}

fn from_set(set: &Value) -> Result<Verifier, AuthError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set.to_string()).unwrap();
    let verifier = Verifier::new(&options(&["--auth-jwt-jwks", file.path().to_str().unwrap()]));
    verifier.map(|verifier| verifier.expect("a set that is empty is refused"))
}

#[test]
fn a_token_is_checked_with_the_key_that_it_names() {
    let ((old, old_pair), (new, new_pair)) = (jwk(Some("old")), jwk(Some("new")));
    let encrypts = json!({ "kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB", "kid": "old" });
    let verifier = from_set(&json!({ "keys": [old, new, encrypts, { "kty": "future" }] })).unwrap();
    assert!(identify(&verifier, &signed_with(&old_pair, Some("old"))).is_ok());
    assert!(identify(&verifier, &signed_with(&new_pair, Some("new"))).is_ok());
    for (token, why) in [
        (signed_with(&new_pair, Some("old")), "the token's signature is wrong"),
        (signed_with(&new_pair, Some("newer")), "the token's kid is none of the keys in use here"),
        (signed_with(&new_pair, Some("")), "the token's kid is none of the keys in use here"),
        (signed_with(&new_pair, None), "the token lacks kid, and several keys are in use here"),
        ("a.b.c".to_owned(), "the token cannot be read"),
    ] {
        assert_eq!(identify(&verifier, &token).unwrap_err(), why);
    }

    for id in [None, Some("one")] {
        let (key, pair) = jwk(id);
        let only = from_set(&json!({ "keys": [key] })).unwrap();
        assert!(identify(&only, &signed_with(&pair, None)).is_ok(), "there is only one");
        assert!(identify(&only, &signed_with(&pair, id)).is_ok());
        assert_eq!(identify(&only, &signed_with(&pair, Some("other"))).is_ok(), id.is_none());
    }
}

#[test]
fn sets_of_keys_that_cannot_work_are_refused_at_start() {
    let (named, _) = jwk(Some("a"));
    let (nameless, _) = jwk(None);
    let with = |name: &str, value: Value| {
        let mut key = named.clone();
        key[name] = value;
        key
    };
    let small = json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB" });
    for (set, says) in [
        (json!([]), "no list `keys`"),
        (json!({ "keys": {} }), "no list `keys`"),
        (json!({ "keys": [] }), "no key for"),
        (json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] }), "private or secret"),
        (json!({ "keys": [with("d", json!("AAAA"))] }), "private or secret"),
        (json!({ "keys": [with("use", json!("enc"))] }), "no key for"),
        (json!({ "keys": [with("alg", json!("ES256"))] }), "no key for"),
        (json!({ "keys": [with("alg", json!("none"))] }), "no key for"),
        (json!({ "keys": [with("crv", json!("X25519"))] }), "no key for"),
        (json!({ "keys": [with("x", json!("AAAA"))] }), "no key for"),
        (json!({ "keys": [small] }), "no key for"),
        (json!({ "keys": [named, named] }), "a `kid` of its own"),
        (json!({ "keys": [named, nameless] }), "a `kid` of its own"),
    ] {
        let error = from_set(&set).unwrap_err().to_string();
        assert!(error.contains(says), "{set}: {error}");
    }
    assert!(from_set(&json!({ "keys": [named, with("kid", json!("b"))] })).is_ok());
}

#[test]
fn tokens_that_are_no_tokens_are_refused() {
    let verifier = verifier(&[]);
    let good = signed(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        message,
        &format!("{message}."),
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{message}.{}", &signature[1..]),
        &format!("{good}="),
        &good.replace('.', " "),
        "e30.e30.e30",
        &"a".repeat(TOKEN_BYTES_MAX + 1),
    ] {
        assert!(identify(&verifier, token).is_err(), "{token:?}");
    }
    assert!(verifier.identify(&headers(b"Bearer \xff")).is_err());
    assert!(verifier.identify(&headers(b"Bearer")).is_err());
    let mut twice = headers(format!("Bearer {good}").as_bytes());
    twice.append(header::AUTHORIZATION, HeaderValue::from_static("Basic x"));
    assert!(verifier.identify(&twice).is_err());
    assert!(verifier.identify(&headers(format!("bearer  {good} ").as_bytes())).unwrap().is_some());
    assert!(verifier.identify(&headers(b"Basic YTpi")).unwrap().is_none());
    assert!(verifier.identify(&HeaderMap::new()).unwrap().is_none());
}

#[test]
fn only_reads_are_open() {
    let identity = |writes| Identity { subject: Subject("ada".into()), writes };
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        assert!(authorize(&method, None).is_ok(), "{method}");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        assert!(matches!(authorize(&method, None), Err(ApiError::MissingToken)), "{method}");
        assert!(matches!(authorize(&method, Some(&identity(false))), Err(ApiError::InsufficientScope)));
        assert!(authorize(&method, Some(&identity(true))).is_ok(), "{method}");
    }
}

#[test]
fn keys_that_cannot_work_are_refused_at_start() {
    assert!(Verifier::new(&options(&[])).unwrap().is_none(), "no key, no tokens");
    let refused = |flags: &[&str]| Verifier::new(&options(flags)).unwrap_err();
    assert!(matches!(refused(&["--auth-jwt-secret=short"]), AuthError::ShortSecret));
    let both = [&format!("--auth-jwt-secret={SECRET}"), "--auth-jwt-public-key=/key.pem"];
    assert!(matches!(refused(&both), AuthError::SeveralSources));
    let both = ["--auth-jwt-jwks=/keys.json", "--auth-jwt-public-key=/key.pem"];
    assert!(matches!(refused(&both), AuthError::SeveralSources));
    assert!(matches!(refused(&["--auth-jwt-public-key=/nonexistent"]), AuthError::Read { .. }));
    let text = format!("{:?}", options(&["--auth-jwt-secret=hunter2:hunter2"]));
    assert!(!text.contains("hunter2"), "{text}");
    let private = to_pem(&[], b"x").replace("PUBLIC", "PRIVATE");
    for pem in ["", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", &private, &to_pem(&[0x30], b"")]
    {
        assert!(from_pem(pem).is_none(), "{pem:?}");
    }
    assert!(Flags::try_parse_from(["test", "--auth-jwt-leeway=61s"]).is_err());
}

#[test]
fn reasons_fit_into_a_quoted_string() {
    let error = ApiError::InvalidToken(why(&ErrorKind::ExpiredSignature));
    let response = axum::response::IntoResponse::into_response(error);
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.headers()[header::WWW_AUTHENTICATE],
        r#"Bearer error="invalid_token", error_description="the token has expired""#
    );
}

proptest! {
    #[test]
    fn no_header_makes_it_panic_or_pass(bytes in proptest::collection::vec(32_u8..=255, 0..200)) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        prop_assert!(!matches!(verifier(&[]).identify(&headers), Ok(Some(_))));
    }

    #[test]
    fn no_changed_byte_leaves_a_token_good(at in 0_usize..1000, to in "[A-Za-z0-9_.-]") {
        let token = signed(json!({}));
        let at = at % token.len();
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        // The last character of the signature holds bits that mean nothing; the library refuses those that are not zero.
        prop_assert!(changed == token || identify(&verifier(&[]), &changed).is_err());
    }
}

fn ed25519() -> (String, Vec<u8>, rules::Ed25519KeyPair) {
    let document = rules::Ed25519KeyPair::generate_pkcs8(&rand::SystemRandom::new()).unwrap();
    let pair = rules::Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    (to_pem(&prefix, &public), public, pair)
}

/// A public key's PEM; `prefix` is the DER before its bytes.
fn to_pem(prefix: &[u8], key: &[u8]) -> String {
    let der = [prefix, key].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

fn from_pem(pem: &str) -> Option<Verifier> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    Verifier::new(&options(&["--auth-jwt-public-key", file.path().to_str().unwrap()])).ok().flatten()
}
