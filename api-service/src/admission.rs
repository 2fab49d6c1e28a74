//! Who sends a request, and whether it may go on: checked before a handler sees it. Reads no body, and is not there at
//! all when no setting asks for it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use crate::{auth, state::AppState};

/// Puts the checks that the settings ask for in front of `router`.
pub fn guarded(router: Router<Arc<AppState>>, state: &Arc<AppState>) -> Router<Arc<AppState>> {
    if state.auth.is_none() {
        return router;
    }
    router.route_layer(middleware::from_fn_with_state(Arc::clone(state), admit))
}

/// Lets a request through to its handler, with the caller's [`auth::Subject`] among its extensions, or refuses it.
async fn admit(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let identified = state.auth.as_ref().map_or(Ok(None), |auth| auth.identify(request.headers()));
    let allowed = identified.and_then(|identity| {
        if state.auth.is_some() {
            auth::authorize(request.method(), identity.as_ref())?;
        }
        Ok(identity)
    });
    match allowed {
        Ok(identity) => {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity.subject);
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}
