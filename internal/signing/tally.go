package signing

// Tally is how far a question to people has come: the Approvals of a Request
// counted against its rule.
type Tally struct {
	Groups []GroupTally `json:"groups"` // one for each group of the rule, in its order
	// Met says that every group has its quorum, or that two people broke the glass.
	Met bool `json:"met"`
	// Denied is the denial that ends the Request, nil where there is none.
	Denied *Approval `json:"denied,omitempty"`
	// BreakGlass names the people whose emergency approvals count. They count for
	// no group.
	BreakGlass []string `json:"breakGlass,omitempty"`
	// Ignored are the approvals and denials that do not count, with the reason.
	Ignored []IgnoredApproval `json:"ignored,omitempty"`
}

// GroupTally is how far one group is.
type GroupTally struct {
	From []string `json:"from"`
	// Required is how many people are needed; Extra of them because of authors
	// whom the forge does not map to an account.
	Required int `json:"required"`
	Extra    int `json:"extra,omitempty"`
	// People are those who count for this group. Nobody counts for two.
	People []string `json:"people,omitempty"`
}

// IgnoredApproval is an approval that does not count.
type IgnoredApproval struct {
	Approval Approval `json:"approval"`
	Why      string   `json:"why"` // "expired", "given for another content"
}
