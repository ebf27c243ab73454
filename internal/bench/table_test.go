//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// row is one line of the table.
type row struct {
	what, ours, peer, ratio, target string
	met                             bool
}

type table struct {
	rows  []row
	notes []string
}

// ratio adds a row whose figure is peer/ours of two times: how many times faster.
func (tb *table) ratio(what string, ours, peer time.Duration, peerName string, least float64) {
	r := float64(peer) / float64(ours)
	tb.rows = append(tb.rows, row{what, ms(ours), ms(peer) + " (" + peerName + ")", fmt.Sprintf("%.2f", r), fmt.Sprintf(">= %g", least), r >= least})
}

// least and most add a row held against an absolute target. No unit is "".
func (tb *table) least(what string, ours float64, unit string, target float64) {
	tb.rows = append(tb.rows, row{what, figure(ours, unit), "", "", fmt.Sprintf(">= %g %s", target, unit), ours >= target})
}

func (tb *table) most(what string, ours float64, unit string, target float64) {
	tb.rows = append(tb.rows, row{what, figure(ours, unit), "", "", fmt.Sprintf("<= %g %s", target, unit), ours <= target})
}

// info adds a row without a target.
func (tb *table) info(what, ours, peer string) {
	tb.rows = append(tb.rows, row{what: what, ours: ours, peer: peer})
}

func (tb *table) note(format string, args ...any) {
	tb.notes = append(tb.notes, fmt.Sprintf(format, args...))
}

func figure(v float64, unit string) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func (tb *table) String() string {
	var b strings.Builder
	b.WriteString("| what | ours | peer or bound | ratio | target | met |\n|---|---|---|---|---|---|\n")
	for _, r := range tb.rows {
		met := ""
		if r.target != "" {
			met = map[bool]string{true: "yes", false: "**no**"}[r.met]
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.peer, r.ratio, r.target, met)
	}
	b.WriteString("\n")
	for _, n := range tb.notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	return b.String()
}

// outFolder is where profiles and the table go.
func outFolder(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SEALWRIGHT_BENCH_OUT")
	if dir == "" {
		return t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// setting reads a count from the environment.
func setting(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv("SEALWRIGHT_BENCH_" + name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SEALWRIGHT_BENCH_%s is %q, not a positive number", name, text)
	}
	return n
}

// strangers tells how much of the machine others used during a run.
type strangers struct {
	began time.Time
	busy  time.Duration // of the whole machine
}

func watch(t testing.TB) strangers {
	return strangers{began: time.Now(), busy: machineBusy(t)}
}

// share returns the part of all CPUs that neither this process nor the processes
// that it waited for have used.
func (s strangers) share(t testing.TB) float64 {
	ours := cpuTime(t, syscall.RUSAGE_SELF) + cpuTime(t, syscall.RUSAGE_CHILDREN)
	busy := machineBusy(t) - s.busy
	return max(0, float64(busy-ours)/float64(time.Since(s.began))/float64(runtime.NumCPU()))
}

// machineBusy returns the CPU time that was not idle since boot (proc_stat(5)).
func machineBusy(t testing.TB) time.Duration {
	t.Helper()
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	var ticks int64
	for i, f := range strings.Fields(first)[1:] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if i != 3 && i != 4 && i < 8 { // idle, iowait; guest is in user already
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// cpuTime returns user and system time of this process or its ended children.
func cpuTime(t testing.TB, who int) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rssAnon returns the anonymous resident memory of a process in bytes: what it
// needs for itself, without the file pages of its program.
func rssAnon(t testing.TB, pid int) int64 {
	t.Helper()
	n, err := readRSS(pid)
	must(t, err)
	return n
}

func readRSS(pid int) (int64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no RssAnon", pid)
}
