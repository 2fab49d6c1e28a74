-- ALWAYS AS IDENTITY: an id is never used again, so a cached answer for a deleted post can't become another post's.
CREATE TABLE posts (
    id         BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title      TEXT        NOT NULL CONSTRAINT posts_title CHECK (char_length(title) BETWEEN 1 AND 200),
    body       TEXT        NOT NULL CONSTRAINT posts_body CHECK (octet_length(body) <= 65536),
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    version    BIGINT      NOT NULL CHECK (version >= 1)
);
