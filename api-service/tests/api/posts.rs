//! What a client can do with posts.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};

use crate::harness::{Answer, App, post_json};

#[tokio::test]
async fn a_post_lives_from_create_to_delete() {
    let app = App::ready(&[]).await;
    let created = app.json("POST", "/posts", post_json("first")).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let post = created.json();
    assert_eq!((&post["title"], &post["version"]), (&json!("first"), &json!(1)));
    assert_eq!(post["createdAt"], post["updatedAt"]);
    let path = format!("/posts/{}", post["id"]);
    assert_eq!(created.header("location"), Some(path.as_str()));
    assert_eq!(app.get(&path).await.json(), post);

    let replaced = app.json("PUT", &path, r#"{"title": "second", "body": ""}"#).await;
    assert_eq!(replaced.status, StatusCode::OK);
    assert_eq!(replaced.json()["version"], 2);
    assert_eq!((created.header("etag"), replaced.header("etag")), (Some("\"v1\""), Some("\"v2\"")));
    assert_eq!(app.get(&path).await.json(), replaced.json());

    let deleted = app.json("DELETE", &path, "").await;
    assert_eq!((deleted.status, deleted.body.len()), (StatusCode::NO_CONTENT, 0));
    for again in [
        app.get(&path).await,
        app.json("PUT", &path, post_json("x")).await,
        app.json("DELETE", &path, "").await,
    ] {
        assert_eq!(again.status, StatusCode::NOT_FOUND);
        assert_eq!(again.json()["code"], "post_not_found");
    }
}

#[tokio::test]
async fn pages_cover_every_post_once() {
    let app = App::ready(&[]).await;
    let mut expected = Vec::new();
    for number in 0..7 {
        expected.insert(0, app.post(&format!("post {number}")).await);
    }
    let mut seen = Vec::new();
    let mut path = "/posts?limit=3".to_owned();
    loop {
        let page = app.get(&path).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|post| post["id"].as_i64().unwrap()));
        // A post made between two pages moves none of those that are still to come.
        app.post("newer").await;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/posts?limit=3&after={next}");
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn answers_carry_the_clients_request_id_or_a_new_one() {
    let app = App::ready(&[]).await;
    let request = Request::get("/posts").header("x-request-id", "abc-1").body(Body::empty());
    assert_eq!(app.send(request.unwrap()).await.header("x-request-id"), Some("abc-1"));
    assert_eq!(app.get("/nowhere").await.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn a_post_has_an_author_and_tags() {
    let app = App::ready(&[]).await;
    let body = json!({ "title": "t", "body": "b", "author": "Ann", "tags": ["rust", "http", "rust"] });
    let created = app.json("POST", "/posts", body.to_string()).await.json();
    let names: Vec<_> = created.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["id", "title", "body", "author", "tags", "createdAt", "updatedAt", "version"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!((&created["author"]["name"], &created["tags"]), (&json!("Ann"), &json!(["http", "rust"])));
    assert!(created["author"]["id"].as_i64().unwrap() > 1);

    // A PUT says all that a post holds, but need not repeat its author.
    let path = format!("/posts/{}", created["id"]);
    let replaced = app.json("PUT", &path, post_json("second")).await.json();
    assert_eq!((&replaced["author"], &replaced["tags"]), (&created["author"], &json!([])));
    assert_eq!(app.get(&path).await.json(), replaced);

    let anonymous = app.json("POST", "/posts", post_json("third")).await.json();
    assert_eq!(anonymous["author"], json!({ "id": 1, "name": "anonymous" }));
}

#[tokio::test]
async fn lists_are_filtered_by_author_and_tag_and_pages_keep_the_filter() {
    let app = App::ready(&[]).await;
    let mut made = Vec::new();
    for number in 0..12 {
        let (author, tag) = (["ann", "bob"][number % 2], ["odd-one", "even-one"][number / 2 % 2]);
        let body = json!({ "title": "t", "body": "", "author": author, "tags": [tag, "all"] });
        made.insert(0, app.json("POST", "/posts", body.to_string()).await.json());
    }
    let ann = &made[1]["author"]["id"];
    let titled = |author: bool, tag: &str| -> Vec<_> {
        let passes = |post: &&Value| {
            (!author || post["author"]["id"] == *ann)
                && post["tags"].as_array().unwrap().contains(&json!(tag))
        };
        made.iter().filter(passes).map(|post| post["id"].clone()).collect()
    };
    for (filter, expected) in [
        (format!("author={ann}"), titled(true, "all")),
        ("tag=odd-one".to_owned(), titled(false, "odd-one")),
        (format!("tag=odd-one&author={ann}"), titled(true, "odd-one")),
    ] {
        let mut seen = Vec::new();
        let mut path = format!("/posts?limit=2&{filter}");
        loop {
            let page = app.get(&path).await.json();
            seen.extend(page["items"].as_array().unwrap().iter().map(|post| post["id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            // Other filters, or none: it says that it is the filters that differ.
            for other in ["", "&tag=unknown", "&author=999"] {
                let refused = app.get(&format!("/posts?after={next}{other}")).await;
                assert_eq!(refused.status, StatusCode::BAD_REQUEST);
                assert!(refused.json()["detail"].as_str().unwrap().contains("other filters"), "{refused:?}");
            }
            path = format!("/posts?limit=2&{filter}&after={next}");
        }
        assert_eq!(seen, expected, "{filter}");
    }
    assert_eq!(app.get("/posts?tag=unused&author=999").await.json(), json!({ "items": [] }));
}

#[tokio::test]
async fn answers_hold_the_fields_that_are_asked_for() {
    let app = App::ready(&[]).await;
    let id = app.post("first").await;
    let full = app.get(&format!("/posts/{id}")).await.json();
    let mut listed = full.clone();
    listed.as_object_mut().unwrap().remove("body");
    assert_eq!(app.get("/posts").await.json()["items"], json!([listed]));
    let all = "id,title,body,author,tags,createdAt,updatedAt,version";
    assert_eq!(app.get(&format!("/posts?fields={all}")).await.json()["items"], json!([full]));
    let some = json!({ "id": id, "body": "text" });
    assert_eq!(app.get("/posts?fields=body,id").await.json()["items"], json!([some]));
    assert_eq!(app.get(&format!("/posts/{id}?fields=id,body,id")).await.json(), some);
    assert_eq!(
        app.get(&format!("/posts/{id}?fields={all}")).await.body,
        app.get(&format!("/posts/{id}")).await.body
    );
    // Also of a page that goes on: the cursor does not depend on the fields.
    app.post("second").await;
    let next = app.get("/posts?limit=1").await.json()["next"].clone();
    let rest = app.get(&format!("/posts?fields=title&after={}", next.as_str().unwrap())).await.json();
    assert_eq!(rest, json!({ "items": [{ "title": "first" }] }));
}

#[tokio::test]
async fn if_match_lets_a_write_through_for_its_version_only() {
    let app = App::ready(&[]).await;
    let path = format!("/posts/{}", app.post("first").await);
    let put =
        async |condition: &str| with(&app, "PUT", &path, "if-match", condition, &post_json("new")).await;
    for condition in ["\"v2\"", "W/\"v1\"", "\"v1-lzma\"", "\"\", \"v0\""] {
        let refused = put(condition).await;
        assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{condition}");
        assert_eq!(refused.json()["code"], "precondition_failed");
        let kept = with(&app, "DELETE", &path, "if-match", condition, "").await;
        assert_eq!(kept.status, StatusCode::PRECONDITION_FAILED, "{condition}");
    }
    for (version, condition) in [(2, "\"v1\""), (3, "\"v9\", \"v2-gzip\""), (4, "*"), (5, "\"v4-br\"")] {
        let written = put(condition).await;
        assert_eq!((written.status, written.json()["version"].as_i64()), (StatusCode::OK, Some(version)));
        assert_eq!(written.header("etag"), Some(format!("\"v{version}\"").as_str()));
    }
    for condition in ["v5", "\"v5", "", "*, \"v5\""] {
        let malformed = put(condition).await;
        assert_eq!(malformed.status, StatusCode::BAD_REQUEST, "{condition}");
        assert_eq!(malformed.json()["field"], "if-match");
    }
    let deleted = with(&app, "DELETE", &path, "if-match", "\"v5-zstd\"", "").await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    // What is not there has no version to differ.
    assert_eq!(put("*").await.status, StatusCode::NOT_FOUND);
    assert_eq!(put("\"v5\"").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_post_that_is_sent_again_with_its_key_is_made_once() {
    let app = App::ready(&[]).await;
    let post = async |key: &str, body: &str| with(&app, "POST", "/posts", "idempotency-key", key, body).await;
    let first = post("8e03978e-40d5-43dd-bc93-6894a57f9324", &post_json("once")).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::CREATED, None));
    // The same post written otherwise is the same request.
    let again = post(
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
        r#"{ "author": "anonymous", "tags": [], "body": "text", "title": "once" }"#,
    )
    .await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    for name in ["location", "etag", "content-type"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    assert_eq!(app.get("/posts").await.json()["items"].as_array().unwrap().len(), 1);

    let other = post("8e03978e-40d5-43dd-bc93-6894a57f9324", &post_json("other")).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(other.json()["code"], "idempotency_key_reused");
    let long = "k".repeat(256);
    for key in ["", " ", "two words", "ü", &long] {
        let refused = post(key, &post_json("once")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{key:?}");
        assert_eq!(refused.json()["field"], "idempotency-key");
    }
    assert_eq!(post(&long[1..], &post_json("longest")).await.status, StatusCode::CREATED);
    let two = Request::post("/posts").header("idempotency-key", "a").header("idempotency-key", "b");
    let two = two.header("content-type", "application/json").body(Body::from(post_json("two")));
    assert_eq!(app.send(two.unwrap()).await.status, StatusCode::BAD_REQUEST);
}

async fn with(app: &App, method: &str, path: &str, name: &str, value: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    app.send(request.header(name, value).body(Body::from(body.to_owned())).unwrap()).await
}
