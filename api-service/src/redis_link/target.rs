//! Where Redis is, as its URL says: one server, one that sentinels name, or a cluster. Connects to nothing.

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
    cluster::{ClusterClient, ClusterClientBuilder},
};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT};

/// Port of a sentinel that is named without one.
const SENTINEL_PORT: u16 = 26379;

/// Why a URL says not where Redis is. Never quotes it: it holds the password.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The URL, or a part of it, cannot be read.
    #[error(
        "it is not a URL such as redis://host:6379, redis+sentinel://host:26379,host:26379/name or redis+cluster://host:6379"
    )]
    Url,
    /// It names sentinels, and not what they watch.
    #[error("it needs the name that the sentinels watch, such as redis+sentinel://host:26379/primary")]
    Name,
    /// The client refuses what the URL says.
    #[error("the client cannot use it")]
    Client(#[source] RedisError),
}

/// Where Redis is.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as the process lives")]
pub enum Target {
    /// One server.
    One(Client),
    /// The one that sentinels name.
    Sentinel(Sentinels),
    /// Several that share the keys.
    Cluster(Cluster),
}

/// Sentinels, and what they watch.
#[derive(Clone)]
pub struct Sentinels {
    /// The sentinels.
    pub(super) clients: Vec<Client>,
    /// The name under which they watch the primary.
    pub(super) name: String,
    /// As whom the primary is asked.
    user: RedisConnectionInfo,
    encrypted: bool,
    authority: Option<Vec<u8>>,
}

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Makes connections to all of it.
    pub(super) client: ClusterClient,
    /// The servers that were named: a message that is published on one is heard on each.
    pub(super) nodes: Vec<Client>,
}

impl Target {
    /// Reads a URL; `authority` is the certificate, as PEM, that those of the servers must come from.
    ///
    /// # Errors
    /// [`TargetError`] when it cannot be read.
    pub fn parse(url: &str, authority: Option<&[u8]>) -> Result<Self, TargetError> {
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::Url)?;
        let (kind, scheme) = match scheme {
            "redis+sentinel" => (Kind::Sentinel, "redis"),
            "rediss+sentinel" => (Kind::Sentinel, "rediss"),
            "redis+cluster" => (Kind::Cluster, "redis"),
            "rediss+cluster" => (Kind::Cluster, "rediss"),
            _ => return one(url, authority).map(Self::One).map_err(TargetError::Client),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (servers, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = servers.rsplit_once('@').map_or(("", servers), |(user, hosts)| (user, hosts));
        let at = |user: &str, host: &str| {
            let user = if user.is_empty() { String::new() } else { format!("{user}@") };
            format!("{scheme}://{user}{host}")
        };
        let nodes = |user: &str, port: u16| {
            let nodes = hosts.split(',').map(|host| one(&at(user, &with_port(host, port)), authority));
            nodes.collect::<RedisResult<Vec<_>>>().map_err(TargetError::Client)
        };
        match kind {
            Kind::Sentinel => {
                let name = path.trim_end_matches('/');
                if name.is_empty() {
                    return Err(TargetError::Name);
                }
                // The user is of the primary; sentinels have one of their own, or none.
                let sentinel = query.split('&').find_map(|part| part.strip_prefix("sentinel="));
                let primary = at(user, "primary").into_connection_info().map_err(TargetError::Client)?;
                Ok(Self::Sentinel(Sentinels {
                    clients: nodes(sentinel.unwrap_or_default(), SENTINEL_PORT)?,
                    name: name.to_owned(),
                    user: primary.redis_settings().clone(),
                    encrypted: scheme == "rediss",
                    authority: authority.map(<[u8]>::to_vec),
                }))
            }
            Kind::Cluster => {
                let nodes = nodes(user, 6379)?;
                let infos = nodes.iter().map(|node| node.get_connection_info().clone());
                let mut builder = ClusterClientBuilder::new(infos)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(CALL_TIMEOUT);
                if let Some(authority) = authority.filter(|_| scheme == "rediss") {
                    builder = builder.certs(certificates(authority));
                }
                let client = builder.build().map_err(TargetError::Client)?;
                Ok(Self::Cluster(Cluster { client, nodes }))
            }
        }
    }
}

impl Sentinels {
    /// The client of the primary at an address that a sentinel has named.
    pub(super) fn primary(&self, host: String, port: u16) -> RedisResult<Client> {
        let address = if self.encrypted {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = address.into_connection_info()?.set_redis_settings(self.user.clone());
        open(info, self.authority.as_deref())
    }
}

enum Kind {
    Sentinel,
    Cluster,
}

fn one(url: &str, authority: Option<&[u8]>) -> RedisResult<Client> {
    open(url.into_connection_info()?, authority)
}

fn open(info: ConnectionInfo, authority: Option<&[u8]>) -> RedisResult<Client> {
    // A user who may do only what is needed may not give the connection a name.
    let user = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(user);
    match authority {
        Some(authority) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) => {
            Client::build_with_tls(info, certificates(authority))
        }
        _ => Client::open(info),
    }
}

fn certificates(authority: &[u8]) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: Some(authority.to_vec()) }
}

/// The host with a port: an IPv6 address stands in brackets, and so its colons are none of a port's.
fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, after)| !after.contains(']'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(clients: &[Client]) -> Vec<String> {
        clients.iter().map(|client| client.get_connection_info().addr().to_string()).collect()
    }

    #[test]
    fn sentinels_have_a_name_and_users_apart_from_the_primarys() {
        let url = "redis+sentinel://app:secret@a:1,b,[::1]:3/posts?sentinel=watch:other";
        let Ok(Target::Sentinel(target)) = Target::parse(url, None) else { panic!("no sentinels") };
        assert_eq!(addresses(&target.clients), ["a:1", "b:26379", "::1:3"]);
        assert_eq!((target.name.as_str(), target.user.username()), ("posts", Some("app")));
        let sentinel = target.clients[0].get_connection_info().redis_settings();
        assert_eq!((sentinel.username(), sentinel.password()), (Some("watch"), Some("other")));
    }

    #[test]
    fn a_cluster_has_nodes() {
        let Ok(Target::Cluster(target)) = Target::parse("redis+cluster://:secret@a,b:7000", None) else {
            panic!("no cluster")
        };
        assert_eq!(addresses(&target.nodes), ["a:6379", "b:7000"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_its_password() {
        for url in
            ["", "secret", "redis+sentinel://:secret@a:1", "redis+cluster://:secret@:x", "http://secret"]
        {
            let error = Target::parse(url, None).err().unwrap_or_else(|| panic!("{url} is taken"));
            assert!(!error.to_string().contains("secret"), "{url}: {error}");
        }
        assert!(matches!(Target::parse("redis://a:1", None), Ok(Target::One(_))));
    }
}
