-- Times are nanoseconds since 1970 UTC, 0 for none. mac_key names the secret
-- under which mac was made. state, version, deadline, prepared and intent repeat
-- what document says, for conditional updates and indexes; loads compare them.

CREATE TABLE requests (
  id       TEXT    PRIMARY KEY NOT NULL,
  state    TEXT    NOT NULL,
  version  INTEGER NOT NULL,
  deadline INTEGER NOT NULL,
  document TEXT    NOT NULL,
  mac_key  TEXT    NOT NULL,
  mac      BLOB    NOT NULL
) STRICT;
CREATE INDEX requests_undecided ON requests (deadline) WHERE state IN ('pending', 'awaiting_approval', 'ready');

-- A Task's id is REQUEST_ID.N.
CREATE TABLE tasks (
  request_id TEXT    NOT NULL REFERENCES requests (id),
  n          INTEGER NOT NULL,
  state      TEXT    NOT NULL,
  version    INTEGER NOT NULL,
  prepared   INTEGER NOT NULL,
  intent     TEXT    NOT NULL,
  document   TEXT    NOT NULL,
  mac_key    TEXT    NOT NULL,
  mac        BLOB    NOT NULL,
  PRIMARY KEY (request_id, n)
) STRICT;
CREATE INDEX tasks_prepared ON tasks (prepared) WHERE state = 'prepared';

-- The one envelope that an intent ever gets. Rows are never changed or deleted.
CREATE TABLE envelopes (
  task     TEXT NOT NULL,
  intent   TEXT NOT NULL,
  envelope TEXT NOT NULL,
  PRIMARY KEY (task, intent)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
  task    TEXT    NOT NULL,
  n       INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  key     TEXT    NOT NULL,
  intent  TEXT    NOT NULL,
  fence   INTEGER NOT NULL,
  mac_key TEXT    NOT NULL,
  mac     BLOB    NOT NULL,
  PRIMARY KEY (task, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  scope      TEXT NOT NULL,
  key        TEXT NOT NULL,
  request_id TEXT NOT NULL REFERENCES requests (id),
  mac_key    TEXT NOT NULL,
  mac        BLOB NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE replays (
  key     TEXT    PRIMARY KEY NOT NULL,
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_expires ON replays (expires);

CREATE TABLE capabilities (
  request_id TEXT PRIMARY KEY NOT NULL REFERENCES requests (id),
  hash       BLOB NOT NULL,
  mac_key    TEXT NOT NULL,
  mac        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE generation (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  n       INTEGER NOT NULL,
  digest  TEXT    NOT NULL,
  mac_key TEXT    NOT NULL,
  mac     BLOB    NOT NULL
) STRICT;

-- One counter for every job and lease, so that a fencing number never comes
-- twice, whatever rows are deleted and made again.
CREATE TABLE fences (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  n  INTEGER NOT NULL
) STRICT;
INSERT INTO fences (id, n) VALUES (1, 0);

-- due is when a job may be claimed: its time to run, or the end of its lease.
-- owner is empty while nobody holds it. again is when it is to run once more,
-- asked for while somebody held it.
CREATE TABLE jobs (
  kind  TEXT    NOT NULL,
  ref   TEXT    NOT NULL,
  due   INTEGER NOT NULL,
  again INTEGER NOT NULL DEFAULT 0,
  owner TEXT    NOT NULL DEFAULT '',
  fence INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, ref)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs (kind, due);

CREATE TABLE leases (
  name  TEXT    PRIMARY KEY NOT NULL,
  owner TEXT    NOT NULL,
  fence INTEGER NOT NULL,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- seq has no gaps. leaf is the index in the Merkle log, NULL until sequenced.
CREATE TABLE events (
  seq     INTEGER PRIMARY KEY,
  at      INTEGER NOT NULL,
  body    TEXT    NOT NULL,
  mac_key TEXT    NOT NULL,
  mac     BLOB    NOT NULL,
  leaf    INTEGER
) STRICT;
CREATE UNIQUE INDEX events_leaf ON events (leaf) WHERE leaf IS NOT NULL;

-- Complete subtrees only; level 0 holds the leaf hashes.
CREATE TABLE nodes (
  level INTEGER NOT NULL,
  idx   INTEGER NOT NULL,
  hash  BLOB    NOT NULL,
  PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;

-- seq is the last event that has a leaf.
CREATE TABLE log_head (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  size    INTEGER NOT NULL,
  seq     INTEGER NOT NULL,
  root    BLOB    NOT NULL,
  mac_key TEXT    NOT NULL,
  mac     BLOB    NOT NULL
) STRICT;

CREATE TABLE checkpoints (
  size INTEGER PRIMARY KEY,
  at   INTEGER NOT NULL,
  note BLOB    NOT NULL
) STRICT;
