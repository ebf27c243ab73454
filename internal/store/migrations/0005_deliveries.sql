-- Webhook deliveries of forges, by the digest of what was signed, and comments
-- that were dealt with (name 'comment', no body). body is that of the delivery
-- until it was dealt with, empty after: what stays makes a copy do nothing.
CREATE TABLE deliveries (
  forge    TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  received INTEGER NOT NULL,
  done     INTEGER NOT NULL,
  name     TEXT    NOT NULL,
  guid     TEXT    NOT NULL,
  body     BLOB    NOT NULL,
  mac_key  TEXT    NOT NULL,
  mac      BLOB    NOT NULL,
  PRIMARY KEY (forge, key)
) STRICT;
CREATE INDEX deliveries_done ON deliveries (done) WHERE done > 0;

-- The ids of what was written on the forge about a Request. They are not in its
-- document: a report must never be in the way of who signs.
CREATE TABLE reports (
  request_id TEXT PRIMARY KEY NOT NULL REFERENCES requests (id),
  document   TEXT NOT NULL,
  mac_key    TEXT NOT NULL,
  mac        BLOB NOT NULL
) STRICT;

CREATE INDEX requests_awaiting ON requests (id) WHERE state = 'awaiting_approval';
