package signing

import "slices"

// RequestState is the state of a Request. The comment of each says who acts next.
type RequestState string

const (
	Pending          RequestState = "pending"           // the service decides
	AwaitingApproval RequestState = "awaiting_approval" // people approve or deny
	Ready            RequestState = "ready"             // the service rechecks and starts signing
	Signing          RequestState = "signing"           // the service works on the Tasks
	Completed        RequestState = "completed"         // nobody: every Task is published or delivered
	Failed           RequestState = "failed"            // nobody: a Task can no longer be retried
	RequestDenied    RequestState = "denied"            // nobody: policy or a person said no
	Canceled         RequestState = "canceled"          // nobody: withdrawn by the run or an admin
	RequestExpired   RequestState = "expired"           // nobody: the deadline passed before signing
)

// TaskState is the state of a Task.
type TaskState string

const (
	Queued     TaskState = "queued"    // the service prepares the bytes to be signed
	Prepared   TaskState = "prepared"  // the bytes are durable; the key may be asked
	Signed     TaskState = "signed"    // the envelope is durable; it is published
	Published  TaskState = "published" // nobody: read back and verified
	Delivered  TaskState = "delivered" // nobody: the client published, the service cannot read it
	TaskFailed TaskState = "failed"    // nobody
)

// requestMoves and taskMoves list every legal change of state (design, section 5).
func requestMoves(s RequestState) []RequestState {
	switch s {
	case Pending:
		return []RequestState{Ready, AwaitingApproval, RequestDenied, Canceled, RequestExpired}
	case AwaitingApproval:
		return []RequestState{Ready, RequestDenied, Canceled, RequestExpired}
	case Ready:
		// Denied here is a changed basis or a failed recheck.
		return []RequestState{Signing, RequestDenied, Canceled, RequestExpired}
	case Signing:
		return []RequestState{Completed, Failed}
	default:
		return nil
	}
}

func taskMoves(s TaskState) []TaskState {
	switch s {
	case Queued:
		// Published from here: an equal signature was recognised.
		return []TaskState{Prepared, Published, TaskFailed}
	case Prepared:
		// Queued from here: an intent that stayed unattempted.
		return []TaskState{Signed, Queued, TaskFailed}
	case Signed:
		// Signed again: stale base. Queued: stale bytes (dct only).
		return []TaskState{Published, Delivered, Signed, Queued, TaskFailed}
	case Delivered:
		return []TaskState{Published}
	default:
		return nil
	}
}

// CanBecome reports whether a Request in state s may change to state to.
func (s RequestState) CanBecome(to RequestState) bool { return slices.Contains(requestMoves(s), to) }

// Terminal reports whether no further change is possible.
func (s RequestState) Terminal() bool { return len(requestMoves(s)) == 0 }

// Valid reports whether s is a known state.
func (s RequestState) Valid() bool { return slices.Contains(RequestStates(), s) }

// CanBecome reports whether a Task in state s may change to state to.
func (s TaskState) CanBecome(to TaskState) bool { return slices.Contains(taskMoves(s), to) }

// Done reports whether the work on a Task is over. A delivered Task may still
// be seen to be published, but nothing waits for that.
func (s TaskState) Done() bool { return s == Published || s == Delivered || s == TaskFailed }

// Valid reports whether s is a known state.
func (s TaskState) Valid() bool { return slices.Contains(TaskStates(), s) }

// RequestStates returns every state of a Request.
func RequestStates() []RequestState {
	return []RequestState{Pending, AwaitingApproval, Ready, Signing, Completed, Failed, RequestDenied, Canceled, RequestExpired}
}

// TaskStates returns every state of a Task.
func TaskStates() []TaskState {
	return []TaskState{Queued, Prepared, Signed, Published, Delivered, TaskFailed}
}
