package method

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Rows reads a trust item that is a JSON list of rows R, of at most most bytes and
// atMost rows, strictly: with no member that R does not have and nothing behind it.
// An error says what was found instead.
func Rows[R any](document []byte, most, atMost int) ([]R, error) {
	if len(document) > most {
		return nil, fmt.Errorf("%d bytes", len(document))
	}
	var rows []R
	d := json.NewDecoder(bytes.NewReader(document))
	d.DisallowUnknownFields()
	if err := d.Decode(&rows); err != nil || len(rows) > atMost {
		return nil, errors.New("another document")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more behind the document")
	}
	return rows, nil
}
