//! How connections live and end.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Client, Server, eventually, post_json, value_of};

#[tokio::test]
async fn an_old_connection_is_closed_behind_its_next_answer() {
    let server = Server::ready(&["--connection-max-age=300ms"]).await;
    let opened = Instant::now();
    let mut client = Client::connect(server.port).await.unwrap();
    let mut answers = 0;
    while !client.get("/livez").await.unwrap().closes() {
        answers += 1;
    }
    // 20 % of jitter either way.
    assert!(opened.elapsed() >= Duration::from_millis(240), "{:?}", opened.elapsed());
    assert!(answers > 0, "a young connection is kept");
    client.closed().await;
}

#[tokio::test]
async fn a_replica_that_is_behind_sends_its_clients_elsewhere() {
    let server = Server::ready(&["--cpu-workers=1"]).await;
    let mut patient = Client::connect(server.port).await.unwrap();
    assert!(!patient.get("/livez").await.unwrap().closes());
    let mut first = Client::connect(server.port).await.unwrap();
    let mut second = Client::connect(server.port).await.unwrap();
    let first = tokio::spawn(async move { first.get("/work?cpu=300ms").await });
    eventually("the only worker is at work", async || {
        value_of(server.get("/metrics").await.text(), "http_requests_in_flight") > 0.5
    })
    .await;
    // It waits longer for the worker than a client should.
    assert!(second.get("/work?cpu=1ms").await.unwrap().closes());
    first.await.unwrap().unwrap();
    assert!(patient.get("/livez").await.unwrap().closes(), "others on this replica had better move too");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::ready(&["--idle-timeout=100ms"]).await;
    let mut client = Client::connect(server.port).await.unwrap();
    assert!(!client.get("/livez").await.unwrap().closes());
    client.closed().await;
}

#[tokio::test]
async fn at_the_limit_connections_take_turns() {
    let server = Server::ready(&["--connections-max=1"]).await;
    let mut first = Client::connect(server.port).await.unwrap();
    assert!(first.get("/livez").await.unwrap().closes());
    let mut second = Client::connect(server.port).await.unwrap();
    assert_eq!(second.get("/livez").await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_stop_drains_then_finishes_what_is_in_flight() {
    let server = Server::ready(&["--drain=1s"]).await;
    let mut idle = Client::connect(server.port).await.unwrap();
    assert!(!idle.get("/livez").await.unwrap().closes());
    // A request whose second half comes only after the drain.
    let body = post_json("in flight");
    let (first_half, second_half) = body.split_at(body.len() / 2);
    let mut slow = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let head = format!(
        "POST /posts HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(first_half.as_bytes()).await.unwrap();
    let in_flight = "http_requests_in_flight 1";
    eventually("the request is in flight", async || server.get("/metrics").await.text().contains(in_flight))
        .await;

    let lifecycle = Arc::clone(&server.lifecycle);
    let stop = tokio::spawn(async move { lifecycle.stop().await });
    eventually("the service drains", async || server.lifecycle.draining()).await;
    // New connections are still served, each for one answer; the service is not ready.
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.text()), (StatusCode::SERVICE_UNAVAILABLE, "stopping"));
    let late = server.get("/posts").await;
    assert!(late.status == StatusCode::OK && late.closes(), "{late:?}");
    assert!(idle.get("/livez").await.unwrap().closes());

    stop.await.unwrap();
    eventually("connections are refused", async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.is_err()
    })
    .await;
    assert!(!server.task.is_finished(), "a request is in flight");
    slow.write_all(second_half.as_bytes()).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    server.task.await.unwrap().unwrap();
}

/// The test, its clients and the server share one thread: until the test awaits, the server cannot run.
const REQUEST: &[u8] = b"GET /posts HTTP/1.1\r\nhost: test\r\n\r\n";

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn connections_that_wait_to_be_accepted_at_the_end_are_served() {
    let server = Server::ready(&[]).await;
    let connect = || std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut waiting: Vec<_> = (0..8).map(|_| connect()).collect();
    for stream in &mut waiting[..4] {
        stream.write_all(REQUEST).unwrap();
    }
    server.lifecycle.stop().now_or_never().expect("without a drain, closing begins at once");
    for (number, stream) in waiting.into_iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        // The later half sends its request only now.
        if number >= 4 {
            stream.write_all(REQUEST).await.unwrap();
        }
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_lies_unread_at_the_end_is_answered() {
    let server = Server::ready(&[]).await;
    let mut kept = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    kept.write_all(REQUEST).await.unwrap();
    let mut first = [0; 4096];
    assert!(kept.read(&mut first).await.unwrap() > 0);
    assert_eq!(kept.try_write(REQUEST).unwrap(), REQUEST.len());
    server.lifecycle.stop().now_or_never().expect("without a drain, closing begins at once");
    let answer = answer(kept).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_sends_nothing_does_not_hold_the_end() {
    let server = Server::ready(&[]).await;
    let silent = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    server.lifecycle.stop().await;
    assert_eq!(answer(silent).await, "");
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let server = Server::ready(&[]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let last = b"GET /posts HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(&[REQUEST, REQUEST, last].concat()).await.unwrap();
    assert_eq!(answer(stream).await.matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test]
async fn a_body_longer_than_one_read_arrives_whole() {
    let server = Server::ready(&[]).await;
    let body = serde_json::json!({ "title": "long", "body": "x".repeat(60_000) }).to_string();
    let head = format!(
        "POST /posts HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    assert!(answer(stream).await.starts_with("HTTP/1.1 201 Created"));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let server = Server::ready(&["--shutdown-timeout=100ms"]).await;
    let mut stuck = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let head =
        "POST /posts HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    stuck.write_all(head.as_bytes()).await.unwrap();
    let in_flight = "http_requests_in_flight 1";
    eventually("the request is in flight", async || server.get("/metrics").await.text().contains(in_flight))
        .await;
    server.lifecycle.stop().await;
    server.task.await.unwrap().unwrap();
}
