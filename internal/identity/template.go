package identity

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// maxTemplate bounds the text of a claim template.
const maxTemplate = 1 << 10

// expression is a compiled claim or template. A bare word is the name of a
// claim; anything with {{ is a text/template over
//
//	.claim.NAME, (index .claim "NAME")   a claim, as text
//	.url, .forge                         constants of the row
//
// with eq, ne and if. Claims have a name space of their own, so none can take
// the place of a constant. Every claim that a template mentions must be in the
// token, in whichever branch: missing is an error, never an empty string.
type expression struct {
	tmpl  *template.Template
	needs []string // the claims that it mentions
}

// reClaim matches names of claims, which may be URLs ("oidc.circleci.com/vcs-ref").
var reClaim = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{1,128}$`)

func compileExpression(text string) (expression, error) {
	switch {
	case text == "":
		return expression{}, errors.New("is empty; write the name of a claim or a template")
	case len(text) > maxTemplate:
		return expression{}, fmt.Errorf("is longer than %d bytes", maxTemplate)
	case !strings.Contains(text, "{{"):
		if !reClaim.MatchString(text) {
			return expression{}, errors.New("is neither the name of a claim nor a template with {{ }}")
		}
		text = fmt.Sprintf("{{index .claim %q}}", text)
	}
	t, err := template.New("claim").Option("missingkey=error").Parse(text)
	if err != nil {
		return expression{}, fmt.Errorf("is not a template: %w", err)
	}
	e := expression{tmpl: t}
	if t.Tree == nil || t.Root == nil {
		return expression{}, errors.New("is an empty template")
	}
	if err := e.walk(t.Root); err != nil {
		return expression{}, err
	}
	if len(e.needs) == 0 {
		return expression{}, errors.New("names no claim")
	}
	return e, nil
}

// walk refuses everything in a template but text, claims, constants and plain
// conditions, and collects the claims.
func (e *expression) walk(n parse.Node) error {
	switch n := n.(type) {
	case *parse.TextNode:
		return nil
	case *parse.ActionNode:
		return e.pipe(n.Pipe)
	case *parse.IfNode:
		if err := e.pipe(n.Pipe); err != nil {
			return err
		}
		if err := e.list(n.List); err != nil {
			return err
		}
		return e.list(n.ElseList)
	case *parse.ListNode:
		return e.list(n)
	}
	return fmt.Errorf("may not use %s", n)
}

func (e *expression) list(l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		if err := e.walk(n); err != nil {
			return err
		}
	}
	return nil
}

func (e *expression) pipe(p *parse.PipeNode) error {
	if len(p.Decl) > 0 || len(p.Cmds) != 1 {
		return fmt.Errorf("may not use pipes and variables (%s)", p)
	}
	args := p.Cmds[0].Args
	name, isFunc := args[0].(*parse.IdentifierNode)
	switch {
	case !isFunc && len(args) == 1:
		return e.operand(args[0])
	case isFunc && name.Ident == "index" && len(args) == 3:
		claim, ok := args[2].(*parse.StringNode)
		if f, isField := args[1].(*parse.FieldNode); ok && isField && slices.Equal(f.Ident, []string{"claim"}) {
			return e.claim(claim.Text)
		}
	case isFunc && (name.Ident == "eq" || name.Ident == "ne"):
		for _, a := range args[1:] {
			if _, literal := a.(*parse.StringNode); literal {
				continue
			}
			if err := e.operand(a); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("may not use %s", p)
}

func (e *expression) operand(n parse.Node) error {
	switch n := n.(type) {
	case *parse.PipeNode:
		return e.pipe(n)
	case *parse.FieldNode:
		switch {
		case len(n.Ident) == 2 && n.Ident[0] == "claim":
			return e.claim(n.Ident[1])
		case len(n.Ident) == 1 && (n.Ident[0] == "url" || n.Ident[0] == "forge"):
			return nil
		}
		return fmt.Errorf("may not use %s: there are .claim.NAME, .url and .forge", n)
	}
	return fmt.Errorf("may not use %s", n)
}

func (e *expression) claim(name string) error {
	if !reClaim.MatchString(name) {
		return fmt.Errorf("names the claim %s, which no token has", quote(name))
	}
	if !slices.Contains(e.needs, name) {
		e.needs = append(e.needs, name)
	}
	return nil
}

// eval returns the value, or the name of the first claim that is lacking.
func (e *expression) eval(c claims, forge, url string) (value, lacking string, err error) {
	known := make(map[string]string, len(e.needs))
	for _, name := range e.needs {
		v, ok, err := c.text(name)
		if err != nil {
			return "", "", err
		}
		if !ok {
			return "", name, nil
		}
		known[name] = v
	}
	var b strings.Builder
	if err := e.tmpl.Execute(&b, map[string]any{"claim": known, "forge": forge, "url": url}); err != nil {
		return "", "", refused("the token's claims do not fit the issuer's templates", "claims that the template can use", "others", "ask the operator of this service to look at the issuer's claim templates")
	}
	if b.Len() > maxValue || b.Len() == 0 {
		return "", "", refused("the token's claims do not fit the issuer's templates", fmt.Sprintf("a value of 1 to %d bytes", maxValue), fmt.Sprintf("%d bytes", b.Len()), "ask the operator of this service to look at the issuer's claim templates")
	}
	return b.String(), "", nil
}
