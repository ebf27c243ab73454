-- The highest version of Docker Content Trust metadata that was seen, for each
-- repository (GUN) and role: an older one is a rollback.
CREATE TABLE trust_versions (
  gun     TEXT    NOT NULL,
  role    TEXT    NOT NULL,
  version INTEGER NOT NULL,
  digest  TEXT    NOT NULL,
  mac_key TEXT    NOT NULL,
  mac     BLOB    NOT NULL,
  PRIMARY KEY (gun, role)
) STRICT, WITHOUT ROWID;

-- Simple signatures that the service serves itself, by what they are about,
-- "registry.acme.dev/payments/web@sha256=<hex>", numbered from 1 without gaps.
CREATE TABLE lookaside (
  path      TEXT    NOT NULL,
  n         INTEGER NOT NULL,
  digest    TEXT    NOT NULL,
  signature BLOB    NOT NULL,
  PRIMARY KEY (path, n),
  UNIQUE (path, digest)
) STRICT;
