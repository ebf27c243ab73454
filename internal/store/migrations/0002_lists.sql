-- What lists of requests are made from. project repeats what document says.
-- A row of request_digests says where to look and nothing else: what is listed
-- is the sealed document, which must agree. A row that is gone hides a request
-- from the list; the audit log still has it.
ALTER TABLE requests ADD COLUMN project TEXT NOT NULL DEFAULT '';
UPDATE requests SET project = ifnull(json_extract(document, '$.project'), '');

CREATE TABLE request_digests (
  digest     TEXT NOT NULL,
  request_id TEXT NOT NULL REFERENCES requests (id),
  PRIMARY KEY (digest, request_id)
) STRICT, WITHOUT ROWID;
INSERT INTO request_digests (digest, request_id)
  SELECT DISTINCT json_extract(artifact.value, '$.digest'), requests.id FROM requests, json_each(requests.document, '$.artifacts') AS artifact;
INSERT INTO request_digests (digest, request_id)
  SELECT DISTINCT json_extract(document, '$.artifact.digest'), request_id FROM tasks WHERE true ON CONFLICT DO NOTHING;
