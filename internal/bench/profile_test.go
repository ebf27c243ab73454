//go:build bench

package bench

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// profiled runs f under a CPU profile, which it writes to a file.
func profiled(t testing.TB, name string, f func()) (path string) {
	t.Helper()
	path = filepath.Join(outFolder(t), name)
	file, err := os.Create(path)
	must(t, err)
	must(t, pprof.StartCPUProfile(file))
	f()
	pprof.StopCPUProfile()
	must(t, file.Close())
	return path
}

// bucket says whose time a stack is: the first bucket with a frame in it.
type bucket struct {
	name   string
	frames []string
}

// buckets are in the order in which they are asked: what is not the service
// first, then what runs inside a step, then the steps.
func buckets() []bucket {
	return []bucket{
		{"the registry itself", []string{"go-containerregistry/pkg/registry."}},
		{"commits: SQLite", []string{"/store.(*Store).write+sqlite3."}},
		{"commits: JSON, HMAC, rows", []string{"/store.(*Store).write"}},
		{"audit log: sequencing", []string{"/workflow.(*Workflow).sequence", "/workflow.(*Workflow).Sequence"}},
		{"submit", []string{"/workflow.(*Workflow).Submit"}},
		{"decide", []string{"/workflow.(*drive).decide"}},
		{"recheck and begin", []string{"/workflow.(*drive).begin"}},
		{"prepare", []string{"/workflow.(*drive).prepare"}},
		{"key", []string{"/workflow.(*drive).useKeys"}},
		{"publish: cosign's verification", []string{"/workflow.(*drive).publish+cosign.libraryVerify"}},
		{"publish: rest", []string{"/workflow.(*drive).publish"}},
		{"conclude", []string{"/workflow.(*drive).conclude"}},
		{"drive: reading rows between steps", []string{"/workflow.(*drive).step"}},
		{"jobs that wait, reading rows", []string{"/workflow.(*Workflow).Wait"}},
		{"drive: the rest, dispatch", []string{"/workflow."}},
		{"garbage collector", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge"}},
		{"scheduler, timers", []string{"runtime.mcall", "runtime.mstart", "runtime.sysmon", "runtime.park_m"}},
	}
}

// in reports whether a stack belongs to b. "X+Y" needs both.
func (b bucket) in(stack string) bool {
	return slices.ContainsFunc(b.frames, func(f string) bool {
		for part := range strings.SplitSeq(f, "+") {
			if !strings.Contains(stack, part) {
				return false
			}
		}
		return true
	})
}

// shares returns the CPU time of each bucket of a profile, and of all.
func shares(t testing.TB, profile string) (map[string]time.Duration, time.Duration) {
	t.Helper()
	out, total := map[string]time.Duration{}, time.Duration(0)
	// One block for each stack: its time before the innermost frame, a frame a line.
	for block := range strings.SplitSeq(pprofText(t, "-traces", "-unit=us", profile), "-----------+") {
		_, block, _ = strings.Cut(block, "\n")
		first, _, _ := strings.Cut(strings.TrimSpace(block), " ")
		us, err := strconv.ParseFloat(strings.TrimSuffix(first, "us"), 64)
		if err != nil {
			continue // the head of the report
		}
		d, name := time.Duration(us*1e3), "other"
		for _, b := range buckets() {
			if b.in(block) {
				name = b.name
				break
			}
		}
		out[name] += d
		total += d
	}
	if total == 0 {
		t.Fatalf("%s holds no samples", profile)
	}
	return out, total
}

// pprofText asks the pprof of the Go command.
func pprofText(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"tool", "pprof"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go tool pprof: %v", err)
	}
	return string(out)
}

// printProfile prints the share of each step and the top functions.
func printProfile(t testing.TB, profile string, requests int) string {
	t.Helper()
	var b strings.Builder
	by, total := shares(t, profile)
	fmt.Fprintf(&b, "CPU by step, %s, %.2f ms of CPU for each request:\n\n", filepath.Base(profile), float64(total)/1e6/float64(requests))
	names := slices.Collect(maps.Keys(by))
	slices.SortFunc(names, func(x, y string) int { return int(by[y] - by[x]) })
	for _, n := range names {
		fmt.Fprintf(&b, "  %5.1f %%  %s\n", 100*float64(by[n])/float64(total), n)
	}
	for _, order := range []string{"-flat", "-cum"} {
		fmt.Fprintf(&b, "\ntop functions, %s:\n\n", order)
		for line := range strings.Lines(pprofText(t, "-top", order, "-nodecount=35", profile)) {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}
