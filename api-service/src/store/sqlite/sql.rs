//! Every statement that SQLite is sent while the service serves. Text only.

use crate::store::{
    Filter,
    metrics::{Query, Sql},
};

/// A post's columns in the order in which `post` reads them. A tag holds no comma, so commas part them.
macro_rules! select {
    ($body:literal, $tags:literal, $from:literal) => {
        concat!(
            "SELECT p.id, p.title, CASE WHEN ",
            $body,
            " THEN p.body END, p.created_at, p.updated_at, p.version, p.author_id,
            (SELECT a.name FROM authors a WHERE a.id = p.author_id),
            CASE WHEN ",
            $tags,
            " THEN (SELECT group_concat(t.name) FROM post_tags l CROSS JOIN tags t ON t.id = l.tag_id
                WHERE l.post_id = p.id) END ",
            $from
        )
    };
}

pub(super) const READ: Sql =
    Sql { query: Query::ReadPost, text: select!("TRUE", "TRUE", "FROM posts p WHERE p.id = :id") };

const LIST_ALL: Sql = Sql {
    query: Query::ListPosts,
    text: select!(":body", ":tags", "FROM posts p WHERE p.id < :before ORDER BY p.id DESC LIMIT :limit"),
};

const LIST_BY_AUTHOR: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        ":body",
        ":tags",
        "FROM posts p WHERE p.author_id = :author AND p.id < :before ORDER BY p.id DESC LIMIT :limit"
    ),
};

/// CROSS JOIN is SQLite's way to fix the order, here and below: the tag's posts first, each then looked up.
const LIST_BY_TAG: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        ":body",
        ":tags",
        "FROM post_tags found CROSS JOIN posts p ON p.id = found.post_id
        WHERE found.tag_id = (SELECT id FROM tags WHERE name = :tag) AND found.post_id < :before
        ORDER BY found.post_id DESC LIMIT :limit"
    ),
};

const LIST_BY_TAG_AND_AUTHOR: Sql = Sql {
    query: Query::ListPosts,
    text: select!(
        ":body",
        ":tags",
        "FROM post_tags found CROSS JOIN posts p ON p.id = found.post_id
        WHERE found.tag_id = (SELECT id FROM tags WHERE name = :tag) AND found.author_id = :author
            AND found.post_id < :before
        ORDER BY found.post_id DESC LIMIT :limit"
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

/// Lists come as JSON arrays, since a statement's parameters are single values.
pub(super) const ADD_AUTHOR: Sql = Sql {
    query: Query::AddAuthor,
    text: "INSERT INTO authors (name) VALUES (:name) ON CONFLICT (name) DO NOTHING",
};

pub(super) const ADD_TAGS: Sql = Sql {
    query: Query::AddTags,
    // WHERE, here and in TAG: without it, ON would be read as the join's.
    text: "INSERT INTO tags (name) SELECT value FROM json_each(:tags) WHERE TRUE ON CONFLICT (name) DO NOTHING",
};

pub(super) const INSERT: Sql = Sql {
    query: Query::InsertPost,
    text: "INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
        VALUES (:title, :body, :now, :now, 1, (SELECT id FROM authors WHERE name = :author))
        RETURNING id, author_id",
};

/// The clock never turns back, also when another process' is ahead.
pub(super) const UPDATE: Sql = Sql {
    query: Query::UpdatePost,
    text: "UPDATE posts
        SET title = :title, body = :body, updated_at = max(:now, updated_at), version = version + 1,
            author_id = coalesce((SELECT id FROM authors WHERE name = :author), author_id)
        WHERE id = :id AND (:expected IS NULL OR version IN (SELECT value FROM json_each(:expected)))
        RETURNING created_at, updated_at, version, author_id,
            (SELECT a.name FROM authors a WHERE a.id = author_id)",
};

pub(super) const UNTAG: Sql = Sql {
    query: Query::TagPost,
    text: "DELETE FROM post_tags WHERE post_id = :id AND tag_id NOT IN
        (SELECT t.id FROM json_each(:tags) wanted CROSS JOIN tags t ON t.name = wanted.value)",
};

pub(super) const TAG: Sql = Sql {
    query: Query::TagPost,
    text: "INSERT INTO post_tags (post_id, tag_id, author_id)
        SELECT :id, t.id, :author FROM json_each(:tags) wanted CROSS JOIN tags t ON t.name = wanted.value
        WHERE TRUE ON CONFLICT (post_id, tag_id) DO NOTHING",
};

pub(super) const DELETE: Sql = Sql {
    query: Query::DeletePost,
    text: "DELETE FROM posts
        WHERE id = :id AND (:expected IS NULL OR version IN (SELECT value FROM json_each(:expected)))",
};

pub(super) const FIND: Sql =
    Sql { query: Query::FindPost, text: "SELECT EXISTS (SELECT 1 FROM posts WHERE id = :id)" };

pub(super) const FIND_KEY: Sql = Sql {
    query: Query::FindKey,
    text: "SELECT request, post_id, author_id, created_at FROM idempotency_keys
        WHERE key = :key AND created_at > :end",
};

/// Replaces one that is too old.
pub(super) const NOTE_KEY: Sql = Sql {
    query: Query::NoteKey,
    text: "INSERT OR REPLACE INTO idempotency_keys (key, request, post_id, author_id, created_at)
        VALUES (:key, :request, :post, :author, :now)",
};

pub(super) const FORGET_KEYS: Sql = Sql {
    query: Query::ForgetKeys,
    text: "DELETE FROM idempotency_keys WHERE key IN
        (SELECT key FROM idempotency_keys WHERE created_at <= :end ORDER BY created_at LIMIT :count)",
};

pub(super) const PING: Sql = Sql { query: Query::Ping, text: "SELECT 1" };
