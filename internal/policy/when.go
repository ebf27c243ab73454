package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/ext"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxCost bounds one evaluation in CEL's cost units. Comparing some labels
	// of each of 500 images costs some ten thousand; the bound takes under a second.
	maxCost = 200_000
	// maxRegex bounds a compiled regular expression in instructions, and
	// maxNesting the expression: a person has to read it.
	maxRegex   = 1000
	maxNesting = 32
)

// conditions compiles CEL. It has two views of the same Facts: one with types,
// in which a misspelt name does not compile, and one in which a fact that is
// missing is an error, and not an empty text that passes for "not equal".
type conditions struct{ typed, missing *cel.Env }

// condition is a compiled `when`. It may be used by several goroutines.
type condition struct{ program cel.Program }

func newConditions() (*conditions, error) {
	limits := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(MaxWhen), cel.ParserRecursionLimit(maxNesting), cel.ParserErrorRecoveryLimit(8),
		cel.RegexProgramSizeLimit(maxRegex), cel.DefaultUTCTimeZone(true),
	}
	typed, err := cel.NewEnv(append(limits,
		ext.NativeTypes(reflect.TypeFor[signing.Facts](), ext.ParseStructTag("json")),
		cel.Variable("facts", cel.ObjectType("signing.Facts")))...)
	if err != nil {
		return nil, err
	}
	missing, err := cel.NewEnv(append(limits, cel.Variable("facts", cel.MapType(cel.StringType, cel.DynType)))...)
	if err != nil {
		return nil, err
	}
	return &conditions{typed, missing}, nil
}

// compile checks and compiles an expression, which must be a bool.
func (c *conditions) compile(expr string) (*condition, error) {
	if len(expr) > MaxWhen {
		return nil, fmt.Errorf("a condition has at most %d characters", MaxWhen)
	}
	checked, issues := c.typed.Compile(expr)
	if issues.Err() != nil {
		var lines []string
		for _, e := range issues.Errors() {
			lines = append(lines, fmt.Sprintf("line %d, column %d of the condition: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, errors.New(strings.Join(lines, "; "))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("a condition is true or false, this one is %s", checked.OutputType())
	}
	if err := anchored(checked); err != nil {
		return nil, err
	}
	loose, issues := c.missing.Compile(expr)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	program, err := c.missing.Program(loose, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return &condition{program}, nil
}

// anchored refuses matches() that finds a part of a text: CEL does not anchor,
// and a policy that trusts "main" must not trust "main-of-mallory".
func anchored(a *cel.Ast) error {
	root := ast.NavigateAST(a.NativeRep())
	for _, call := range ast.MatchDescendants(root, ast.FunctionMatcher("matches")) {
		args := call.AsCall().Args()
		last := args[len(args)-1]
		text, ok := "", false
		if last.Kind() == ast.LiteralKind {
			text, ok = last.AsLiteral().Value().(string)
		}
		if !ok || !strings.HasPrefix(text, "^(?:") || !strings.HasSuffix(text, ")$") {
			return errors.New("matches() finds a part of a text: write its pattern out as '^(?:...)$'")
		}
		if _, err := compilePattern(regexPrefix + text[len("^(?:"):len(text)-len(")$")]); err != nil {
			return fmt.Errorf("in matches(): %w", err)
		}
	}
	return nil
}

// factsOf returns f as conditions see it.
func factsOf(f signing.Facts) map[string]any {
	return map[string]any{"facts": plain(reflect.ValueOf(f))}
}

// holds reports whether the condition is true of facts. Every error means no, and
// is text for the reason.
func (c *condition) holds(facts map[string]any) (bool, error) {
	out, _, err := c.program.Eval(facts)
	if err != nil {
		return false, err
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("the result is %s", out.Type().TypeName())
	}
	return b, nil
}

// plain returns v in the types of CEL, structs as maps by their JSON names. A
// text, number or time that is not set is left out: asking for it is an error,
// and has() tells. Truth values, lists and maps are always there.
func plain(v reflect.Value) any {
	if t, ok := v.Interface().(time.Time); ok {
		return t
	}
	switch v.Kind() {
	case reflect.Pointer:
		return plain(v.Elem()) // nil ones are left out below
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			f := v.Field(i)
			switch f.Kind() {
			case reflect.Bool, reflect.Slice, reflect.Map:
			default:
				if f.IsZero() {
					continue
				}
			}
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			m[name] = plain(f)
		}
		return m
	case reflect.Map:
		m := map[string]any{}
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = plain(it.Value())
		}
		return m
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Bytes()
		}
		l := make([]any, v.Len())
		for i := range l {
			l[i] = plain(v.Index(i))
		}
		return l
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int64:
		return v.Int()
	default:
		return v.Interface()
	}
}
