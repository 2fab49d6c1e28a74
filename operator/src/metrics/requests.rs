//! Counts the operator's requests to the API server. It changes none of them.

use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::{Method, Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use prometheus::IntCounterVec;
use tower::{Layer, Service};

/// A client whose requests are counted.
///
/// # Errors
/// When the configuration makes no client.
pub fn counted_client(config: Config, requests: &ApiRequests) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?.with_layer(requests).build())
}

/// What has been asked of the API server.
#[derive(Clone, Debug)]
pub struct ApiRequests(IntCounterVec);

impl ApiRequests {
    /// Counts into `counter`, whose labels are verb, resource and code.
    pub fn new(counter: IntCounterVec) -> Self {
        Self(counter)
    }
}

/// What one request asks for, in the words of the API server's own metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    verb: &'static str,
    /// Plural of the kind with the subresource, such as `deployments/scale`.
    resource: String,
}

impl Asked {
    fn of(method: &Method, uri: &Uri) -> Self {
        let mut path = uri.path().trim_matches('/').split('/');
        // `api/VERSION/…` or `apis/GROUP/VERSION/…`
        let grouped = path.next() == Some("apis");
        let mut rest = path.skip(if grouped { 2 } else { 1 }).collect::<Vec<_>>();
        if rest.first() == Some(&"namespaces") && rest.len() > 2 {
            rest.drain(..2);
        }
        let (resource, named) = match rest[..] {
            [resource] => (resource.to_owned(), false),
            [resource, _] => (resource.to_owned(), true),
            [resource, _, subresource] => (format!("{resource}/{subresource}"), true),
            _ => ("other".to_owned(), true),
        };
        let watches = uri.query().unwrap_or_default().split('&').any(|pair| pair == "watch=true");
        let verb = match (method.as_str(), named) {
            _ if watches => "watch",
            ("GET", false) => "list",
            ("GET", true) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", false) => "deletecollection",
            ("DELETE", true) => "delete",
            _ => "other",
        };
        Self { verb, resource }
    }
}

/// A request on its way. It is counted even if nobody waits for its answer any longer.
struct OnItsWay {
    requests: ApiRequests,
    asked: Asked,
    code: String,
}

impl OnItsWay {
    fn end(mut self, code: String) {
        self.code = code;
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Asked { verb, resource } = &self.asked;
        self.requests.0.with_label_values(&[*verb, resource, &self.code]).inc();
    }
}

impl<S> Layer<S> for ApiRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: ApiRequests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = Asked::of(request.method(), request.uri());
        let on_its_way = OnItsWay { requests: self.requests.clone(), asked, code: "GivenUp".to_owned() };
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            on_its_way.end(match &answer {
                Ok(response) => response.status().as_u16().to_string(),
                Err(_) => "NoAnswer".to_owned(),
            });
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_the_api_server_names_them() {
        for (method, uri, verb, resource) in [
            (Method::GET, "/apis/plimsoll.dev/v1alpha1/apideployments?limit=500", "list", "apideployments"),
            (Method::GET, "/api/v1/pods?watch=true&timeoutSeconds=200", "watch", "pods"),
            (Method::GET, "/api/v1/namespaces/shop/pods?limit=500", "list", "pods"),
            (Method::GET, "/api/v1/namespaces/shop/secrets/db", "get", "secrets"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/shop/deployments/posts?force=true",
                "patch",
                "deployments",
            ),
            (
                Method::PATCH,
                "/apis/plimsoll.dev/v1alpha1/namespaces/shop/apideployments/posts/status",
                "patch",
                "apideployments/status",
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/p/leases/p", "update", "leases"),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events", "create", "events"),
            (Method::DELETE, "/api/v1/namespaces/shop/services/posts", "delete", "services"),
            (Method::GET, "/api/v1/namespaces/shop", "get", "namespaces"),
            (Method::GET, "/version", "get", "other"),
        ] {
            let asked = Asked::of(&method, &uri.parse().unwrap());
            assert_eq!(asked, Asked { verb, resource: resource.to_owned() }, "{uri}");
        }
    }
}
