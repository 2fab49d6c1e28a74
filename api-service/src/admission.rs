//! Who sends a request, and whether it may go on: checked before a handler sees it. Reads no body, and is not there at
//! all when no setting asks for it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use crate::{
    auth,
    error::ApiError,
    rate_limit::{Peer, Standing},
    state::AppState,
};

/// Puts the checks that the settings ask for in front of `router`.
pub fn guarded(router: Router<Arc<AppState>>, state: &Arc<AppState>) -> Router<Arc<AppState>> {
    if state.auth.is_none() && state.rate_limit.is_none() {
        return router;
    }
    router.route_layer(middleware::from_fn_with_state(Arc::clone(state), admit))
}

/// Lets a request through to its handler, with the caller's [`auth::Subject`] among its extensions, or refuses it.
///
/// 1. Reads the token, when one is sent.
/// 2. Counts the request for its caller; one whose token is not good counts for its address, so that guessing is
///    limited too.
/// 3. Refuses what is beyond the limit, then a token that is not good, then a write without one.
async fn admit(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let identified = state.auth.as_ref().map_or(Ok(None), |auth| auth.identify(request.headers()));
    let standing = match &state.rate_limit {
        Some(limit) => {
            let identity = identified.as_ref().ok().and_then(Option::as_ref);
            let peer = request.extensions().get::<Peer>().copied();
            let subject = identity.map(|identity| &identity.subject);
            Some(limit.judge(subject, request.headers(), peer).await)
        }
        None => None,
    };
    let refused = standing.as_ref().and_then(Standing::refused);
    let allowed = match refused {
        Some(retry_after_seconds) => Err(ApiError::RateLimited { retry_after_seconds }),
        None => identified.and_then(|identity| {
            if state.auth.is_some() {
                auth::authorize(request.method(), identity.as_ref())?;
            }
            Ok(identity)
        }),
    };
    let mut response = match allowed {
        Ok(identity) => {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity.subject);
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    if let Some(standing) = standing {
        standing.tell(&mut response);
    }
    response
}
