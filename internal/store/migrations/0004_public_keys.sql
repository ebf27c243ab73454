-- Public halves of the keys that this service ever had: evidence about old
-- signatures needs them when the keys file has forgotten them. A version is the
-- digest of its key, so that a row vouches for itself. The digest is that of the
-- document: a renewed certificate makes another row.
CREATE TABLE public_keys (
  id       TEXT NOT NULL,
  version  TEXT NOT NULL,
  digest   TEXT NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (id, version, digest)
) STRICT, WITHOUT ROWID;
