//! The OpenAPI document says what the service does: routes, methods, bounds, errors, and the shape of real answers.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use plimsoll_api::{extract, limits, post};
use serde_json::Value;

use crate::harness::{App, post_json};

fn document() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
}

fn paths() -> Vec<(String, BTreeSet<String>)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            (path.clone(), methods.map(|method| method.to_uppercase()).collect())
        })
        .collect()
}

/// What stands between `from` and `to`, wherever that is in `text`.
fn all_between<'a>(text: &'a str, from: &str, to: char) -> BTreeSet<&'a str> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(found, _)| found).collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_and_the_other_way_round() {
    let routes = all_between(include_str!("../../src/router.rs"), ".route(\"", '"');
    let paths = paths();
    let documented: BTreeSet<_> = paths.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(routes, documented);
    let app = App::ready(&[]).await;
    for (path, mut methods) in paths {
        let answer = app.json("OPTIONS", &path.replace("{id}", "1"), "").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path}");
        let allowed: BTreeSet<_> = answer.header("allow").unwrap().split(',').map(str::to_owned).collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        assert_eq!(methods, allowed, "{path}");
    }
}

#[test]
fn every_code_of_an_error_is_in_the_document_and_the_other_way_round() {
    let errors = include_str!("../../src/error.rs");
    let kinds = errors.split_once("fn kind(").unwrap().1.split_once("\n    }").unwrap().0;
    let codes = all_between(kinds, ", \"", '"');
    let document = document();
    let listed =
        document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
    let listed: BTreeSet<_> = listed.iter().map(|code| code.as_str().unwrap()).collect();
    assert_eq!(listed, codes);
    // Each is explained under a response.
    let responses = document["components"]["responses"].to_string();
    for code in listed {
        assert!(responses.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn references_lead_somewhere_and_nothing_is_there_for_nobody() {
    let document = document();
    let text = document.to_string();
    let references = all_between(&text, "\"$ref\":\"#", '"');
    for reference in &references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    for kind in ["parameters", "headers", "responses", "schemas"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("/components/{kind}/{name}");
            // It answers the methods that the document does not have.
            assert!(
                name == "MethodNotAllowed" || references.contains(reference.as_str()),
                "{reference} is used nowhere"
            );
        }
    }
}

#[test]
fn bounds_are_those_of_the_code() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let schemas = &document["components"]["schemas"];
    let draft = &schemas["Draft"]["properties"];
    assert_eq!(draft["title"]["maxLength"], post::TITLE_CHARS_MAX);
    assert_eq!(draft["body"]["maxLength"], post::BODY_BYTES_MAX);
    let responses = document["components"]["responses"].to_string();
    for bound in [extract::REQUEST_BYTES_MAX, limits::URI_BYTES_MAX, limits::HEADER_BYTES_MAX] {
        assert!(responses.contains(&format!(" {bound} bytes")), "{bound}");
    }
}

#[test]
fn every_write_may_be_asked_for_a_token_and_no_read_is() {
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let writes = ["post", "put", "patch", "delete"].contains(&method.as_str());
            assert_eq!(operation.get("security").is_some(), writes, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_document_and_the_page_are_served_without_outside_assets() {
    let app = App::ready(&[]).await;
    let served = app.get("/openapi.json").await;
    assert_eq!((served.status, served.header("content-type")), (StatusCode::OK, Some("application/json")));
    assert_eq!(served.json()["openapi"], "3.1.0");
    let page = app.get("/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(!page.text().contains("//cdn") && !page.text().contains("https://"), "no outside assets");
}

#[tokio::test]
async fn answers_have_no_field_that_the_document_does_not_know() {
    let app = App::ready(&[]).await;
    let schemas = document()["components"]["schemas"].clone();
    let known = |schema: &str, answer: &Value| {
        for field in answer.as_object().unwrap().keys() {
            assert!(schemas[schema]["properties"].get(field).is_some(), "{schema} has no {field}");
        }
        for field in schemas[schema]["required"].as_array().unwrap() {
            assert!(answer.get(field.as_str().unwrap()).is_some(), "{schema} lacks {field}: {answer}");
        }
    };
    known("Post", &app.json("POST", "/posts", post_json("t")).await.json());
    known("Page", &app.get("/posts").await.json());
    known("Health", &app.get("/health").await.json());
    known("Spent", &app.get("/work?cpu=1ms").await.json());
    known("Problem", &app.get("/posts/0").await.json());
}
