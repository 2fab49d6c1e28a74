-- AUTOINCREMENT: an id is never used again, so a cached answer for a deleted post can't become another post's.
CREATE TABLE posts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    title      TEXT    NOT NULL CONSTRAINT posts_title CHECK (length(title) BETWEEN 1 AND 200),
    body       TEXT    NOT NULL CONSTRAINT posts_body CHECK (length(CAST(body AS BLOB)) <= 65536),
    created_at INTEGER NOT NULL, -- microseconds since 1970-01-01T00:00:00Z
    updated_at INTEGER NOT NULL, -- microseconds since 1970-01-01T00:00:00Z
    version    INTEGER NOT NULL CHECK (version >= 1)
) STRICT;
