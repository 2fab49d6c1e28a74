//! A Postgres that comes late, goes away, and comes back.

use std::{env, str::FromStr, sync::Arc};

use axum::http::StatusCode;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_postgres::{Config, config::Host};

use crate::harness::{App, eventually, free_port};

const POSTGRES_URL: &str = "PLIMSOLL_TEST_POSTGRES_URL";

/// Forwards a port to the server until dropped, which also cuts every connection.
struct Link(JoinHandle<()>);

impl Link {
    async fn up(port: u16, server: Arc<(String, u16)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                connections.spawn(async move {
                    let mut server = TcpStream::connect((server.0.as_str(), server.1)).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        }))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_postgres_that_goes_and_comes_back_costs_503s_and_readiness_only() {
    let Ok(url) = env::var(POSTGRES_URL) else {
        println!("NOT RUN: losing Postgres; set {POSTGRES_URL}, as `cargo xtask test` does");
        return;
    };
    let server = Config::from_str(&url).unwrap();
    let Some(Host::Tcp(host)) = server.get_hosts().first() else { panic!("{POSTGRES_URL} needs a host") };
    let address = Arc::new((host.clone(), *server.get_ports().first().unwrap_or(&5432)));
    let port = free_port();
    let (user, name) = (server.get_user().unwrap(), server.get_dbname().unwrap_or("postgres"));
    let password = server.get_password().map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
    let linked = format!("--database-url=postgres://{user}:{password}@127.0.0.1:{port}/{name}");

    let app = App::start(&[&linked]);
    let probe = async |path: &str| app.get(path).await.status;
    assert_eq!(probe("/startupz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(probe("/livez").await, StatusCode::OK);

    let link = Link::up(port, Arc::clone(&address)).await;
    eventually("ready once Postgres is there", async || probe("/readyz").await == StatusCode::OK).await;
    let path = format!("/posts/{}", app.post("kept").await);

    drop(link);
    eventually("not ready without Postgres", async || {
        let answer = app.get(&path).await;
        // A connection that is cut may still have an answer in it; what must not come is a 500 or a 404.
        assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status), "{answer:?}");
        probe("/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(probe("/livez").await, StatusCode::OK);
    assert_eq!(probe("/startupz").await, StatusCode::OK, "it has started, whatever came later");

    let _link = Link::up(port, address).await;
    eventually("ready again", async || probe("/readyz").await == StatusCode::OK).await;
    assert_eq!(probe(&path).await, StatusCode::OK);
}
