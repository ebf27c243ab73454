package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/sealwright/sealwright/internal/signing"
)

// lockFile takes the lock PATH.lock, which the kernel gives back when the
// process ends, however it ends. The file itself stays: deleting it would let
// two processes lock two files of the same name.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }() // nothing was written
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s.lock: %w", path, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 32)) // a process id, for the message only
		return nil, &signing.Error{Code: signing.Conflict, Message: "another server has this database open",
			Expected: "one server on " + path, Found: "a lock held by process " + strings.TrimSpace(string(holder)),
			Fix: "stop the other server, or give this one a database of its own"}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // told to whoever comes second; nothing depends on it
	}
	return f, nil
}
