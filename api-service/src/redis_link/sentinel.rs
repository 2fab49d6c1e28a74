//! Asks sentinels where the primary is, once a second. Decides nothing: what most of them have agreed on, each tells.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::time::timeout;

use super::target::Sentinels;

/// How often they are asked: a primary that has moved is found this soon after they have agreed on it.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// How long one of them may take, its connection included.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Address of the primary, as the first sentinel that answers tells it; none while none does.
pub(super) async fn primary(sentinels: &Sentinels) -> Option<(String, u16)> {
    for sentinel in &sentinels.clients {
        if let Ok(Ok(Some(address))) = timeout(ANSWER_MAX, ask(sentinel, &sentinels.name)).await {
            return Some(address);
        }
    }
    None
}

async fn ask(sentinel: &Client, name: &str) -> RedisResult<Option<(String, u16)>> {
    let limits = AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER_MAX));
    let mut connection = sentinel.get_multiplexed_async_connection_with_config(&limits).await?;
    redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut connection).await
}
