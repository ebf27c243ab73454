package scenario

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// TestACommandInAnotherRepositoryOfTheInstallationIsNone: the second repository
// sends its webhooks with the same signature, and its change has the same number.
// olga is nobody here and administers that one; ann could approve here, and does so
// there.
func TestACommandInAnotherRepositoryOfTheInstallationIsNone(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		w.f.person("olga")
		w.submit(honest()).asked() // so that the number is none that everybody has
		r := w.submit(honest())
		r.refused(func(code string) {
			w.f.elsewhere(r.build.pull, r.command("approve", code), "olga", "ann")
			w.commands += 2
		})
		if n := w.became("elsewhere"); n != 2 {
			t.Errorf("%d commands were found to be elsewhere, want 2", n)
		}
		r.approve("ann")
		r.given(1)
		r.approve("bob")
		r.signed()
	})
}

// TestOnePersonOnTwoForgesCountsOnce: the service knows both forges, and the
// configuration whose account here is whose account there. ann decides in a group of
// each of them; luis in one of the other forge only; ben in one of the other forge,
// and nobody has said who he is here.
func TestOnePersonOnTwoForgesCountsOnce(t *testing.T) {
	for name, groups := range map[string]string{
		"two of either":   `- {required: 2, from: ["HERE:acme/release", "THERE:acme/security"]}`,
		"one of each":     `- {required: 1, from: ["HERE:acme/release"]}` + "\n        - " + `{required: 1, from: ["THERE:acme/security"]}`,
		"one of each, up": `- {required: 1, from: ["THERE:acme/security"]}` + "\n        - " + `{required: 1, from: ["HERE:acme/release"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			o := options{
				other: func(w *world) {
					for _, login := range []string{"ann", "luis", "ben"} {
						w.other.person(login)
						w.other.join(login, "security")
					}
					w.f.person("luis")
					w.f.person("ben")
				},
				policy: func(text string) string {
					here, there := "github.test", "gitlab.test"
					if !strings.Contains(text, here+":acme") {
						here, there = there, here
					}
					text = strings.Replace(text, `- {required: 2, from: ["`+here+`:acme/release"]}`, strings.NewReplacer("HERE", here, "THERE", there).Replace(groups), 1)
					return strings.Replace(text, "expires: 24h", "expires: 24h\n      ways: [comment, api]", 1)
				},
				people: func(w *world) (out []approval.Person) {
					for _, login := range []string{"ann", "luis"} {
						out = append(out, approval.Person{
							Name: login, Accounts: []string{w.f.accounts(login), w.other.accounts(login)},
							Identities: []approval.PersonIdentity{{Issuer: w.e.World.People.URL(), Subject: login}},
						})
					}
					return out
				},
			}
			both(t, o, onceOnTwoForges)
		})
	}
}

func onceOnTwoForges(t *testing.T, w *world) {
	r := w.submit(honest())
	r.approve("ann")
	r.given(1)
	q := r.read()
	if fmt.Sprint(q.Approval.Given[0].By) != "ann" || seats(q) != 1 {
		t.Errorf("after ann: %+v, %+v", q.Approval.Given, q.Approval.Groups)
	}
	r.approve("ann") // again, and then as her account of the other forge would
	w.dealt()
	ans := w.s.Post(api.PathRequests+"/"+r.id+"/approve", w.person("ann", signing.Approver), "", `{"code":"`+r.asked()+`"}`)
	if ans.Status >= 500 {
		t.Fatalf("%d %s", ans.Status, ans.Body)
	}
	if q := r.read(); q.State != signing.AwaitingApproval || seats(q) != 1 {
		t.Errorf("ann thrice: %s, %+v", q.State, q.Approval.Groups)
	}
	r.nobody("ben")
	r.unsigned()
	r.approve("luis") // who counts by what he is on the other forge
	r.signed()
}

// seats is how many persons count in all groups together.
func seats(q api.Request) (n int) {
	for _, g := range q.Approval.Groups {
		n += g.Given
	}
	return n
}

// TestWhoTakesTheLoginOfAnApproverIsNobody: bob was named in the question; then he
// renames himself, and another reader of the repository takes his login before
// anybody has approved.
func TestWhoTakesTheLoginOfAnApproverIsNobody(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.asked()
		if q := strings.Join(w.f.ours(r.build.pull), ""); !strings.Contains(q, "@bob") {
			t.Fatalf("bob was not asked: %s", q)
		}
		account := w.f.accounts("bob")
		w.f.rename("bob", "bobby")
		r.nobody("bob")
		r.approve("bobby")
		r.given(1)
		r.nobody("bob")
		r.approve("ann")
		r.signed()
		var approved []string
		for _, ev := range w.s.VerifyLog() {
			if ev.Request == r.id && ev.Kind == audit.RequestApproved {
				approved = append(approved, fmt.Sprint(ev.Attrs))
			}
		}
		_, id, _ := strings.Cut(account, ":")
		if len(approved) != 2 || !strings.Contains(approved[0], id) {
			t.Errorf("the log has %v, the first is by %s", approved, account)
		}
	})
}

// TestThePlainTokenOfGitLabIsNoSignature: both are configured, and GitLab sends
// both. With the token alone a delivery is not even stored.
func TestThePlainTokenOfGitLabIsNoSignature(t *testing.T) {
	w := start(t, newLab, options{})
	r := w.submit(honest())
	command := r.command("approve", r.asked())
	w.f.settle()                        // that of the question comes first
	w.say(r.build.pull, "ann", "hello") // its delivery is what is forged
	w.f.settle()
	before := w.became("stored")
	status := w.f.replay(func(h http.Header, b []byte) (http.Header, []byte) {
		if h.Get("X-Gitlab-Token") != hookSecret || h.Get("Webhook-Signature") == "" {
			t.Fatalf("GitLab sent %v", h)
		}
		for name := range h {
			if strings.HasPrefix(name, "Webhook-") {
				h.Del(name)
			}
		}
		forged := bytes.ReplaceAll(b, []byte("hello"), []byte(command))
		if slices.Equal(forged, b) {
			t.Fatalf("the delivery is %s", b)
		}
		return h, forged
	})
	if status != http.StatusUnauthorized {
		t.Errorf("answered %d", status)
	}
	if n := w.became("stored"); n != before {
		t.Errorf("%d deliveries were stored", n-before)
	}
	r.approve("bob") // whose delivery is signed
	r.given(1)
	if n := w.became("stored"); n != before+1 {
		t.Errorf("%d deliveries were stored of one that is signed", n-before)
	}
	if q := r.read(); q.Approval.Given[0].By != "bob" {
		t.Errorf("%+v", q.Approval.Given)
	}
}
