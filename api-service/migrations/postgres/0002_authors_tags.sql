-- Beside the release before: it names none of these columns, so each has a default, and its deletes cascade.
CREATE TABLE authors (
    id   BIGINT GENERATED ALWAYS AS IDENTITY (START WITH 2) PRIMARY KEY,
    name TEXT   NOT NULL UNIQUE CONSTRAINT authors_name CHECK (char_length(name) BETWEEN 1 AND 80)
);
-- The author of posts that name none; posts.author_id has its id as default.
INSERT INTO authors (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'anonymous');

CREATE TABLE tags (
    id   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT   NOT NULL UNIQUE CONSTRAINT tags_name CHECK (name ~ '^[a-z0-9-]{1,40}$')
);

-- A constant default: no row is rewritten.
ALTER TABLE posts ADD COLUMN author_id BIGINT NOT NULL DEFAULT 1 REFERENCES authors (id);
-- For the posts of an author, newest first; unique, so that post_tags can refer to both columns.
CREATE UNIQUE INDEX posts_by_author ON posts (author_id, id);

-- author_id is a copy, which the foreign key keeps right: posts of an author with a tag are then one range of an index.
CREATE TABLE post_tags (
    post_id   BIGINT NOT NULL,
    tag_id    BIGINT NOT NULL REFERENCES tags (id),
    author_id BIGINT NOT NULL,
    PRIMARY KEY (post_id, tag_id),
    FOREIGN KEY (author_id, post_id) REFERENCES posts (author_id, id) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX post_tags_by_tag ON post_tags (tag_id, post_id);
CREATE INDEX post_tags_by_tag_and_author ON post_tags (tag_id, author_id, post_id);

-- The post's text is not kept: a request is only answered again when it holds the same text.
CREATE TABLE idempotency_keys (
    key        TEXT        PRIMARY KEY,
    request    BYTEA       NOT NULL, -- SHA-256 of the content
    post_id    BIGINT      NOT NULL, -- no reference: the answer stays the same when the post is deleted
    author_id  BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL  -- the post's too
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
