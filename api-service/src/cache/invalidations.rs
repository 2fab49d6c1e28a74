//! Listens to what other replicas have written. Trusts the in-process layer only while it would hear of a write.

use std::time::Duration;

use futures::StreamExt;
use redis::{RedisResult, aio::PubSub};
use tokio::time::{interval, timeout};

use super::{INVALIDATIONS, Layers};
use crate::redis_link::{CONNECT_TIMEOUT, Moves, RedisLink};

/// How often the connection is asked whether it lives, and how long it may take to say so. Together they bound how long
/// a replica that is cut off from Redis without a word goes on answering from its memory.
const PING_PERIOD: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits between attempts to listen: doubling from the first to the last, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Listens for as long as the service runs.
pub async fn listen(link: RedisLink, layers: Layers) {
    let mut wait = RETRY_MIN;
    loop {
        // From before the subscription: a primary that moves meanwhile is not missed.
        let moves = link.moves();
        if let Ok(Ok(subscription)) = timeout(CONNECT_TIMEOUT, subscribe(&link)).await {
            wait = RETRY_MIN;
            layers.trust(true);
            follow(subscription, moves, &layers).await;
            layers.trust(false);
        }
        tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn subscribe(link: &RedisLink) -> RedisResult<PubSub> {
    let mut subscription = link.listener().await?;
    subscription.subscribe(INVALIDATIONS).await?;
    Ok(subscription)
}

/// Carries out what comes, until the connection ends or does not answer, or others write elsewhere.
async fn follow(subscription: PubSub, mut moves: Moves, layers: &Layers) {
    let (mut sink, mut messages) = subscription.split();
    let mut pings = interval(PING_PERIOD);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => match message.get_payload::<i64>() {
                    Ok(id) => layers.forget(id),
                    // Not ours, or not understood: then everything may have changed.
                    Err(_) => layers.forget_all(),
                },
                None => return,
            },
            _ = pings.tick() => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
            () = moves.next() => return,
        }
    }
}
