//! Every statement that Postgres is sent while the service serves. Text only.

use crate::store::{
    Filter,
    metrics::{Query, Sql},
};

/// A post's columns in the order in which `post` reads them. Author and tags come by subqueries, so that whatever the
/// planner expects it can only look them up by their keys, and only for the rows that are answered.
macro_rules! select {
    ($body:literal, $tags:literal, $from:literal) => {
        concat!(
            "SELECT p.id, p.title, CASE WHEN ",
            $body,
            " THEN p.body END, p.created_at, p.updated_at, p.version, p.author_id,
            (SELECT a.name FROM authors a WHERE a.id = p.author_id),
            CASE WHEN ",
            $tags,
            " THEN ARRAY(SELECT t.name FROM post_tags l JOIN tags t ON t.id = l.tag_id WHERE l.post_id = p.id) END ",
            $from
        )
    };
}

/// $1: the id.
pub(super) const READ: Sql =
    Sql { query: Query::ReadPost, text: select!("true", "true", "FROM posts p WHERE p.id = $1") };

/// $1: the id to start below, $2: how many, $3: with the body, $4: with tags.
const LIST_ALL: Sql = Sql {
    query: Query::ListPosts,
    text: select!("$3", "$4", "FROM posts p WHERE p.id < $1 ORDER BY p.id DESC LIMIT $2"),
};

/// As [`LIST_ALL`]; $5: the author's id.
const LIST_BY_AUTHOR: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        "$3",
        "$4",
        "FROM posts p WHERE p.author_id = $5 AND p.id < $1 ORDER BY p.id DESC LIMIT $2"
    ),
};

/// As [`LIST_ALL`]; $5: the tag. The page's ids are cut before the posts are looked up.
///
/// Where the planner must plan for any $2 it expects a tenth of the tag's posts, and would sort them all, then read the
/// whole table to join them. So it is told that they are never many (no page has 1000), and each post is looked up by a
/// subquery whose limit keeps it from becoming a join.
const LIST_BY_TAG: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        "$3",
        "$4",
        "FROM (SELECT post_id FROM (SELECT post_id FROM post_tags
                WHERE tag_id = (SELECT id FROM tags WHERE name = $5) AND post_id < $1
                ORDER BY post_id DESC LIMIT 1000) most
            ORDER BY post_id DESC LIMIT $2) found
        CROSS JOIN LATERAL (SELECT * FROM posts WHERE id = found.post_id LIMIT 1) p ORDER BY found.post_id DESC"
    ),
};

/// As [`LIST_ALL`]; $5: the tag, $6: the author's id.
const LIST_BY_TAG_AND_AUTHOR: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        "$3",
        "$4",
        "FROM (SELECT post_id FROM (SELECT post_id FROM post_tags
                WHERE tag_id = (SELECT id FROM tags WHERE name = $5) AND author_id = $6 AND post_id < $1
                ORDER BY post_id DESC LIMIT 1000) most
            ORDER BY post_id DESC LIMIT $2) found
        CROSS JOIN LATERAL (SELECT * FROM posts WHERE id = found.post_id LIMIT 1) p ORDER BY found.post_id DESC"
    ),
};

/// The statement for a list with this filter.
pub(super) fn list(filter: &Filter) -> &'static Sql {
    match (filter.author, &filter.tag) {
        (None, None) => &LIST_ALL,
        (Some(_), None) => &LIST_BY_AUTHOR,
        (None, Some(_)) => &LIST_BY_TAG,
        (Some(_), Some(_)) => &LIST_BY_TAG_AND_AUTHOR,
    }
}

/// $1: title, $2: body, $3: now, $4: the author's name, $5: tags. No row when the author or a tag is not there yet.
pub(super) const INSERT: Sql = Sql {
    query: Query::InsertPost,
    text: "WITH author AS (SELECT id FROM authors WHERE name = $4),
        wanted AS (SELECT id FROM tags WHERE name = ANY ($5::text[])),
        post AS (
            INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
            SELECT $1::text, $2::text, $3::timestamptz, $3, 1, author.id FROM author
            WHERE (SELECT count(*) FROM wanted) = cardinality($5)
            RETURNING id, author_id),
        tagged AS (
            INSERT INTO post_tags (post_id, tag_id, author_id)
            SELECT post.id, wanted.id, post.author_id FROM post, wanted)
        SELECT id, author_id FROM post",
};

/// $1: the name. A name that is there costs no number of the sequence.
pub(super) const ADD_AUTHOR: Sql = Sql {
    query: Query::AddAuthor,
    text: "INSERT INTO authors (name)
        SELECT $1::text WHERE NOT EXISTS (SELECT FROM authors WHERE name = $1)
        ON CONFLICT (name) DO NOTHING",
};

/// $1: the names. In their order, so that two transactions that add the same tags wait for one another, and never
/// each for the other.
pub(super) const ADD_TAGS: Sql = Sql {
    query: Query::AddTags,
    text: "INSERT INTO tags (name)
        SELECT wanted.name FROM unnest($1::text[]) AS wanted (name)
        WHERE NOT EXISTS (SELECT FROM tags WHERE tags.name = wanted.name) ORDER BY wanted.name
        ON CONFLICT (name) DO NOTHING",
};

/// $1: the id, $2: title, $3: body, $4: now, $5: the author's name or null, $6: the versions expected or null. Locks the
/// row. The clock never turns back, also when this replica's is behind.
pub(super) const UPDATE: Sql = Sql {
    query: Query::UpdatePost,
    text: "UPDATE posts
        SET title = $2, body = $3, updated_at = greatest($4, updated_at), version = version + 1,
            author_id = coalesce((SELECT id FROM authors WHERE name = $5), author_id)
        WHERE id = $1 AND ($6::bigint[] IS NULL OR version = ANY ($6))
        RETURNING created_at, updated_at, version, author_id,
            (SELECT a.name FROM authors a WHERE a.id = posts.author_id)",
};

/// $1: the id, $2: the author's id, $3: tags. Gives whether all of the tags are there. A statement of its own after
/// [`UPDATE`]: it must see what a write that held the row before has done.
pub(super) const TAG: Sql = Sql {
    query: Query::TagPost,
    text: "WITH wanted AS (SELECT id FROM tags WHERE name = ANY ($3::text[])),
        removed AS (
            DELETE FROM post_tags WHERE post_id = $1 AND tag_id NOT IN (SELECT id FROM wanted)),
        added AS (
            INSERT INTO post_tags (post_id, tag_id, author_id) SELECT $1, id, $2 FROM wanted
            ON CONFLICT (post_id, tag_id) DO NOTHING)
        SELECT count(*) = cardinality($3) FROM wanted",
};

/// $1: the id, $2: the versions expected or null.
pub(super) const DELETE: Sql = Sql {
    query: Query::DeletePost,
    text: "DELETE FROM posts WHERE id = $1 AND ($2::bigint[] IS NULL OR version = ANY ($2))",
};

/// $1: the id.
pub(super) const FIND: Sql =
    Sql { query: Query::FindPost, text: "SELECT EXISTS (SELECT FROM posts WHERE id = $1)" };

/// $1: the key's number. Held to the end of the transaction; false at once when another holds it.
pub(super) const LOCK_KEY: Sql = Sql { query: Query::FindKey, text: "SELECT pg_try_advisory_xact_lock($1)" };

/// $1: the key, $2: the time up to which keys are too old.
pub(super) const FIND_KEY: Sql = Sql {
    query: Query::FindKey,
    text: "SELECT request, post_id, author_id, created_at FROM idempotency_keys
        WHERE key = $1 AND created_at > $2",
};

/// $1: the key, $2: the request's digest, $3: the post's id, $4: the author's id, $5: now. Replaces one that is too old.
pub(super) const NOTE_KEY: Sql = Sql {
    query: Query::NoteKey,
    text: "INSERT INTO idempotency_keys (key, request, post_id, author_id, created_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (key) DO UPDATE SET request = excluded.request, post_id = excluded.post_id,
            author_id = excluded.author_id, created_at = excluded.created_at",
};

/// $1: the time up to which keys are too old, $2: how many at most. Leaves those that another write is removing.
/// An array, so that whatever the planner expects, the keys are looked up by their index.
pub(super) const FORGET_KEYS: Sql = Sql {
    query: Query::ForgetKeys,
    text: "DELETE FROM idempotency_keys WHERE key = ANY (ARRAY (
        SELECT key FROM idempotency_keys WHERE created_at <= $1
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
};

/// What the server keeps for superusers and for those with `pg_use_reserved_connections` is not to be had; a limit of the
/// user's or of the database's own may be lower.
pub(super) const SERVER_CONNECTIONS: Sql = Sql {
    query: Query::ServerConnections,
    text: "SELECT LEAST(
            current_setting('max_connections')::bigint
                - current_setting('superuser_reserved_connections')::bigint
                - COALESCE(current_setting('reserved_connections', true)::bigint, 0),
            (SELECT NULLIF(rolconnlimit, -1)::bigint FROM pg_roles WHERE rolname = current_user),
            (SELECT NULLIF(datconnlimit, -1)::bigint FROM pg_database WHERE datname = current_database())),
        (SELECT COALESCE(sum(numbackends), 0)::bigint FROM pg_stat_database)",
};

pub(super) const PING: Sql = Sql { query: Query::Ping, text: "SELECT 1" };
