package store

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxOfRun bounds the Requests of one run that are looked at: more than one for
	// each job of the largest matrix.
	maxOfRun = 300
	// maxOfRef bounds the waiting Requests of one ref that are looked at.
	maxOfRef = 300
	// maxReleases is how many Requests are looked through for the last release of an
	// image, or for those of a repository.
	maxReleases = 5000
)

// OfRun returns the Requests whose idempotency scope begins with the given text
// and a line end: those of a run, with all of its attempts. The index says where to
// look; every Request is opened as Request does.
func (tx *Tx) OfRun(run string) ([]*signing.Request, error) {
	ids, err := tx.ids("SELECT DISTINCT request_id FROM idempotency WHERE scope >= ? AND scope < ? LIMIT ?", run+"\n", run+"\v", maxOfRun)
	if err != nil {
		return nil, err
	}
	out, err := tx.Requests(ids)
	if err != nil {
		return nil, err
	}
	same := out[:0]
	for _, r := range out {
		if r.Identity.Issuer+"\n"+r.Origin.SourceRepositoryIdentifier+"\n"+r.Origin.RunID == run {
			same = append(same, r)
		}
	}
	return same, nil
}

// OfRepository returns the newest Requests of a repository that were submitted
// since and decided, the last submitted first: at most n, of those among the last ones.
func (tx *Tx) OfRepository(forge, repositoryID string, since time.Time, n int) ([]*signing.Request, error) {
	ids, err := tx.ids(`SELECT id FROM (SELECT id, rowid AS n, document FROM requests ORDER BY rowid DESC LIMIT ?) WHERE json_extract(document, '$.origin.forge') = ? AND
		json_extract(document, '$.origin.sourceRepositoryIdentifier') = ? AND json_extract(document, '$.decision') IS NOT NULL ORDER BY n DESC LIMIT ?`, maxReleases, forge, repositoryID, n)
	if err != nil {
		return nil, err
	}
	all, err := tx.Requests(ids)
	if err != nil {
		return nil, err
	}
	out := all[:0]
	for _, r := range all {
		if r.Origin.Forge == forge && r.Origin.SourceRepositoryIdentifier == repositoryID && r.Decision != nil && !r.Submitted.Before(since) {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b *signing.Request) int { return b.Submitted.Compare(a.Submitted) })
	return out, nil
}

// AwaitingOf returns the Requests that wait for people, of a ref of a repository
// and under a policy.
func (tx *Tx) AwaitingOf(forge, repositoryID, ref, policy string) ([]*signing.Request, error) {
	ids, err := tx.ids(`SELECT id FROM requests WHERE state = 'awaiting_approval' AND json_extract(document, '$.origin.forge') = ? AND
		json_extract(document, '$.origin.sourceRepositoryIdentifier') = ? AND json_extract(document, '$.origin.sourceRepositoryRef') = ? AND json_extract(document, '$.policy') = ? LIMIT ?`,
		forge, repositoryID, ref, policy, maxOfRef)
	if err != nil {
		return nil, err
	}
	return tx.Requests(ids)
}

// LastRelease returns the newest Request of a project that was completed before r
// was submitted and signed something in one of the repositories of r; NotFound if
// there is none among the last ones.
func (tx *Tx) LastRelease(r *signing.Request) (*signing.Request, error) {
	var repositories []string
	for _, a := range r.Artifacts {
		repositories = append(repositories, string(a.Repository))
	}
	raw, err := json.Marshal(repositories)
	if err != nil {
		return nil, err
	}
	ids, err := tx.ids(`SELECT id FROM (SELECT id, rowid AS n, document FROM requests WHERE rowid < (SELECT rowid FROM requests WHERE id = ?) AND state = 'completed' AND project = ? ORDER BY rowid DESC LIMIT ?)
		WHERE EXISTS (SELECT 1 FROM json_each(document, '$.artifacts') AS a WHERE json_extract(a.value, '$.repository') IN (SELECT value FROM json_each(?))) ORDER BY n DESC LIMIT 1`,
		r.ID, r.Project, maxReleases, string(raw))
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no earlier release of " + strings.Join(repositories, ", ")}
	}
	return tx.Request(ids[0])
}

// EnqueueAwaiting makes a job of a kind, due now, for every Request that waits for
// people.
func (tx *Tx) EnqueueAwaiting(kind string) error {
	if err := tx.flush(); err != nil {
		return err
	}
	_, err := tx.exec(`INSERT INTO jobs (kind, ref, due) SELECT ?, id, ? FROM requests WHERE state = 'awaiting_approval' ON CONFLICT DO UPDATE SET
		due = CASE owner WHEN '' THEN min(due, excluded.due) ELSE due END,
		again = CASE WHEN owner = '' THEN 0 WHEN again = 0 THEN excluded.due ELSE min(again, excluded.due) END`, kind, nanos(tx.now))
	return err
}
