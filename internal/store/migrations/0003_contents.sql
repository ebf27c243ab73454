-- What a job that publishes itself uploaded: manifests and image configurations,
-- by digest. They are held against it whenever they are read, so they need no
-- HMAC. artifact is 1 for what the Request names itself.
CREATE TABLE contents (
  request_id TEXT    NOT NULL REFERENCES requests (id),
  digest     TEXT    NOT NULL,
  artifact   INTEGER NOT NULL,
  content    BLOB    NOT NULL,
  PRIMARY KEY (request_id, digest)
) STRICT;
