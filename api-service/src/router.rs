//! Every path of the service, in one flat list. No handler lives here.

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};

use crate::{
    admission, edge,
    error::ApiError,
    extract::REQUEST_BYTES_MAX,
    health, limits, openapi,
    routes::{html, metrics, posts, public, work},
    state::AppState,
};

/// Builds the router. Probes and metrics stay outside the guard: they are neither measured nor bounded by the API's rules.
pub fn build(state: Arc<AppState>) -> Router {
    let api = Router::new()
        .route("/posts", get(posts::list).post(posts::create))
        .route("/posts/{id}", get(posts::read).put(posts::replace).delete(posts::delete))
        .route("/posts/{id}/html", get(html::read))
        .route("/public/posts", get(public::list))
        .route("/work", get(work::burn));
    let api = admission::guarded(api, &state)
        .fallback(async || ApiError::RouteNotFound)
        .method_not_allowed_fallback(limits::other_method)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), edge::guard));
    let probes = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/startupz", get(health::started))
        .route("/health", get(health::report))
        .route("/metrics", get(metrics::text))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .method_not_allowed_fallback(limits::other_method);
    let across = limits::cross_origin(&state.config.limits);
    let router = api.merge(probes).with_state(state);
    match across {
        Some(layer) => router.layer(layer),
        None => router,
    }
}
