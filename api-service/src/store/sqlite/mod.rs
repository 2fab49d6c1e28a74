//! Posts in SQLite: one writer and a few readers, each a connection used on a blocking thread. Never on the event loop.

mod lane;
mod migrate;
mod sql;
#[cfg(test)]
mod tests;

use std::{num::NonZero, path::Path};

use jiff::Timestamp;
use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, named_params, types::Type,
};

use self::lane::{Lane, prepare};
use super::{
    Columns, Conditional, Created, Filter, Limits, OLD_KEYS_PER_WRITE, Once, StoreError, StoreMetrics,
    keys_end, metrics::Usage,
};
use crate::post::{Author, Content, Post};

/// Posts in a file or in memory.
#[derive(Debug)]
pub struct Sqlite {
    writer: Lane,
    /// Absent in memory: the one connection is the database, so reads take turns with writes.
    readers: Option<Lane>,
}

impl Sqlite {
    /// Posts in a file, made on first use; read over as many connections as `limits` say, written over one.
    pub(super) fn file(path: &Path, limits: &Limits, metrics: &StoreMetrics) -> Self {
        let lane = |name, limits: &Limits| Lane::new(name, Some(path.to_owned()), limits, metrics);
        Self { writer: lane("writer", &one_of(limits)), readers: Some(lane("readers", limits)) }
    }

    /// Posts in memory.
    pub(super) fn memory(limits: &Limits, metrics: &StoreMetrics) -> Self {
        Self { writer: Lane::new("writer", None, &one_of(limits), metrics), readers: None }
    }

    pub(super) fn usage(&self) -> impl Fn() -> Vec<Usage> + Send + Sync + 'static {
        let lanes: Vec<_> = std::iter::once(self.writer.clone()).chain(self.readers.clone()).collect();
        move || lanes.iter().map(Lane::usage).collect()
    }

    fn readers(&self) -> &Lane {
        self.readers.as_ref().unwrap_or(&self.writer)
    }

    /// Rows of a table.
    #[cfg(test)]
    pub(super) async fn count(&self, table: &str) -> i64 {
        let text = format!("SELECT count(*) FROM {table}");
        self.writer.run(move |connection, _| connection.query_row(&text, [], |row| row.get(0))).await.unwrap()
    }

    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        self.writer.run(|connection, _| migrate::migrate(connection)).await
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.readers()
            .run(|connection, metrics| prepare(connection, metrics, &sql::PING)?.query_row([], |_| Ok(())))
            .await
    }

    pub(super) async fn create(
        &self,
        content: Content,
        once: Option<Once>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        self.writer
            .run(move |connection, metrics| {
                let transaction = begin(connection)?;
                let created = create(&transaction, metrics, content, once.as_ref(), now)?;
                transaction.commit()?;
                Ok(created)
            })
            .await
    }

    pub(super) async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        self.readers()
            .run(move |connection, metrics| {
                let mut statement = prepare(connection, metrics, &sql::READ)?;
                statement.query_row(named_params! { ":id": id }, post).optional()
            })
            .await
    }

    pub(super) async fn list(
        &self,
        filter: &Filter,
        before: i64,
        limit: u32,
        columns: Columns,
    ) -> Result<Vec<Post>, StoreError> {
        let filter = filter.clone();
        self.readers()
            .run(move |connection, metrics| {
                let Columns { body, tags } = columns;
                let mut parameters: Vec<(&str, &dyn ToSql)> =
                    vec![(":before", &before), (":limit", &limit), (":body", &body), (":tags", &tags)];
                parameters.extend(filter.author.as_ref().map(|id| (":author", id as &dyn ToSql)));
                parameters.extend(filter.tag.as_ref().map(|tag| (":tag", tag as &dyn ToSql)));
                let mut statement = prepare(connection, metrics, sql::list(&filter))?;
                statement.query_map(parameters.as_slice(), post)?.collect()
            })
            .await
    }

    pub(super) async fn replace(
        &self,
        id: i64,
        content: Content,
        expected: Option<Vec<i64>>,
        now: Timestamp,
    ) -> Result<Conditional<Post>, StoreError> {
        self.writer
            .run(move |connection, metrics| {
                let transaction = begin(connection)?;
                let expected = expected.map(|versions| json(&versions));
                let replaced = replace(&transaction, metrics, id, content, expected.as_deref(), now)?;
                transaction.commit()?;
                Ok(replaced)
            })
            .await
    }

    pub(super) async fn delete(
        &self,
        id: i64,
        expected: Option<Vec<i64>>,
    ) -> Result<Conditional<()>, StoreError> {
        self.writer
            .run(move |connection, metrics| {
                let transaction = begin(connection)?;
                let expected = expected.map(|versions| json(&versions));
                let deleted = prepare(&transaction, metrics, &sql::DELETE)?
                    .execute(named_params! { ":id": id, ":expected": expected })?;
                let outcome = match deleted {
                    0 => not_written(&transaction, metrics, id)?,
                    _ => Conditional::Done(()),
                };
                transaction.commit()?;
                Ok(outcome)
            })
            .await
    }
}

/// The same limits with a single connection.
fn one_of(limits: &Limits) -> Limits {
    Limits { connections: NonZero::<usize>::MIN, ..*limits }
}

/// Takes the write lock at once: a transaction that begins by reading could not wait for it later.
fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn create(
    transaction: &Transaction,
    metrics: &StoreMetrics,
    content: Content,
    once: Option<&Once>,
    now: Timestamp,
) -> rusqlite::Result<Created> {
    if let Some(once) = once
        && let Some(answer) = answered(transaction, metrics, &content, once, now)?
    {
        return Ok(answer);
    }
    let author = content.author_or_anonymous();
    prepare(transaction, metrics, &sql::ADD_AUTHOR)?.execute(named_params! { ":name": author })?;
    let parameters = named_params! {
        ":title": content.title, ":body": content.body, ":author": author, ":now": now.as_microsecond(),
    };
    let (id, author) = prepare(transaction, metrics, &sql::INSERT)?
        .query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
    tag(transaction, metrics, id, author, &content.tags)?;
    if let Some(once) = once {
        let parameters =
            named_params! { ":end": keys_end(now).as_microsecond(), ":count": OLD_KEYS_PER_WRITE };
        prepare(transaction, metrics, &sql::FORGET_KEYS)?.execute(parameters)?;
        let parameters = named_params! {
            ":key": once.key, ":request": once.request, ":post": id, ":author": author,
            ":now": now.as_microsecond(),
        };
        prepare(transaction, metrics, &sql::NOTE_KEY)?.execute(parameters)?;
    }
    Ok(Created::New(content.into_post(id, author, now)))
}

/// What to answer without adding anything, because of the key; nothing when the request is the first with it. Never
/// that it is being worked on: writes take turns.
fn answered(
    transaction: &Transaction,
    metrics: &StoreMetrics,
    content: &Content,
    once: &Once,
    now: Timestamp,
) -> rusqlite::Result<Option<Created>> {
    let parameters = named_params! { ":key": once.key, ":end": keys_end(now).as_microsecond() };
    prepare(transaction, metrics, &sql::FIND_KEY)?
        .query_row(parameters, |row| {
            if row.get_ref(0)?.as_blob()? != once.request {
                return Ok(Created::KeyOfAnother);
            }
            let post = content.clone().into_post(row.get(1)?, row.get(2)?, timestamp(row, 3)?);
            Ok(Created::Again(post))
        })
        .optional()
}

fn replace(
    transaction: &Transaction,
    metrics: &StoreMetrics,
    id: i64,
    content: Content,
    expected: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<Conditional<Post>> {
    if let Some(author) = &content.author {
        prepare(transaction, metrics, &sql::ADD_AUTHOR)?.execute(named_params! { ":name": author })?;
    }
    let parameters = named_params! {
        ":id": id, ":title": content.title, ":body": content.body, ":author": content.author,
        ":expected": expected, ":now": now.as_microsecond(),
    };
    let written = prepare(transaction, metrics, &sql::UPDATE)?
        .query_row(parameters, |row| {
            let author = Author { id: row.get(3)?, name: row.get(4)? };
            Ok((timestamp(row, 0)?, timestamp(row, 1)?, row.get(2)?, author))
        })
        .optional()?;
    let Some((created_at, updated_at, version, author)) = written else {
        return not_written(transaction, metrics, id);
    };
    let parameters = named_params! { ":id": id, ":tags": json(&content.tags) };
    prepare(transaction, metrics, &sql::UNTAG)?.execute(parameters)?;
    tag(transaction, metrics, id, author.id, &content.tags)?;
    let Content { title, body, author: _, tags } = content;
    Ok(Conditional::Done(Post { id, title, body, author, tags, created_at, updated_at, version }))
}

/// Adds tags to a post, and those that are new to the tags.
fn tag(
    transaction: &Transaction,
    metrics: &StoreMetrics,
    id: i64,
    author: i64,
    tags: &[String],
) -> rusqlite::Result<()> {
    if tags.is_empty() {
        return Ok(());
    }
    let tags = json(tags);
    prepare(transaction, metrics, &sql::ADD_TAGS)?.execute(named_params! { ":tags": tags })?;
    let parameters = named_params! { ":id": id, ":author": author, ":tags": tags };
    prepare(transaction, metrics, &sql::TAG)?.execute(parameters)?;
    Ok(())
}

/// Why a write found no row.
fn not_written<T>(
    transaction: &Transaction,
    metrics: &StoreMetrics,
    id: i64,
) -> rusqlite::Result<Conditional<T>> {
    let there = prepare(transaction, metrics, &sql::FIND)?
        .query_row(named_params! { ":id": id }, |row| row.get(0))?;
    Ok(if there { Conditional::Changed } else { Conditional::Missing })
}

fn post(row: &Row) -> rusqlite::Result<Post> {
    let tags = row.get_ref(8)?.as_str_or_null()?.unwrap_or_default();
    let mut tags: Vec<_> = tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    tags.sort_unstable();
    Ok(Post {
        id: row.get(0)?,
        title: row.get(1)?,
        body: row.get::<_, Option<_>>(2)?.unwrap_or_default(),
        author: Author { id: row.get(6)?, name: row.get(7)? },
        tags,
        created_at: timestamp(row, 3)?,
        updated_at: timestamp(row, 4)?,
        version: row.get(5)?,
    })
}

fn timestamp(row: &Row, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}

/// A list as one parameter.
fn json<T: serde::Serialize>(list: &[T]) -> String {
    // Numbers and text cannot fail to become JSON.
    serde_json::to_string(list).unwrap_or_default()
}
