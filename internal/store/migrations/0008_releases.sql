-- For the last release of a project, by rowid, which every index ends with.
CREATE INDEX requests_completed ON requests (project) WHERE state = 'completed';
