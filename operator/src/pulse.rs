//! Hears every sign of life of a watch below the watcher, which keeps bookmarks to itself and ends an idle watch without
//! a word. It changes nothing that passes.

use http_body_util::BodyExt as _;
use hyper::Request;
use kube::Client;
use kube::client::Body;

/// The client, with `beat` called for each answer that is no failure and for each piece of its body: an event, a
/// bookmark, a page of a list.
pub fn felt(client: Client, beat: impl Fn() + Clone + Send + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, beat) = (client.clone(), beat.clone());
        async move {
            let response = client.send(request).await?;
            let good = response.status().is_success();
            if good {
                beat();
            }
            let felt = response.map(|body| {
                body.map_frame(move |frame| {
                    if good {
                        beat();
                    }
                    frame
                })
            });
            Ok::<_, kube::Error>(felt)
        }
    });
    Client::new(service, namespace)
}
