package hub

//lint:file-ignore ST1005 The messages are GitHub's own, letter for letter.

import (
	"errors"
	"fmt"
	"strings"
	"text/scanner"
	"time"
)

// graphql answers the part of GitHub's GraphQL API that its REST API lacks: when a
// text was edited and by whom (nodes), hiding a comment (minimizeComment), and
// reactions to reviews (addReaction). Documents are parsed: a field that is not
// here is an error as it is for one that GitHub does not have.
func (h *Hub) graphql(c *call) reply {
	var in struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}
	if r, fine := c.decode(&in); !fine {
		return r
	}
	op, err := parseGraphQL(in.Query)
	if err != nil {
		return gqlErrors("", err.Error())
	}
	data := obj{}
	for _, f := range op.fields {
		args := map[string]any{}
		for name, variable := range f.args {
			v, there := in.Variables[variable]
			if !there {
				return gqlErrors("", "Variable $"+variable+" was not provided")
			}
			args[name] = v
		}
		made, kind, err := h.resolve(c, op.kind+" "+f.name, args)
		if err == nil {
			data[f.name], err = project(made, f)
		}
		if err != nil {
			return gqlErrors(kind, err.Error())
		}
	}
	return ok(obj{"data": data})
}

// gqlErrors is an error of GraphQL: the status is 200.
func gqlErrors(kind, message string) reply {
	e := obj{"message": message}
	if kind != "" {
		e["type"] = kind
	}
	return ok(obj{"data": nil, "errors": []obj{e}})
}

// resolve returns the value of a top field.
func (h *Hub) resolve(c *call, what string, args map[string]any) (value any, kind string, err error) {
	input, _ := args["input"].(map[string]any)
	subject, _ := input["subjectId"].(string)
	switch what {
	case "query nodes":
		ids, _ := args["ids"].([]any)
		if len(ids) > 100 {
			return nil, "ARGUMENT_LIMIT", errors.New("You may not provide more than 100 node ids; you provided " + fmt.Sprint(len(ids)))
		}
		out := make([]any, len(ids))
		for i, id := range ids {
			text, _ := id.(string)
			if n := h.find(c, text, "read"); n != nil {
				out[i] = n.doc()
			}
		}
		return out, "", nil
	case "mutation minimizeComment":
		n := h.find(c, subject, "write")
		class, _ := input["classifier"].(string)
		if n == nil {
			return nil, "NOT_FOUND", fmt.Errorf("Could not resolve to a node with the global id of '%s'", subject)
		}
		if n.comment == nil || !strings.Contains(" ABUSE DUPLICATE OFF_TOPIC OUTDATED RESOLVED SPAM ", " "+class+" ") {
			return nil, "UNPROCESSABLE", errors.New("the comment cannot be minimized so")
		}
		n.comment.Minimized = class
		return obj{"minimizedComment": obj{"isMinimized": true, "minimizedReason": strings.ToLower(class)}}, "", nil
	case "mutation addReaction":
		n := h.find(c, subject, "write")
		name, known := map[string]string{"THUMBS_UP": "+1", "THUMBS_DOWN": "-1", "EYES": "eyes", "CONFUSED": "confused"}[fmt.Sprint(input["content"])]
		if n == nil || !known {
			return nil, "NOT_FOUND", fmt.Errorf("Could not resolve to a node with the global id of '%s'", subject)
		}
		to := new([]Reaction)
		if n.comment != nil {
			to = &n.comment.Reactions
		} else if n.review != nil {
			to = &n.review.Reactions
		}
		h.reaction(to, c.app.Bot, name)
		return obj{"reaction": obj{"content": input["content"]}}, "", nil
	}
	return nil, "undefinedField", fmt.Errorf("Field of %s doesn't exist", what)
}

// found is what a global id names.
type found struct {
	comment *Comment
	review  *Review
}

func (f *found) doc() obj {
	var kind, body string
	var edits []Edit
	var id int64
	var author *User
	if m := f.comment; m != nil {
		kind, body, edits, id, author = m.kind(), m.Body, m.Edits, m.ID, m.Author
	} else {
		kind, body, edits, id, author = "PullRequestReview", f.review.Body, f.review.Edits, f.review.ID, f.review.Author
	}
	d := obj{"__typename": kind, "id": node(kind, id), "databaseId": id, "body": body, "lastEditedAt": nil, "editor": nil, "author": nil, "includesCreatedEdit": len(edits) > 0}
	if author != nil {
		d["author"] = obj{"login": strings.TrimSuffix(author.Login, "[bot]")}
	}
	if n := len(edits); n > 0 {
		d["lastEditedAt"], d["editor"] = edits[n-1].At.Format(time.RFC3339), obj{"login": edits[n-1].By.Login}
	}
	return d
}

// find returns what an id names, nil where the token may not see it.
func (h *Hub) find(c *call, id, level string) *found {
	for _, r := range h.repos {
		if !c.token.sees(r) {
			continue
		}
		for _, i := range r.Issues {
			if c.kindPermitted(i, level).status != 0 {
				continue
			}
			all := i.Comments
			if i.Pull != nil {
				all = append(all[:len(all):len(all)], i.Pull.Notes...)
				for _, v := range i.Pull.Reviews {
					if node("PullRequestReview", v.ID) == id {
						return &found{review: v}
					}
				}
			}
			for _, m := range all {
				if node(m.kind(), m.ID) == id {
					return &found{comment: m}
				}
			}
		}
	}
	return nil
}

// selection is a field with what is asked of it.
type selection struct {
	kind   string // of an operation: "query" or "mutation"
	name   string
	args   map[string]string // to the name of a variable
	on     string            // of an inline fragment
	fields []selection
}

// project takes of a value what was asked for.
func project(v any, s selection) (any, error) {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = project(v[i], s); err != nil {
				return nil, err
			}
		}
		return out, nil
	case obj:
		out := obj{}
		return out, fill(out, v, s)
	}
	return v, nil
}

func fill(out, from obj, s selection) error {
	if len(s.fields) == 0 {
		return fmt.Errorf("Field must have selections (field '%s')", s.name)
	}
	for _, f := range s.fields {
		if f.on != "" {
			if f.on == from["__typename"] {
				if err := fill(out, from, f); err != nil {
					return err
				}
			}
			continue
		}
		v, there := from[f.name]
		if !there {
			return fmt.Errorf("Field '%s' doesn't exist on type", f.name)
		}
		made, err := project(v, f)
		if err != nil {
			return err
		}
		out[f.name] = made
	}
	return nil
}

// gql is a parser of one operation with variables.
type gql struct {
	s   scanner.Scanner
	tok string
}

func (g *gql) next() {
	if g.s.Scan() == scanner.EOF {
		g.tok = ""
		return
	}
	g.tok = g.s.TokenText()
}

func (g *gql) want(t string) error {
	if g.tok != t {
		return fmt.Errorf("Parse error on %q, expecting %q", g.tok, t)
	}
	g.next()
	return nil
}

func parseGraphQL(text string) (selection, error) {
	g := &gql{}
	g.s.Init(strings.NewReader(text))
	g.s.Mode = scanner.ScanIdents | scanner.ScanInts
	g.s.Error = func(*scanner.Scanner, string) {}
	g.next()
	op := selection{kind: g.tok}
	if op.kind != "query" && op.kind != "mutation" {
		return op, fmt.Errorf("Parse error on %q, expecting an operation", g.tok)
	}
	for g.tok != "{" { // the types of variables are checked by use
		if g.tok == "" {
			return op, errors.New("Unexpected end of document")
		}
		g.next()
	}
	var err error
	op.fields, err = g.set(0)
	if err == nil && g.tok != "" {
		err = fmt.Errorf("Parse error on %q", g.tok)
	}
	return op, err
}

// set parses { ... }.
func (g *gql) set(depth int) ([]selection, error) {
	if depth > 10 {
		return nil, errors.New("Query has exceeded its depth")
	}
	if err := g.want("{"); err != nil {
		return nil, err
	}
	var out []selection
	for g.tok != "}" {
		f := selection{args: map[string]string{}}
		if g.tok == "." {
			for range 3 {
				if err := g.want("."); err != nil {
					return nil, err
				}
			}
			if err := g.want("on"); err != nil {
				return nil, err
			}
			f.on = g.tok
		} else {
			f.name = g.tok
		}
		if g.tok == "" || g.tok == "{" {
			return nil, errors.New("Unexpected end of document")
		}
		g.next()
		if err := g.arguments(f.args); err != nil {
			return nil, err
		}
		if g.tok == "{" {
			var err error
			if f.fields, err = g.set(depth + 1); err != nil {
				return nil, err
			}
		}
		out = append(out, f)
	}
	g.next()
	return out, nil
}

func (g *gql) arguments(into map[string]string) error {
	if g.tok != "(" {
		return nil
	}
	g.next()
	for g.tok != ")" {
		name := g.tok
		g.next()
		for _, t := range []string{":", "$"} {
			if err := g.want(t); err != nil {
				return err
			}
		}
		into[name] = g.tok
		g.next()
		if g.tok == "," {
			g.next()
		}
	}
	g.next()
	return nil
}
