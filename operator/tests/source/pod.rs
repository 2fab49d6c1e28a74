//! Pods: HTTP servers that say what a test wants them to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How a pod answers.
#[derive(Clone, Debug)]
pub enum Says {
    /// With this exposition.
    Text(String),
    /// With this exposition, after a while.
    Slowly(String),
    /// With this exposition, if it is asked with this token.
    ToBearer(&'static str, String),
    /// With so many bytes of comments, and then this exposition.
    AtLength(usize, String),
    /// With a failure of its own.
    Failure,
    /// It takes the connection and says nothing more.
    Nothing,
}

pub struct Pod {
    pub name: String,
    pub address: SocketAddr,
    says: Arc<Mutex<Says>>,
    serving: JoinHandle<()>,
}

impl Pod {
    pub async fn start(name: &str, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says));
        let serving = tokio::spawn({
            let says = says.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(answer(stream, says.clone()));
                }
            }
        });
        Self { name: name.into(), address, says, serving }
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Ends it: nobody listens any more.
    pub fn end(&self) {
        self.serving.abort();
    }
}

/// One answer a connection, so that a change is heard at once.
async fn answer(mut stream: TcpStream, says: Arc<Mutex<Says>>) {
    let mut request = vec![0; 4096];
    let Ok(read) = stream.read(&mut request).await else { return };
    let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
    let says = says.lock().unwrap().clone();
    let (status, body) = match says {
        Says::Text(text) => ("200 OK", text),
        Says::Slowly(text) => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ("200 OK", text)
        }
        Says::ToBearer(token, text) if request.contains(&format!("authorization: bearer {token}\r\n")) => {
            ("200 OK", text)
        }
        Says::ToBearer(..) => ("401 Unauthorized", String::new()),
        Says::AtLength(bytes, text) => ("200 OK", "# padding\n".repeat(bytes / 10) + &text),
        Says::Failure => ("500 Internal Server Error", String::new()),
        Says::Nothing => std::future::pending().await,
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}
