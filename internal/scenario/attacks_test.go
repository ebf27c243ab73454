package scenario

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/signing"
)

// nobody demands that what each of logins says counts for nothing, and that two
// others still can approve.
func (r *request) nobody(logins ...string) {
	r.w.t.Helper()
	for _, login := range logins {
		r.refused(func(code string) { r.w.say(r.build.pull, login, r.command("approve", code)) })
	}
}

func TestWhoMadeItMayNotApprove(t *testing.T) {
	for name, c := range map[string]struct {
		change change
		who    string
	}{
		"the author":                  {change{by: "wanda", merger: "mia", starts: "mia"}, "wanda"},
		"the author of a commit":      {change{by: "wanda", authors: []string{"wanda", "dan"}, merger: "mia", starts: "mia"}, "dan"},
		"who started the run":         {change{by: "wanda", merger: "mia", starts: "dan"}, "dan"},
		"who started it again":        {change{by: "wanda", merger: "mia", starts: "mia", restarts: "dan"}, "dan"},
		"who pushed to the branch":    {change{by: "wanda", merger: "mia", starts: "mia", pusher: "dan"}, "dan"},
		"who merged it to the branch": {change{by: "wanda", merger: "dan", starts: "mia"}, "dan"},
		"the co-author":               {change{by: "wanda", coauthors: []string{"Dan <dan@acme.dev>"}, merger: "mia", starts: "mia"}, "dan"},
	} {
		t.Run(name, func(t *testing.T) {
			again := func(text string) string { return strings.Replace(text, "reruns: attach", "reruns: allow", 1) }
			both(t, options{policy: again}, func(t *testing.T, w *world) {
				if c.who == "dan" {
					w.f.person("dan")
					w.f.join("dan", "release")
				}
				if len(c.change.coauthors) > 0 {
					c.change.coauthors = []string{"Dan <" + w.f.address("dan") + ">"}
				}
				r := w.submit(c.change)
				r.approve("ann")
				r.given(1)
				r.nobody(c.who)
				r.approve("bob")
				r.signed()
			})
		})
	}
}

func TestOnePersonCountsOnce(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		r.approve("ann")
		w.dealt()
		if q := r.read(); q.State != signing.AwaitingApproval || q.Approval.Groups[0].Given != 1 {
			t.Errorf("%s, %+v", q.State, q.Approval.Groups)
		}
		r.unsigned()
		r.approve("bob")
		r.signed()
	})
}

func TestSomebodyWhoWasRenamedIsStillTheSame(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		w.f.rename("ann", "anna") // and another account has the login ann now
		w.say(r.build.pull, "anna", r.command("approve", r.asked()))
		w.dealt()
		if q := r.read(); q.State != signing.AwaitingApproval || q.Approval.Groups[0].Given != 1 {
			t.Errorf("under the new login: %s, %+v", q.State, q.Approval.Groups)
		}
		r.nobody("ann") // who took the login is in no team
		r.approve("bob")
		r.signed()
	})
}

func TestTheAuthorUnderAnotherLoginIsStillTheAuthor(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.asked()
		w.f.rename("wanda", "someone-else")
		r.nobody("someone-else")
	})
}

func TestAnAuthorWithoutAnAccountNeedsOneApprovalMore(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(change{by: "wanda", stranger: "who@nowhere.example", merger: "mia", starts: "mia"})
		r.approve("ann")
		r.approve("bob")
		r.given(2)
		if q := r.read(); q.State != signing.AwaitingApproval || q.Approval.Groups[0].Required != 3 {
			t.Errorf("%s, %+v", q.State, q.Approval.Groups)
		}
		r.unsigned()
		r.approve("cat")
		r.signed()
	})
}

// TestAnApproverWhoLeftTheTeamDoesNotCount: ann approves and leaves before bob
// makes the quorum. She is asked for again when the key is about to be used.
func TestAnApproverWhoLeftTheTeamDoesNotCount(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		w.f.leave("ann", "release")
		r.approve("bob")
		r.reaches(signing.RequestDenied)
		r.unsigned()
		if n := w.e.KeyUses(); n != 0 {
			t.Errorf("%d uses of keys", n)
		}
	})
}

func TestOutsidersAndPendingMembersMayNotApprove(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		w.f.person("olga")
		w.f.person("pia")
		w.f.invite("pia", "release")
		r := w.submit(honest())
		r.nobody("olga", "pia")
		w.f.publish() // an outsider may read and comment now
		w.f.outsider("otto")
		r.nobody("otto")
		r.approve("ann")
		r.approve("bob")
		r.signed()
	})
}

func TestOnlyTheCodeOfTheQuestionCounts(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		old := w.submit(honest())
		oldCode := old.asked()
		r := w.submit(honest())
		r.refused(func(string) { w.say(r.build.pull, "ann", r.command("approve", "00000000")) })
		r.refused(func(string) { w.say(r.build.pull, "ann", r.command("approve", oldCode)) })
		r.refused(func(code string) { w.say(r.build.pull, "ann", old.command("approve", code)) })
		r.approve("ann")
		r.given(1)
		old.unsigned()
	})
}

func TestACommandCountsInItsThreadOnly(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		other := w.submit(honest())
		other.asked()
		r := w.submit(honest())
		r.refused(func(code string) { w.say(other.build.pull, "ann", r.command("approve", code)) })
		if q := other.read(); len(q.Approval.Given) != 0 {
			t.Errorf("it counted for the other: %+v", q.Approval.Given)
		}
	})
}

func TestWhatIsNoFreshCommandOfAPersonIsNone(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		command := r.command("approve", code)
		for _, text := range []string{"```\n" + command + "\n```", "> " + command, "<!--\n" + command + "\n-->", "please " + command, "    " + command} {
			w.say(r.build.pull, "ann", text)
		}
		w.f.bot(r.build.pull, command)
		w.f.settle()
		r.onlyCounts("cat")
	})
}

// onlyCounts has login approve, whose comment is the mark that all before was dealt
// with, and wants it to be the only approval.
func (r *request) onlyCounts(login string) {
	r.w.t.Helper()
	r.approve(login)
	r.given(1)
	if q := r.read(); q.Approval.Given[0].By != login {
		r.w.t.Errorf("%+v", q.Approval.Given)
	}
	r.unsigned()
}

// TestAnEditedCommentIsNoCommand: bob edits ann's harmless comment into an
// approval; ann edits her own.
func TestAnEditedCommentIsNoCommand(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		for _, who := range []string{"bob", "ann"} {
			c := w.say(r.build.pull, "ann", "looks good to me")
			w.f.settle()
			w.e.Clock.Add(int64(2 * time.Second))
			w.f.edit(c, who, r.command("approve", code))
			w.f.settle()
		}
		r.onlyCounts("cat")
	})
}

func TestAQuestionThatSomebodyEditedIsAskedAnew(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		w.f.settle()
		w.e.Clock.Add(int64(2 * time.Second))
		w.f.vandalise(r.build.pull, "mia", "Nothing to see here.\n\n    "+r.command("approve", code))
		r.refused(func(string) { w.say(r.build.pull, "ann", r.command("approve", code)) })
		fresh := ""
		w.until("a new question with another code", func() bool {
			for _, text := range w.f.ours(r.build.pull) {
				for _, m := range reAsk.FindAllStringSubmatch(text, -1) {
					if m[1] == r.id && m[2] != code {
						fresh = m[2]
					}
				}
			}
			return fresh != ""
		})
		r.refused(func(string) { w.say(r.build.pull, "bob", r.command("approve", code)) })
		w.say(r.build.pull, "ann", r.command("approve", fresh))
		w.say(r.build.pull, "bob", r.command("approve", fresh))
		r.signed()
	})
}

func TestAPermissionThatCannotBeAskedIsANo(t *testing.T) {
	for name, fault := range map[string]struct {
		status int
		delay  time.Duration
	}{"404": {status: http.StatusNotFound}, "500": {status: http.StatusInternalServerError}, "slow": {delay: 5 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			both(t, options{}, func(t *testing.T, w *world) {
				r := w.submit(honest())
				code := r.asked()
				heal := w.f.fault(fault.status, fault.delay)
				w.say(r.build.pull, "ann", r.command("approve", code))
				w.f.settle()
				time.Sleep(300 * time.Millisecond) // that nothing happens has no sign
				if q := r.read(); len(q.Approval.Given) != 0 {
					t.Errorf("%+v", q.Approval.Given)
				}
				r.unsigned()
				heal()
			})
		})
	}
}

func TestAnApprovalAfterTheEndCountsForNothing(t *testing.T) {
	short := func(text string) string { return strings.Replace(text, "expires: 24h", "expires: 30m", 1) }
	both(t, options{policy: short}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		r.approve("ann")
		r.given(1)
		w.e.Clock.Add(int64(31 * time.Minute))
		w.say(r.build.pull, "bob", r.command("approve", code))
		w.until("it ends, or waits for another", func() bool {
			q := r.read()
			return q.State == signing.RequestExpired || q.State == signing.AwaitingApproval && q.Approval.Groups[0].Given == 1
		})
		r.unsigned()
	})
}

func TestAnApprovalOfAnotherPolicyCountsForNothing(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		r.approve("ann")
		r.given(1)
		w.reload(strings.Replace(w.e.Options.Policy, "expires: 24h", "expires: 12h", 1))
		w.say(r.build.pull, "bob", r.command("approve", code))
		r.reaches(signing.RequestDenied)
		r.unsigned()
	})
}

func TestATokenOfAJobCannotApprove(t *testing.T) {
	viaAPI := func(text string) string {
		return strings.Replace(text, "expires: 24h", "expires: 24h\n      ways: [comment, api]", 1)
	}
	both(t, options{policy: viaAPI}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		body := `{"code":"` + r.asked() + `"}`
		if ans := w.s.Post(api.PathRequests+"/"+r.id+"/approve", r.build.token(), "", body); ans.Status != http.StatusForbidden {
			t.Errorf("with the job's token: %d %s", ans.Status, ans.Body)
		}
		if ans := w.s.Post(api.PathRequests+"/"+r.id+"/approve", w.person("someone", signing.Auditor, signing.Admin), "", body); ans.Status != http.StatusForbidden {
			t.Errorf("with the token of an admin: %d %s", ans.Status, ans.Body)
		}
		if ans := w.s.Post(api.PathRequests+"/"+r.id+"/approve", w.person("unknown", signing.Approver), "", body); ans.Status != http.StatusForbidden {
			t.Errorf("with the token of an approver whom no account is known of: %d %s", ans.Status, ans.Body)
		}
		if q := r.read(); len(q.Approval.Given) != 0 {
			t.Errorf("%+v", q.Approval.Given)
		}
		r.unsigned()
	})
}

// TestOnePersonOnTwoWaysCountsOnce: ann approves by a comment, and by the API as
// the person whom the configuration says she is.
func TestOnePersonOnTwoWaysCountsOnce(t *testing.T) {
	viaAPI := func(text string) string {
		return strings.Replace(text, "expires: 24h", "expires: 24h\n      ways: [comment, api]", 1)
	}
	people := func(w *world) []approval.Person {
		return []approval.Person{{Name: "Ann", Accounts: []string{w.f.accounts("ann")}, Identities: []approval.PersonIdentity{{Issuer: w.e.World.People.URL(), Subject: "ann"}}}}
	}
	both(t, options{policy: viaAPI, people: people}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		ans := w.s.Post(api.PathRequests+"/"+r.id+"/approve", w.person("ann", signing.Approver), "", `{"code":"`+r.asked()+`"}`)
		if ans.Status >= 500 {
			t.Fatalf("%d %s", ans.Status, ans.Body)
		}
		if q := r.read(); q.State != signing.AwaitingApproval || q.Approval.Groups[0].Given != 1 {
			t.Errorf("%s, %+v", q.State, q.Approval.Groups)
		}
		r.unsigned()
	})
}

func TestADeliveryThatIsSentAgainDoesNothing(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		r.approve("ann")
		r.given(1)
		w.f.settle()
		for what, change := range map[string]func(http.Header, []byte) (http.Header, []byte){
			"as it was": func(h http.Header, b []byte) (http.Header, []byte) { return h, b },
			"with another GUID": func(h http.Header, b []byte) (http.Header, []byte) {
				for _, name := range []string{"X-Github-Delivery", "X-Gitlab-Event-Uuid", "X-Gitlab-Webhook-Uuid", "Idempotency-Key"} {
					if h.Get(name) != "" {
						h.Set(name, "11111111-2222-3333-4444-555555555555")
					}
				}
				return h, b
			},
		} {
			if status := w.f.replay(change); status/100 != 2 {
				t.Errorf("%s: answered %d", what, status)
			}
		}
		if q := r.read(); q.State != signing.AwaitingApproval || len(q.Approval.Given) != 1 {
			t.Errorf("%s, %+v", q.State, q.Approval.Given)
		}
	})
}

func TestADeliveryThatIsNotSignedByTheForgeIsRefused(t *testing.T) {
	both(t, options{}, func(t *testing.T, w *world) {
		r := w.submit(honest())
		w.say(r.build.pull, "ann", "hello") // its delivery is what is forged
		w.f.settle()
		command := r.command("approve", r.asked())
		for what, change := range map[string]func(http.Header, []byte) (http.Header, []byte){
			"another body": func(h http.Header, b []byte) (http.Header, []byte) {
				return h, append(b[:len(b)-1:len(b)-1], []byte(`,"note":"`+command+`"}`)...)
			},
			"no signature": func(h http.Header, b []byte) (http.Header, []byte) {
				h.Del("X-Hub-Signature-256")
				h.Del("X-Hub-Signature")
				h.Del("Webhook-Signature")
				return h, b
			},
			"a weak signature only": func(h http.Header, b []byte) (http.Header, []byte) {
				h.Del("X-Hub-Signature-256")
				h.Del("Webhook-Signature")
				h.Set("X-Gitlab-Token", "a secret of this test")
				return h, b
			},
		} {
			if status := w.f.replay(change); status != http.StatusUnauthorized {
				t.Errorf("%s: answered %d", what, status)
			}
		}
		r.unsigned()
	})
}
