//! What the resource's own Secrets hold for reading its metrics. Values are kept in memory for a minute, and shown nowhere.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use plimsoll_core::input::Outage;
use plimsoll_crds::{ApiDeployment, MetricsScheme, MetricsTls, PrometheusSource, SecretSource, reason};
use plimsoll_prometheus::fetch::Tls;
use plimsoll_prometheus::{Trust, client_config};
use rustls::pki_types::ServerName;

/// For so long they are believed, so that a token that was changed is used within a minute.
const AGE_MAX: Duration = Duration::from_mins(1);
/// A certificate is taken without regard to its name then, but TLS wants to know one.
const ANY_NAME: &str = "pod.invalid";

/// What to show who is asked, and whom to believe.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Value of the header `Authorization`; it is marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// How pods prove who they are. Absent for plain HTTP, and for Prometheus, whose certificate is the operator's affair.
    pub tls: Option<Tls>,
}

/// Credentials as last read.
#[derive(Debug)]
pub struct Kept {
    read_at: Instant,
    generation: Option<i64>,
    credentials: Credentials,
}

/// The credentials of a resource, from its Secrets or as they were within the last minute; while Secrets cannot be read, as
/// they were before.
///
/// # Errors
/// [`Outage`] when a Secret or its key is not there, holds something else, or could never be read.
pub async fn of(
    client: &Client,
    app: &ApiDeployment,
    kept: &mut Option<Kept>,
) -> Result<Credentials, Outage> {
    let generation = app.metadata.generation;
    let good = kept.as_ref().filter(|kept| kept.generation == generation && kept.read_at.elapsed() < AGE_MAX);
    if let Some(good) = good {
        return Ok(good.credentials.clone());
    }
    match read(client, app).await {
        Ok(credentials) => {
            *kept = Some(Kept { read_at: Instant::now(), generation, credentials: credentials.clone() });
            Ok(credentials)
        }
        Err(outage) => match kept.as_mut().filter(|kept| kept.generation == generation) {
            // The API server's trouble is not the pods': what was there is believed for another minute.
            Some(kept) if outage.reason == reason::SCRAPE_FAILED => {
                kept.read_at = Instant::now();
                Ok(kept.credentials.clone())
            }
            _ => Err(outage),
        },
    }
}

async fn read(client: &Client, app: &ApiDeployment) -> Result<Credentials, Outage> {
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = Secrets(Api::namespaced(client.clone(), namespace));
    let metrics = &app.spec.metrics;
    let authorization = match &metrics.prometheus {
        Some(prometheus) => of_prometheus(&secrets, prometheus).await?,
        None => match &metrics.bearer_token_from {
            Some(source) => Some(bearer(&secrets, source).await?),
            None => None,
        },
    };
    let tls = match &metrics.tls {
        Some(tls) if metrics.scheme == MetricsScheme::Https && metrics.prometheus.is_none() => {
            Some(of_pods(&secrets, tls).await?)
        }
        _ => None,
    };
    Ok(Credentials { authorization, tls })
}

/// The value of `Authorization` for a token.
///
/// # Errors
/// When it cannot be sent.
pub fn bearer_header(token: &str) -> Result<HeaderValue, &'static str> {
    header(format!("Bearer {}", token.trim()))
        .filter(|_| !token.trim().is_empty())
        .ok_or("should hold a token on one line and nothing else")
}

/// The value of `Authorization` for a user and a password.
///
/// # Errors
/// When it cannot be sent.
pub fn basic_header(username: &str, password: &str) -> Result<HeaderValue, &'static str> {
    let encoded = STANDARD.encode(format!("{username}:{}", password.trim_end_matches(['\r', '\n'])));
    header(format!("Basic {encoded}")).ok_or("should hold a password and nothing else")
}

fn header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn of_prometheus(
    secrets: &Secrets,
    prometheus: &PrometheusSource,
) -> Result<Option<HeaderValue>, Outage> {
    if let Some(source) = &prometheus.bearer_token_from {
        return bearer(secrets, source).await.map(Some);
    }
    let Some(basic) = &prometheus.basic_auth else { return Ok(None) };
    let password = secrets.text(&basic.password_from).await?;
    basic_header(&basic.username, &password).map(Some).map_err(|what| holds(&basic.password_from, what))
}

async fn bearer(secrets: &Secrets, source: &SecretSource) -> Result<HeaderValue, Outage> {
    bearer_header(&secrets.text(source).await?).map_err(|what| holds(source, what))
}

async fn of_pods(secrets: &Secrets, tls: &MetricsTls) -> Result<Tls, Outage> {
    let name = tls.server_name.clone().unwrap_or_else(|| ANY_NAME.into());
    let name = ServerName::try_from(name).map_err(|_| Outage {
        reason: reason::UNTRUSTED,
        message: "write spec.metrics.tls.serverName as a name that a certificate has, such as posts.shop.svc"
            .into(),
    })?;
    // The API server refuses neither to be set, and a stored object must not come to trust anyone by that.
    let config = match &tls.ca_from {
        _ if tls.insecure_skip_verify => client_config(Trust::Anyone),
        Some(source) => {
            let pem = secrets.text(source).await?;
            client_config(Trust::Authorities(pem.as_bytes()))
        }
        None => client_config(Trust::Authorities(&[])),
    };
    let config = config.map_err(|error| match &tls.ca_from {
        Some(source) => holds(source, &error.to_string()),
        None => Outage {
            reason: reason::UNTRUSTED,
            message: "write spec.metrics.tls.caFrom, the authority that signed the pods' certificates".into(),
        },
    })?;
    Ok(Tls { config, name })
}

fn holds(SecretSource { secret_key_ref }: &SecretSource, what: &str) -> Outage {
    let (name, key) = (&secret_key_ref.name, &secret_key_ref.key);
    Outage { reason: reason::INVALID_SECRET, message: format!("the key {key} of Secret {name} {what}") }
}

struct Secrets(Api<Secret>);

impl Secrets {
    async fn text(&self, source: &SecretSource) -> Result<String, Outage> {
        let (name, key) = (&source.secret_key_ref.name, &source.secret_key_ref.key);
        let secret = self.0.get_opt(name).await.map_err(|error| Outage {
            reason: reason::SCRAPE_FAILED,
            message: format!("read Secret {name}: {error}; it is tried again"),
        })?;
        let value = secret.and_then(|secret| secret.data?.remove(key)).ok_or_else(|| Outage {
            reason: reason::SECRET_NOT_FOUND,
            message: format!(
                "Secret {name} with the key {key} is not there; create it in the namespace of the resource"
            ),
        })?;
        String::from_utf8(value.0).map_err(|_| holds(source, "is no text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_shown_nowhere() {
        let credentials = Credentials { authorization: Some(bearer_header("s3cret\n").unwrap()), tls: None };
        assert_eq!(credentials.authorization.as_ref().unwrap(), "Bearer s3cret");
        assert!(!format!("{credentials:?}").contains("s3cret"));
        assert_eq!(basic_header("me", "pass\n").unwrap(), "Basic bWU6cGFzcw==");
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_told_without_repeating_it() {
        for token in ["", " \n", "one\ntwo"] {
            let told = bearer_header(token).unwrap_err();
            assert!(told.contains("on one line") && !told.contains("two"), "{told}");
        }
    }
}
