-- Beside the release before: it names none of these columns, so each has a default, and its deletes cascade.
CREATE TABLE authors (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE CONSTRAINT authors_name CHECK (length(name) BETWEEN 1 AND 80)
) STRICT;
-- The author of posts that name none; posts.author_id has its id as default.
INSERT INTO authors (id, name) VALUES (1, 'anonymous');

CREATE TABLE tags (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
        CONSTRAINT tags_name CHECK (length(name) BETWEEN 1 AND 40 AND name NOT GLOB '*[^a-z0-9-]*')
) STRICT;

ALTER TABLE posts ADD COLUMN author_id INTEGER NOT NULL DEFAULT 1 REFERENCES authors (id);
-- For the posts of an author, newest first; unique, so that post_tags can refer to both columns.
CREATE UNIQUE INDEX posts_by_author ON posts (author_id, id);

-- author_id is a copy, which the foreign key keeps right: posts of an author with a tag are then one range of an index.
CREATE TABLE post_tags (
    post_id   INTEGER NOT NULL,
    tag_id    INTEGER NOT NULL REFERENCES tags (id),
    author_id INTEGER NOT NULL,
    PRIMARY KEY (post_id, tag_id),
    FOREIGN KEY (author_id, post_id) REFERENCES posts (author_id, id) ON UPDATE CASCADE ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX post_tags_by_tag ON post_tags (tag_id, post_id);
CREATE INDEX post_tags_by_tag_and_author ON post_tags (tag_id, author_id, post_id);

-- The post's text is not kept: a request is only answered again when it holds the same text.
CREATE TABLE idempotency_keys (
    key        TEXT    PRIMARY KEY,
    request    BLOB    NOT NULL, -- SHA-256 of the content
    post_id    INTEGER NOT NULL, -- no reference: the answer stays the same when the post is deleted
    author_id  INTEGER NOT NULL,
    created_at INTEGER NOT NULL  -- microseconds since 1970-01-01T00:00:00Z; the post's too
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
