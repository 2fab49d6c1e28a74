//! The Prometheus servers that resources may choose among: the operator's configuration, read once.
//!
//! Whoever writes a resource names a server and never a URL: the operator stands where its author may not, and would
//! otherwise ask whatever address it is given ([ADR 10](../../../docs/adr/0010-prometheus-by-name.md)).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use hyper::Uri;
use hyper::header::HeaderValue;
use plimsoll_core::input::Outage;
use plimsoll_crds::{ApiDeployment, PrometheusSource, reason};
use plimsoll_prometheus::fetch::Tls;
use plimsoll_prometheus::{Peer, Trust, client_config};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::credentials::{basic_header, bearer_header};

/// Queries that one server is asked at the same time.
const QUERIES_MAX: usize = 8;
/// Files are read anew after this long, as tokens and certificates are changed under a process.
const ACCESS_AGE_MAX: Duration = Duration::from_mins(1);
/// After a server did not answer, nobody waits for it again for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// Servers by name.
#[derive(Debug, Default)]
pub struct Servers(BTreeMap<String, Server>);

/// One server.
#[derive(Debug)]
pub struct Server {
    /// As it was configured.
    pub entry: Entry,
    /// Its address.
    pub uri: Uri,
    /// Bounds the queries at the same time: a slow server takes no connection of other resources' pods.
    pub turns: Semaphore,
    access: Mutex<Option<(Instant, Access)>>,
    failed: Mutex<Option<(Instant, Outage)>>,
    answered_at: Mutex<Option<Instant>>,
}

/// How a server is reached, and with what.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it is.
    pub peer: Peer,
    /// Value of `Authorization`, unless the resource brings its own.
    pub authorization: Option<HeaderValue>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    servers: Vec<Entry>,
}

/// One server of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Entry {
    /// What resources call it.
    pub name: String,
    /// Its address, with the path that it is served under: `http://prometheus.monitoring:9090`.
    pub url: String,
    /// Tenant that is asked, as `X-Scope-OrgID`; `$(namespace)` is that of the resource.
    #[serde(default)]
    pub tenant: Option<String>,
    /// File with a token that it asks for.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// User and password that it asks for.
    #[serde(default)]
    pub basic_auth: Option<BasicAuthFile>,
    /// PEM file of the authorities that may have signed its certificate. Absent: those that the machine trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Takes any certificate.
    #[serde(default)]
    pub insecure_skip_verify: bool,
    /// Longest wait for an answer, in seconds.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
    /// Whether resources may write queries and a tenant of their own, and so read whatever it holds.
    #[serde(default)]
    pub allow_queries: bool,
}

/// A user, and the file with the password.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BasicAuthFile {
    /// Name of the user.
    pub username: String,
    /// File with the password.
    pub password_file: PathBuf,
}

impl Servers {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When the file cannot be read or says something that cannot be meant; with what to write.
    pub fn read(file: &Path) -> Result<Arc<Self>> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("read {shown}"))?;
        Self::parse(&text).with_context(|| format!("read {shown}"))
    }

    /// Reads the configuration's text.
    ///
    /// # Errors
    /// When it says something that cannot be meant; with what to write.
    pub fn parse(text: &str) -> Result<Arc<Self>> {
        let File { servers } = serde_yaml::from_str(text)?;
        let mut all = BTreeMap::new();
        for entry in servers {
            let name = entry.name.clone();
            ensure!(!name.is_empty(), "write a name for the server {}", entry.url);
            let server = Server::new(entry).with_context(|| format!("server {name}"))?;
            ensure!(all.insert(name.clone(), server).is_none(), "server {name} is there twice; rename one");
        }
        Ok(Arc::new(Self(all)))
    }

    /// The server that a resource names, if it may ask it what it asks.
    ///
    /// # Errors
    /// [`Outage`] with what to write or whom to ask.
    pub fn of<'a>(
        &'a self,
        app: &ApiDeployment,
        source: &PrometheusSource,
    ) -> Result<(&'a Server, Option<String>), Outage> {
        let refused = |message: String| Outage { reason: reason::PROMETHEUS_NOT_ALLOWED, message };
        let server = self.0.get(&source.server).ok_or_else(|| {
            let name = &source.server;
            let names = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            refused(if names.is_empty() {
                format!(
                    "the operator knows no Prometheus, so none is called {name}; have it added to the operator's \
                     configuration (prometheus.servers of the chart), or remove spec.metrics.prometheus to ask the pods"
                )
            } else {
                format!("the operator knows no Prometheus {name}; write one of {names} as spec.metrics.prometheus.server")
            })
        })?;
        let own = [("query", source.query.is_some()), ("tenant", source.tenant.is_some())];
        if let Some((field, _)) = own.into_iter().find(|(_, own)| *own && !server.entry.allow_queries) {
            return Err(refused(format!(
                "the operator's configuration does not let resources ask the Prometheus {} what they like; leave \
                 spec.metrics.prometheus.{field} out, or have allowQueries set there",
                source.server
            )));
        }
        let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
        let tenant = source.tenant.clone().or_else(|| server.entry.tenant.clone());
        Ok((server, tenant.map(|tenant| tenant.replace("$(namespace)", namespace))))
    }
}

impl Server {
    fn new(entry: Entry) -> Result<Self> {
        let uri = uri(&entry.url)?;
        ensure!(
            entry.bearer_token_file.is_none() || entry.basic_auth.is_none(),
            "write bearerTokenFile or basicAuth, not both"
        );
        ensure!(
            !entry.insecure_skip_verify || entry.ca_file.is_none(),
            "write caFile or insecureSkipVerify, not both"
        );
        ensure!((1..=10).contains(&entry.timeout_seconds), "write timeoutSeconds from 1 to 10");
        let (access, failed, answered_at) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { entry, uri, turns: Semaphore::new(QUERIES_MAX), access, failed, answered_at })
    }

    /// How it is reached; files are read at most once a minute.
    ///
    /// # Errors
    /// [`Outage`] when a file cannot be read or holds something else.
    pub fn access(&self) -> Result<Access, Outage> {
        let mut kept = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, access)) = kept.as_ref().filter(|(at, _)| at.elapsed() < ACCESS_AGE_MAX) {
            return Ok(access.clone());
        }
        let access = self.read_access().map_err(|error| Outage {
            reason: reason::PROMETHEUS_UNREACHABLE,
            message: format!("the operator cannot ask the Prometheus {}: {error:#}", self.entry.name),
        })?;
        *kept = Some((Instant::now(), access.clone()));
        Ok(access)
    }

    /// What it failed with a moment ago: then nobody waits for it again.
    pub fn failed(&self) -> Option<Outage> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE).map(|(_, outage)| outage.clone())
    }

    /// Keeps what it failed with.
    pub fn fail(&self, outage: Outage) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), outage));
    }

    /// Notes that it has answered somebody.
    pub fn answered(&self) {
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it has answered anybody since then. One that has is well, and it is a query that takes too long.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.answered_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at >= then)
    }

    fn read_access(&self) -> Result<Access> {
        let Entry { bearer_token_file, basic_auth, ca_file, insecure_skip_verify, .. } = &self.entry;
        let text =
            |file: &Path| std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
        let authorization = match (bearer_token_file, basic_auth) {
            (Some(file), _) => {
                let header = bearer_header(&text(file)?);
                Some(header.map_err(|what| anyhow!("{} {what}", file.display()))?)
            }
            (None, Some(BasicAuthFile { username, password_file })) => {
                let header = basic_header(username, &text(password_file)?);
                Some(header.map_err(|what| anyhow!("{} {what}", password_file.display()))?)
            }
            (None, None) => None,
        };
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = if self.uri.scheme_str() == Some("https") {
            let config = match ca_file {
                _ if *insecure_skip_verify => client_config(Trust::Anyone)?,
                Some(file) => client_config(Trust::Authorities(text(file)?.as_bytes()))
                    .map_err(|error| anyhow!("{} {error}", file.display()))?,
                None => client_config(Trust::Machine)
                    .context("write caFile, the authority that signed the server's certificate")?,
            };
            let name = ServerName::try_from(host.clone())
                .with_context(|| format!("{host} is no name that a certificate has"))?;
            Some(Tls { config, name })
        } else {
            None
        };
        let default_port = if tls.is_some() { 443 } else { 80 };
        let port = self.uri.port_u16().unwrap_or(default_port);
        Ok(Access { peer: Peer { host, port, tls }, authorization })
    }
}

fn uri(text: &str) -> Result<Uri> {
    const WRITE: &str = "write url as a server's address, such as http://prometheus.monitoring:9090 or \
                         https://mimir.example.com/prometheus";
    let uri = text.parse::<Uri>().context(WRITE)?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    ensure!(http && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none(), WRITE);
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    ensure!(!user, "leave user and password out of url; write basicAuth");
    Ok(uri)
}

fn default_timeout() -> u64 {
    5
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(source: serde_json::Value, config: &str) -> Outage {
        let source = serde_json::from_value(source).unwrap();
        Servers::parse(config).unwrap().of(&app(), &source).unwrap_err()
    }

    fn app() -> ApiDeployment {
        let app = json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "namespace": "shop", "name": "posts" }, "spec": { "latency": { "p99": "250ms" } },
        });
        serde_json::from_value(app).unwrap()
    }

    const TWO: &str = "servers: [{name: default, url: 'http://a:9090'}, {name: mimir, url: 'https://b/prometheus', tenant: '$(namespace)'}]";

    #[test]
    fn a_resource_chooses_among_the_configured_servers_by_name_only() {
        let outage = refused(json!({ "server": "evil" }), TWO);
        assert_eq!(outage.reason, "PrometheusNotAllowed");
        assert!(outage.message.contains("write one of default, mimir as"), "{}", outage.message);
        let outage = refused(json!({}), "servers: []");
        assert!(outage.message.contains("prometheus.servers of the chart"), "{}", outage.message);
        let servers = Servers::parse(TWO).unwrap();
        let of = |source| servers.of(&app(), &serde_json::from_value(source).unwrap()).unwrap();
        let (server, tenant) = of(json!({}));
        assert_eq!((server.entry.name.as_str(), tenant), ("default", None));
        assert_eq!(of(json!({ "server": "mimir" })).1.as_deref(), Some("shop"));
    }

    #[test]
    fn what_a_server_holds_of_others_is_read_only_where_the_configuration_allows_it() {
        let own = json!({ "query": "a", "timestampQuery": "b" });
        let outage = refused(own.clone(), TWO);
        assert!(outage.message.contains("leave spec.metrics.prometheus.query out"), "{}", outage.message);
        let outage = refused(json!({ "server": "mimir", "tenant": "bank" }), TWO);
        assert!(outage.message.contains("leave spec.metrics.prometheus.tenant out"), "{}", outage.message);
        let open = Servers::parse("servers: [{name: default, url: 'http://a', allowQueries: true}]").unwrap();
        assert!(open.of(&app(), &serde_json::from_value(own).unwrap()).is_ok());
    }

    #[test]
    fn a_configuration_that_cannot_be_meant_says_what_to_write() {
        for (config, message) in [
            ("servers: [{name: a, url: 'a:9090'}]", "such as http://prometheus.monitoring:9090"),
            ("servers: [{name: a, url: 'http://me:pw@a'}]", "leave user and password out"),
            ("servers: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]", "is there twice"),
            ("servers: [{name: '', url: 'http://a'}]", "write a name"),
            ("servers: [{name: a, url: 'http://a', timeoutSeconds: 60}]", "from 1 to 10"),
            ("servers: [{name: a, url: 'http://a', caFile: x, insecureSkipVerify: true}]", "not both"),
            ("servers: [{name: a, url: 'http://a', token: x}]", "unknown field"),
        ] {
            let error = format!("{:#}", Servers::parse(config).unwrap_err());
            assert!(error.contains(message) && !error.contains("pw"), "{message}\n{error}");
        }
    }
}
