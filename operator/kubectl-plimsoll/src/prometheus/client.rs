//! Asks the server, and says what to do when it does not answer.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use form_urlencoded::Serializer;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Uri};
use plimsoll_prometheus::fetch::Tls;
use plimsoll_prometheus::{FetchError, Limits, Peer, Response, TrustError, client_config, fetch};
use rustls::pki_types::ServerName;

use super::range::Range;

/// What is waited for, and how much is read.
pub const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    // Prometheus itself gives a query up after two minutes, and says so.
    answer: Duration::from_secs(150),
    // Of one series of 11,000 points: under half a megabyte.
    body_bytes: 16 << 20,
};

/// Whose certificate is taken.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// One that is signed by an authority that the machine trusts.
    Machine,
    /// One that is signed by an authority of this file.
    File(&'a Path),
    /// Any.
    Anyone,
}

/// A server, and what it takes to ask it.
#[derive(Clone, Debug)]
pub struct Client {
    server: Uri,
    peer: Peer,
    token: Option<HeaderValue>,
    limits: Limits,
}

/// Reads the address of a server.
///
/// # Errors
/// With what to write.
pub fn server(text: &str) -> Result<Uri, String> {
    const WRITE: &str =
        "write the server's address, such as http://localhost:9090 or https://example.com/prometheus";
    let uri = text.parse::<Uri>().map_err(|_| WRITE.to_owned())?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !http || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(WRITE.into());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("leave user and password out; a token is read from --bearer-token-file".into());
    }
    Ok(uri)
}

impl Client {
    /// For a server, with the token of a file.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or there is no authority to trust.
    pub fn new(server: &Uri, token: Option<&Path>, trust: Trust<'_>, limits: Limits) -> Result<Self> {
        let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = match server.scheme_str() {
            Some("https") => Some(tls(&host, trust)?),
            _ => None,
        };
        let default_port = if tls.is_some() { 443 } else { 80 };
        let port = server.port_u16().unwrap_or(default_port);
        let token = token.map(read_token).transpose()?;
        Ok(Self { server: server.clone(), peer: Peer { host, port, tls }, token, limits })
    }

    /// Asks for the points of a range.
    ///
    /// # Errors
    /// When there is no answer, within the limits. A refusal is an answer.
    pub async fn query_range(&self, query: &str, range: Range) -> Result<Response> {
        let response = fetch(&self.peer, self.request(query, range)?, self.limits).await;
        response.map_err(|error| self.with_hint(&error)).with_context(|| format!("ask {}", self.server))
    }

    /// With what to do.
    fn with_hint(&self, error: &FetchError) -> anyhow::Error {
        let hint = match error {
            FetchError::ConnectTimeout(_) | FetchError::Connect(_) => {
                let Peer { host, port, .. } = &self.peer;
                format!(
                    "connect to {host}:{port}; out of a cluster: kubectl port-forward service/prometheus 9090"
                )
            }
            FetchError::Untrusted(_) => format!("{error}; name the authority that signed it by --ca-file"),
            FetchError::NotTls(_) => format!("{error}; write http:// in place of https://"),
            FetchError::AnswerTimeout(_) => format!("{error}; write a larger --step or a shorter range"),
            FetchError::TooLarge(_) => {
                format!("{error}: the query gives many series; add them up, such as by sum(…)")
            }
            FetchError::Tls(_) | FetchError::NotHttp(_) | FetchError::Broken(_) => error.to_string(),
        };
        match std::error::Error::source(error).map(ToString::to_string) {
            Some(cause) => anyhow!(cause).context(hint),
            None => anyhow!(hint),
        }
    }

    fn request(&self, query: &str, range: Range) -> Result<Request<Full<Bytes>>> {
        let asked = Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("start", &range.start.to_string())
            .append_pair("end", &range.end.to_string())
            .append_pair("step", &range.step.to_string())
            .finish();
        let path = format!("{}/api/v1/query_range?{asked}", self.server.path().trim_end_matches('/'));
        let host = self.server.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("kubectl-plimsoll/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.clone());
        }
        request.body(Full::default()).context("write a shorter --query: it does not fit into an address")
    }
}

fn read_token(file: &Path) -> Result<HeaderValue> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("read the token {shown}"))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "{shown} is empty; it should hold a token and nothing else");
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| anyhow!("{shown} should hold a token on one line and nothing else"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn tls(host: &str, trust: Trust<'_>) -> Result<Tls> {
    let name = ServerName::try_from(host.to_owned())
        .with_context(|| format!("{host} is no name that a certificate has"))?;
    let config = match trust {
        Trust::Anyone => client_config(plimsoll_prometheus::Trust::Anyone)?,
        Trust::Machine => {
            client_config(plimsoll_prometheus::Trust::Machine).map_err(|error| match error {
                TrustError::NobodyTrusted => {
                    anyhow!("{error}; name the one that signed the server's certificate by --ca-file")
                }
                error => error.into(),
            })?
        }
        Trust::File(file) => {
            let shown = file.display();
            let pem = std::fs::read(file).with_context(|| format!("read the authorities {shown}"))?;
            client_config(plimsoll_prometheus::Trust::Authorities(&pem))
                .map_err(|error| anyhow!("{shown} {error}"))?
        }
    };
    Ok(Tls { config, name })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    const RANGE: Range = Range { start: 1000, end: 1600, step: 15 };
    const QUICK: Limits =
        Limits { connect: Duration::from_secs(5), answer: Duration::from_millis(300), body_bytes: 1 << 20 };

    /// A server that gives one answer and says no more; with what it was asked.
    async fn serving(answer: String) -> (Uri, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/prom/", listener.local_addr().unwrap()).parse().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
            // Until the client has gone.
            let _ = stream.read(&mut [0; 16]).await;
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        (uri, asked)
    }

    async fn ask(answer: &str, token: Option<&Path>) -> (Result<Response>, String) {
        let (uri, asked) = serving(answer.to_owned()).await;
        let client = Client::new(&uri, token, Trust::Machine, QUICK).unwrap();
        let response = client.query_range("sum(rate(a{b=\"c d\"}[1m]))", RANGE).await;
        (response, asked.await.unwrap())
    }

    #[tokio::test]
    async fn the_query_is_encoded_and_the_token_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let (response, asked) = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Some(&token)).await;
        assert_eq!(response.unwrap().body.as_ref(), b"{}");
        let path = "GET /prom/api/v1/query_range?query=sum%28rate%28a%7Bb%3D%22c+d%22%7D%5B1m%5D%29%29&start=1000&end=1600&step=15 ";
        assert!(asked.starts_with(path), "{asked}");
        assert!(asked.contains("authorization: Bearer secret\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn without_a_file_no_token_is_sent_and_a_redirect_is_not_followed() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n";
        let (response, asked) = ask(moved, None).await;
        assert_eq!(response.unwrap().head.location.as_deref(), Some("/login"));
        assert!(!asked.contains("authorization"), "{asked}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_with_what_to_do() {
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {0}\r\n\r\n{1}", 2 << 20, "x".repeat(2 << 20));
        for (answer, message) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
                "no answer within 0.3 s; write a larger --step",
            ),
            (&long, "the answer is longer than 1 MiB: the query gives many series; add them up"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "it does not answer in HTTP"),
        ] {
            let error = format!("{:#}", ask(answer, None).await.0.unwrap_err());
            assert!(error.contains(message), "{message}\n{error}");
            assert!(error.contains("ask http://127.0.0.1:"), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_how_to_get_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let client = Client::new(&uri, None, Trust::Machine, QUICK).unwrap();
        let error = format!("{:#}", client.query_range("up", RANGE).await.unwrap_err());
        assert!(error.contains("connect to 127.0.0.1:") && error.contains("kubectl port-forward"), "{error}");
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn an_address_is_that_of_a_server_and_holds_no_password() {
        for good in ["http://localhost:9090", "https://example.com/prometheus", "http://[::1]:9090"] {
            assert!(server(good).is_ok(), "{good}");
        }
        for bad in ["localhost:9090", "ftp://example.com", "http://", "http://a/?query=up", "prometheus"] {
            assert!(server(bad).unwrap_err().contains("such as http://localhost:9090"), "{bad}");
        }
        let error = server("https://me:secret@example.com").unwrap_err();
        assert!(error.contains("--bearer-token-file") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn files_that_hold_something_else_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let https = "https://example.com".parse::<Uri>().unwrap();
        let error = |token: Option<&Path>, trust| {
            format!("{:#}", Client::new(&https, token, trust, QUICK).unwrap_err())
        };
        assert!(error(None, Trust::File(&file)).contains("read the authorities"));
        std::fs::write(&file, "").unwrap();
        assert!(error(Some(&file), Trust::Anyone).contains("is empty; it should hold a token"));
        assert!(error(None, Trust::File(&file)).contains("holds no certificate"));
        std::fs::write(&file, "one\ntwo").unwrap();
        let told = error(Some(&file), Trust::Anyone);
        assert!(told.contains("a token on one line") && !told.contains("two"), "{told}");
    }
}
