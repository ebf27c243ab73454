package audit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// kind says what an event of one kind is about and which attributes it has.
type kind struct {
	about    about
	required []string
	optional []string
}

// about is the subject of a kind.
type about int

const (
	aboutService about = iota // neither Request nor Task
	aboutRequest              // Request
	aboutTask                 // Request and Task
	aboutAny                  // either, or none
)

// kindTable holds every kind. An attribute means the same in every kind that has it.
var kindTable = map[string]kind{
	ServiceStarted: {aboutService, []string{"version"}, nil},
	ConfigLoaded:   {aboutService, []string{"policies"}, []string{"generation", "keys", "config"}},
	ConfigRefused:  {aboutService, []string{"files", "generation"}, nil},

	RequestSubmitted: {aboutRequest, []string{"policy"}, slices.Concat([]string{"artifacts", "untrust", "project", "body", "idempotency", "submission", "source_request", "list", "list_made"}, originAttrs)},
	RequestAttached:  {aboutRequest, nil, slices.Concat([]string{"idempotency"}, originAttrs)},
	RequestDecided:   {aboutRequest, []string{"effect", "basis"}, []string{"project", "policy", "policy_digest", "decision", "generation"}},
	RequestDenied:    {aboutRequest, []string{"rules"}, []string{"code", "failure", "basis", "project", "policy", "policy_digest", "decision", "generation"}},
	RequestSigning:   {aboutRequest, []string{"basis"}, []string{"generation", "tasks"}},
	RequestAsked:     {aboutRequest, []string{"basis", "round", "forge", "source_id", "thread", "comment"}, []string{"why"}},
	RequestReminded:  {aboutRequest, []string{"round", "comment"}, nil},
	RequestApproved:  {aboutRequest, []string{"basis", "person", "via", "record"}, []string{"forge", "account", "comment"}},
	RequestDisagreed: {aboutRequest, []string{"basis", "person", "via", "record"}, []string{"forge", "account", "comment"}},
	CommandRefused:   {aboutRequest, []string{"via", "code"}, []string{"forge", "account", "person", "comment", "verb", "failure"}},
	BreakGlass:       {aboutRequest, []string{"person", "ticket", "record"}, []string{"basis", "forge", "account", "comment"}},
	CancelRequested:  {aboutRequest, nil, originAttrs},
	RequestCompleted: {aboutRequest, nil, []string{"tasks"}},
	RequestFailed:    {aboutRequest, []string{"code"}, []string{"failure", "tasks"}},
	RequestCanceled:  {aboutRequest, nil, slices.Concat([]string{"code", "failure", "superseded_by", "person"}, originAttrs)},
	RequestExpired:   {aboutRequest, nil, []string{"code", "failure"}},

	TaskPrepared:   {aboutTask, []string{"repository", "method", "key", "intent"}, []string{"digest", "tag", "part", "changes", "key_version", "record"}},
	KeyAttempt:     {aboutTask, []string{"key", "attempt", "intent"}, []string{"key_version", "method", "generation"}},
	TaskSigned:     {aboutTask, []string{"key", "envelope"}, []string{"key_version", "method", "intent", "attempt", "record"}},
	TaskPublished:  {aboutTask, []string{"locations"}, []string{"envelope", "repository", "digest", "tag", "part", "changes", "method", "key", "record"}},
	TaskReleased:   {aboutTask, []string{"envelope"}, []string{"repository", "digest", "tag", "method", "key", "record"}},
	TaskDelivered:  {aboutTask, []string{"locations"}, []string{"envelope", "repository", "digest", "tag", "method", "key", "record"}},
	TaskRecognised: {aboutTask, []string{"locations"}, []string{"envelope", "repository", "digest", "tag", "part", "method", "key", "key_version", "record"}},
	TaskFailed:     {aboutTask, []string{"code"}, []string{"step", "attempt", "tries", "failure"}},
	TaskRequeued:   {aboutTask, []string{"why"}, []string{"intent", "attempt"}},
	TaskStaleBase:  {aboutTask, nil, []string{"envelope", "tries"}},

	TokenRefused:     {aboutService, []string{"issuer", "code"}, slices.Concat([]string{"rules", "policy"}, withoutIssuer(originAttrs))},
	TamperDetected:   {aboutAny, []string{"table"}, []string{"row", "why", "step"}},
	CheckpointRefuse: {aboutService, []string{"size", "known_size"}, []string{"root", "known_root", "why"}},
}

// originAttrs are the attributes that Origin fills in.
var originAttrs = []string{"issuer", "provider", "subject", "token", "forge", "source", "source_id", "owner_id", "commit", "ref", "trigger", "run", "attempt", "job", "actor_id"}

func withoutIssuer(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "issuer" })
}

// subject checks that e is about what its kind is about.
func (k kind) subject(e Event) error {
	wantRequest := k.about == aboutRequest || k.about == aboutTask
	wantTask := k.about == aboutTask
	switch {
	case e.Request == "" && wantRequest:
		return refuse(e.Kind+" names no request", "a request id", "", "")
	case e.Task == "" && wantTask:
		return refuse(e.Kind+" names no task", "a task id", "", "")
	case e.Request != "" && k.about == aboutService, e.Task != "" && !wantTask && k.about != aboutAny:
		return refuse(e.Kind+" is not about that", "no request and no task, or a request only", e.Request+" "+e.Task, "")
	case e.Request != "" && !signing.ValidRequestID(e.Request):
		return refuse(e.Kind+" names no request id", "sr_ and 16 characters", e.Request, "")
	case e.Task != "" && (!reTask.MatchString(e.Task) || !strings.HasPrefix(e.Task, e.Request+".")):
		return refuse(e.Kind+" names no task of its request", e.Request+".N", e.Task, "")
	}
	return nil
}

// Origin adds what an event may say of a verified token and of the build it
// stands for: ids as they are, the branch, the subject and the token as hashes.
func Origin(attrs map[string]string, id signing.Identity, o signing.Origin) {
	Put(attrs, "issuer", id.Issuer)
	Put(attrs, "provider", id.Provider)
	if id.Subject != "" {
		attrs["subject"] = Hashed(id.Subject)
	}
	if id.TokenHash != "" {
		Put(attrs, "token", "sha256:"+id.TokenHash)
	}
	if o.SourceRepositoryRef != "" {
		attrs["ref"] = Hashed(o.SourceRepositoryRef)
	}
	for _, v := range [][2]string{
		{"forge", o.Forge}, {"source", o.SourceRepository}, {"source_id", o.SourceRepositoryIdentifier}, {"owner_id", o.SourceRepositoryOwnerIdentifier},
		{"commit", o.SourceRepositoryDigest}, {"trigger", o.BuildTrigger}, {"run", o.RunID}, {"attempt", o.RunAttempt}, {"job", o.JobID}, {"actor_id", o.ActorID},
	} {
		Put(attrs, v[0], v[1])
	}
}

// Every expression is printable ASCII without space, quote, backslash, '<', '>'
// and '&': all JSON encoders write such text the same way, so the canonical form
// does not depend on one of them.
var (
	reWord   = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,63}$`)
	reName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]{0,127}$`)
	reNumber = regexp.MustCompile(`^(?:0|[1-9][0-9]{0,19})$`)
	// Ids of forges and CI systems: numbers, UUIDs (Azure's with a number behind), opaque ones.
	reID     = regexp.MustCompile(`^(?:[0-9]{1,20}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.[0-9]{1,19})?|[0-9a-f]{20,40})$`)
	reCommit = regexp.MustCompile(`^[0-9a-f]{40}(?:[0-9a-f]{24})?$`)
	reHost   = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?$`)
	rePath   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$`) // of a source repository
	reURL    = regexp.MustCompile(`^https?://[A-Za-z0-9.:\[\]-]{1,260}(?:/[A-Za-z0-9._~%/-]{0,240})?$`)
	reURI    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~:/@=%#+-]{0,511}$`)
	reRule   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,127}$`)
	reTask   = regexp.MustCompile(`^sr_[0-9A-HJKMNP-TV-Z]{16}\.[1-9][0-9]{0,5}$`)
	rePerson = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@#+-]{0,127}$`) // FORGE:ID, or a name in the configuration
	reMore   = regexp.MustCompile(`^\+[1-9][0-9]{0,5}$`)
	reRoot   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// TAG=FROM..TO, digests without their algorithm: FROM is empty for a tag that is
	// new, TO for one that is removed.
	reChange = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})=(?:[0-9a-f]{64}\.\.(?:[0-9a-f]{64})?|\.\.[0-9a-f]{64})$`)
)

// grammars gives each attribute its grammar; nil allows a hash only. A hash is
// allowed everywhere: it is what stands for a value that does not fit.
var grammars = map[string]func(string) bool{
	"version": reName.MatchString, "project": reName.MatchString, "policy": reName.MatchString, "provider": reName.MatchString,
	"method": reName.MatchString, "key": reName.MatchString, "step": reWord.MatchString, "code": reWord.MatchString,
	"why": reWord.MatchString, "table": reWord.MatchString, "effect": reWord.MatchString, "trigger": reWord.MatchString,
	"row": func(s string) bool {
		return signing.ValidRequestID(s) || reTask.MatchString(s) || reNumber.MatchString(s)
	},
	"generation": reNumber.MatchString, "tasks": reNumber.MatchString, "tries": reNumber.MatchString, "attempt": reNumber.MatchString,
	"size": reNumber.MatchString, "known_size": reNumber.MatchString, "root": reRoot.MatchString, "known_root": reRoot.MatchString,
	"list_made":   reNumber.MatchString, // seconds since 1970
	"key_version": reRoot.MatchString, "round": reNumber.MatchString,
	"person": rePerson.MatchString, "account": reID.MatchString, "via": reWord.MatchString, "verb": reWord.MatchString,
	"thread": reNumber.MatchString, "comment": reName.MatchString, "ticket": nil,
	"source_request": signing.ValidRequestID, "superseded_by": signing.ValidRequestID,
	"policies": nil, "keys": nil, "config": nil, "files": nil, "policy_digest": nil, "basis": nil, "body": nil, "idempotency": nil,
	"subject": nil, "token": nil, "ref": nil, "digest": nil, "intent": nil, "envelope": nil, "submission": nil, "list": nil, "decision": nil, "record": nil, "failure": nil,
	"issuer": reURL.MatchString, "forge": reHost.MatchString, "source": rePath.MatchString, "source_id": reID.MatchString,
	"owner_id": reID.MatchString, "commit": reCommit.MatchString, "run": reID.MatchString, "job": reID.MatchString, "actor_id": reID.MatchString,
	"repository": func(s string) bool { return signing.Repository(s).Validate() == nil },
	"tag":        func(s string) bool { return signing.ValidateTag(s) == nil },
	"part":       reName.MatchString,
	"changes":    list(reChange.MatchString),
	"rules":      list(reRule.MatchString),
	"locations":  list(reURI.MatchString),
	"artifacts": list(func(s string) bool {
		a, err := signing.ParseReference(s)
		return err == nil && a.Digest != ""
	}),
	"untrust": list(func(s string) bool {
		a, err := signing.ParseReference(s)
		return err == nil && a.ValidateUntrust() == nil
	}),
}

// list allows comma-separated items or their hashes, of which a last "+N" stands for N more.
func list(item func(string) bool) func(string) bool {
	return func(s string) bool {
		items := strings.Split(s, ",")
		if len(items) > 1 && reMore.MatchString(items[len(items)-1]) {
			items = items[:len(items)-1]
		}
		return !slices.ContainsFunc(items, func(i string) bool { return !item(i) && signing.Digest(i).Validate() != nil })
	}
}

// fits reports whether value is in the grammar of the attribute name.
func fits(name, value string) bool {
	grammar, known := grammars[name]
	if !known || value == "" {
		return false
	}
	if signing.Digest(value).Validate() == nil {
		return true
	}
	most := MaxAttr
	switch name {
	case "rules", "locations", "artifacts", "untrust", "changes":
		most = MaxList
	}
	return grammar != nil && len(value) <= most && grammar(value)
}

// Hashed returns the SHA-256 of s as a digest: how an event names a text that it must not hold.
func Hashed(s string) string { return string(signing.DigestOf([]byte(s))) }

// Put sets attrs[name] to value if the value fits the attribute's grammar, and
// to its hash if it does not. An empty value sets nothing.
func Put(attrs map[string]string, name, value string) {
	switch {
	case value == "":
	case fits(name, value):
		attrs[name] = value
	default:
		attrs[name] = Hashed(value)
	}
}

// PutList sets attrs[name] to the items, comma-separated, each as it is or
// hashed if it does not fit. What would exceed MaxList is counted as a last
// "+N". No items set nothing.
func PutList(attrs map[string]string, name string, items []string) {
	const room = len(",+999999")
	var b strings.Builder
	for i, item := range items {
		if strings.Contains(item, ",") || !fits(name, item) {
			item = Hashed(item)
		}
		if b.Len()+1+len(item)+room > MaxList {
			fmt.Fprintf(&b, ",+%d", len(items)-i)
			break
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item)
	}
	if b.Len() > 0 {
		attrs[name] = b.String()
	}
}
