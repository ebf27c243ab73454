-- What the service has bound a tag to, in a role of a repository, and by which
-- Request: what it may sign again without asking anybody.
CREATE TABLE trust_entries (
  gun        TEXT    NOT NULL,
  role       TEXT    NOT NULL,
  tag        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  size       INTEGER NOT NULL,
  request_id TEXT    NOT NULL REFERENCES requests (id),
  at         INTEGER NOT NULL,
  mac_key    TEXT    NOT NULL,
  mac        BLOB    NOT NULL,
  PRIMARY KEY (gun, role, tag)
) STRICT, WITHOUT ROWID;
