//! What a client can do with posts.

use axum::http::StatusCode;
use serde_json::json;

use crate::harness::{App, post_json};

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
    let request =
        axum::http::Request::get("/posts").header("x-request-id", "abc-1").body(axum::body::Body::empty());
    assert_eq!(app.send(request.unwrap()).await.header("x-request-id"), Some("abc-1"));
    assert_eq!(app.get("/nowhere").await.header("x-request-id").map(str::len), Some(32));
}
