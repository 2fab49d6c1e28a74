//! Posts in Postgres, over a bounded pool. Connects when first used, and never waits for anything without a limit.

mod migrate;
mod pool;
mod sql;
#[cfg(test)]
mod tests;

use std::time::Duration;

use deadpool_postgres::{Client, GenericClient, Transaction};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::{Config, IsolationLevel, Row, types::ToSql};

use self::pool::{Pool, bounded, bounded_by, settle};
use super::{
    Columns, Conditional, Created, Filter, Limits, OLD_KEYS_PER_WRITE, Once, StoreError, StoreMetrics,
    keys_end,
    metrics::{ServerConnections, Usage},
};
use crate::post::{Author, Content, Post};

/// How long the server may take to answer a ping before it counts as unreachable.
const PING_MAX: Duration = Duration::from_secs(2);

/// How long migrating may take before it is given up and tried again: an index over many rows takes its time.
const MIGRATION_MAX: Duration = Duration::from_mins(10);

/// Posts in a database that replicas share.
#[derive(Debug)]
pub struct Postgres {
    pool: Pool,
}

impl Postgres {
    /// A pool within `limits`. Does not connect.
    pub(super) fn new(config: &Config, limits: &Limits, metrics: &StoreMetrics) -> Result<Self, StoreError> {
        Ok(Self { pool: Pool::new(config, limits, metrics)? })
    }

    pub(super) fn usage(&self) -> impl Fn() -> Vec<Usage> + Send + Sync + 'static {
        self.pool.usage()
    }

    /// Rows of a table.
    #[cfg(test)]
    pub(super) async fn count(&self, table: &str) -> i64 {
        let client = self.pool.client().await.unwrap();
        client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
    }

    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut client = self.pool.client().await?;
        let outcome = match bounded(migrate::up_to_date(&client)).await {
            Ok(true) => Ok(()),
            Ok(false) => bounded_by(MIGRATION_MAX, migrate::migrate(&mut client)).await,
            Err(error) => Err(error),
        };
        settle(client, outcome)
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let client = self.pool.client_unjudged().await?;
        let outcome = bounded_by(PING_MAX, async {
            let statement = self.pool.prepare(&client, &sql::PING).await?;
            Ok(client.execute(&statement, &[]).await.map(drop)?)
        });
        let outcome = outcome.await;
        settle(client, outcome)
    }

    pub(super) async fn server_connections(&self) -> Result<ServerConnections, StoreError> {
        let client = self.pool.client_unjudged().await?;
        let outcome = bounded_by(PING_MAX, async {
            let statement = self.pool.prepare(&client, &sql::SERVER_CONNECTIONS).await?;
            let row = client.query_one(&statement, &[]).await?;
            Ok(ServerConnections { max: row.try_get(0)?, used: row.try_get(1)? })
        });
        let outcome = outcome.await;
        settle(client, outcome)
    }

    pub(super) async fn create(
        &self,
        content: Content,
        once: Option<Once>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        let mut client = self.pool.client().await?;
        let outcome = bounded(self.create_on(&mut client, content, once, now)).await;
        settle(client, outcome)
    }

    async fn create_on(
        &self,
        client: &mut Client,
        content: Content,
        once: Option<Once>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        // The ordinary case is one statement, which is a transaction of its own.
        if once.is_none()
            && let Some(ids) = self.insert(client, &content, now).await?
        {
            return Ok(Created::New(content.into_post(ids.post, ids.author, now)));
        }
        let transaction = begin(client).await?;
        if let Some(once) = &once
            && let Some(answer) = self.answered(&transaction, &content, once, now).await?
        {
            // Ended before it is answered: dropped, it would end at some later time, and until then a client that asks once
            // more would be told that its request is being worked on.
            transaction.rollback().await?;
            return Ok(answer);
        }
        let mut ids = None;
        if once.is_some() {
            ids = self.insert(&transaction, &content, now).await?;
        }
        if ids.is_none() {
            self.add_author(&transaction, content.author_or_anonymous()).await?;
            self.add_tags(&transaction, &content.tags).await?;
            ids = self.insert(&transaction, &content, now).await?;
        }
        let ids = ids.ok_or_else(|| StoreError::Internal("the author or a tag is gone".into()))?;
        if let Some(once) = &once {
            self.note(&transaction, once, ids, now).await?;
        }
        transaction.commit().await?;
        Ok(Created::New(content.into_post(ids.post, ids.author, now)))
    }

    /// Adds the post; nothing is done when its author or a tag is not there yet.
    async fn insert(
        &self,
        client: &impl GenericClient,
        content: &Content,
        now: Timestamp,
    ) -> Result<Option<Ids>, StoreError> {
        let statement = self.pool.prepare(client, &sql::INSERT).await?;
        let author = content.author_or_anonymous();
        let row = client
            .query_opt(&statement, &[&content.title, &content.body, &now, &author, &content.tags])
            .await?;
        row.map(|row| Ok(Ids { post: row.try_get(0)?, author: row.try_get(1)? })).transpose()
    }

    async fn add_author(&self, transaction: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
        let statement = self.pool.prepare(transaction, &sql::ADD_AUTHOR).await?;
        transaction.execute(&statement, &[&name]).await?;
        Ok(())
    }

    async fn add_tags(&self, transaction: &Transaction<'_>, tags: &[String]) -> Result<(), StoreError> {
        let statement = self.pool.prepare(transaction, &sql::ADD_TAGS).await?;
        transaction.execute(&statement, &[&tags]).await?;
        Ok(())
    }

    /// What to answer without adding anything, because of the key; nothing when the request is the first with it.
    async fn answered(
        &self,
        transaction: &Transaction<'_>,
        content: &Content,
        once: &Once,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        let statement = self.pool.prepare(transaction, &sql::LOCK_KEY).await?;
        let locked = transaction.query_one(&statement, &[&lock_number(&once.key)]).await?;
        if !locked.try_get(0)? {
            // Waiting would hold one of few connections for a client that can ask again.
            return Ok(Some(Created::InProgress));
        }
        // After the lock, as a statement of its own: it must see what the one before committed.
        let statement = self.pool.prepare(transaction, &sql::FIND_KEY).await?;
        let row = transaction.query_opt(&statement, &[&once.key, &keys_end(now)]).await?;
        let Some(row) = row else { return Ok(None) };
        if row.try_get::<_, &[u8]>(0)? != once.request {
            return Ok(Some(Created::KeyOfAnother));
        }
        let ids = Ids { post: row.try_get(1)?, author: row.try_get(2)? };
        Ok(Some(Created::Again(content.clone().into_post(ids.post, ids.author, row.try_get(3)?))))
    }

    async fn note(
        &self,
        transaction: &Transaction<'_>,
        once: &Once,
        ids: Ids,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let statement = self.pool.prepare(transaction, &sql::FORGET_KEYS).await?;
        transaction.execute(&statement, &[&keys_end(now), &OLD_KEYS_PER_WRITE]).await?;
        let statement = self.pool.prepare(transaction, &sql::NOTE_KEY).await?;
        let request = once.request.as_slice();
        transaction.execute(&statement, &[&once.key, &request, &ids.post, &ids.author, &now]).await?;
        Ok(())
    }

    pub(super) async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        let client = self.pool.client().await?;
        let outcome = bounded(async {
            let statement = self.pool.prepare(&client, &sql::READ).await?;
            client.query_opt(&statement, &[&id]).await?.as_ref().map(post).transpose()
        });
        let outcome = outcome.await;
        settle(client, outcome)
    }

    pub(super) async fn list(
        &self,
        filter: &Filter,
        before: i64,
        limit: u32,
        columns: Columns,
    ) -> Result<Vec<Post>, StoreError> {
        let client = self.pool.client().await?;
        let outcome = bounded(async {
            let statement = self.pool.prepare(&client, sql::list(filter)).await?;
            let limit = i64::from(limit);
            let mut parameters: Vec<&(dyn ToSql + Sync)> =
                vec![&before, &limit, &columns.body, &columns.tags];
            // In the order of the statements' numbers: the tag before the author.
            parameters.extend(filter.tag.as_ref().map(|tag| tag as &(dyn ToSql + Sync)));
            parameters.extend(filter.author.as_ref().map(|author| author as &(dyn ToSql + Sync)));
            client.query(&statement, &parameters).await?.iter().map(post).collect()
        });
        let outcome = outcome.await;
        settle(client, outcome)
    }

    pub(super) async fn replace(
        &self,
        id: i64,
        content: Content,
        expected: Option<Vec<i64>>,
        now: Timestamp,
    ) -> Result<Conditional<Post>, StoreError> {
        let mut client = self.pool.client().await?;
        let outcome = bounded(self.replace_on(&mut client, id, content, expected, now)).await;
        settle(client, outcome)
    }

    /// The author, then the post's row, then tags: every write takes its locks in this order, so that no two wait for
    /// each other.
    async fn replace_on(
        &self,
        client: &mut Client,
        id: i64,
        content: Content,
        expected: Option<Vec<i64>>,
        now: Timestamp,
    ) -> Result<Conditional<Post>, StoreError> {
        let transaction = begin(client).await?;
        if let Some(author) = &content.author {
            self.add_author(&transaction, author).await?;
        }
        let statement = self.pool.prepare(&transaction, &sql::UPDATE).await?;
        let row = transaction
            .query_opt(&statement, &[&id, &content.title, &content.body, &now, &content.author, &expected])
            .await?;
        let Some(row) = row else { return self.not_written(&transaction, id).await };
        let author = Author { id: row.try_get(3)?, name: row.try_get(4)? };
        let statement = self.pool.prepare(&transaction, &sql::TAG).await?;
        let parameters: &[&(dyn ToSql + Sync)] = &[&id, &author.id, &content.tags];
        let complete: bool = transaction.query_one(&statement, parameters).await?.try_get(0)?;
        if !complete {
            self.add_tags(&transaction, &content.tags).await?;
            let statement = self.pool.prepare(&transaction, &sql::TAG).await?;
            transaction.query_one(&statement, parameters).await?;
        }
        transaction.commit().await?;
        Ok(Conditional::Done(Post {
            id,
            title: content.title,
            body: content.body,
            author,
            tags: content.tags,
            created_at: row.try_get(0)?,
            updated_at: row.try_get(1)?,
            version: row.try_get(2)?,
        }))
    }

    pub(super) async fn delete(
        &self,
        id: i64,
        expected: Option<Vec<i64>>,
    ) -> Result<Conditional<()>, StoreError> {
        let client = self.pool.client().await?;
        let outcome = bounded(async {
            let statement = self.pool.prepare(&client, &sql::DELETE).await?;
            match client.execute(&statement, &[&id, &expected]).await? {
                0 => self.not_written(&client, id).await,
                _ => Ok(Conditional::Done(())),
            }
        });
        let outcome = outcome.await;
        settle(client, outcome)
    }

    /// Why a write found no row.
    async fn not_written<T>(
        &self,
        client: &impl GenericClient,
        id: i64,
    ) -> Result<Conditional<T>, StoreError> {
        let statement = self.pool.prepare(client, &sql::FIND).await?;
        let there = client.query_one(&statement, &[&id]).await?.try_get(0)?;
        Ok(if there { Conditional::Changed } else { Conditional::Missing })
    }
}

/// Each statement sees what was committed before it, whatever the server's default: names that another transaction has
/// just added must be found.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

/// What the database gave a new post.
#[derive(Debug, Clone, Copy)]
struct Ids {
    post: i64,
    author: i64,
}

/// A lock's number for a key. Two keys with one number would only make one of two requests at once ask again.
fn lock_number(key: &str) -> i64 {
    let mut number = [0; 8];
    number.copy_from_slice(&Sha256::digest(key)[..8]);
    i64::from_be_bytes(number)
}

fn post(row: &Row) -> Result<Post, StoreError> {
    let mut tags: Vec<String> = row.try_get::<_, Option<_>>(8)?.unwrap_or_default();
    // Here, not there: how the database sorts depends on its locale.
    tags.sort_unstable();
    Ok(Post {
        id: row.try_get(0)?,
        title: row.try_get(1)?,
        body: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
        author: Author { id: row.try_get(6)?, name: row.try_get(7)? },
        tags,
        created_at: row.try_get(3)?,
        updated_at: row.try_get(4)?,
        version: row.try_get(5)?,
    })
}
