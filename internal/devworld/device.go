package devworld

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The device flow (RFC 8628) of an issuer: strict where a careless client would
// get through elsewhere.
const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// deviceLifetime is how long a code may be entered, DeviceInterval how often a
	// client may ask by default, slowDown what is added each time it does not keep to it.
	deviceLifetime = 10 * time.Minute
	deviceInterval = time.Second
	slowDown       = 5 * time.Second
	// maxDeviceForm bounds a form of the flow: three short fields.
	maxDeviceForm = 8 << 10
	// userLetters has no vowel and nothing that is read as another (RFC 8628, 6.1).
	userLetters = "BCDFGHJKLMNPQRSTVWXZ"
)

// device is one attempt of a program to have somebody log in.
type device struct {
	client, user string
	ends         time.Time
	interval     time.Duration
	asked        time.Time // when the client asked last
	person       *Person   // who has logged in
	refused      bool
}

// Enter logs p in for the program that showed userCode, as they would on the
// page of the identity provider; Refuse says no there.
func (i *Issuer) Enter(userCode string, p Person) error {
	return i.answer(userCode, func(d *device) { d.person = &p })
}

// Refuse says no to the program that showed userCode.
func (i *Issuer) Refuse(userCode string) error {
	return i.answer(userCode, func(d *device) { d.refused = true })
}

func (i *Issuer) answer(userCode string, do func(*device)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, d := range i.devices {
		if d.user == userCode && i.now().Before(d.ends) && d.person == nil && !d.refused {
			do(d)
			return nil
		}
	}
	return errors.New("no program shows this code, or it has ended or was answered")
}

// Waiting returns the codes that programs show and that nobody has entered.
func (i *Issuer) Waiting() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []string
	for _, d := range i.devices {
		if d.person == nil && !d.refused && i.now().Before(d.ends) {
			out = append(out, d.user)
		}
	}
	return out
}

// serveDevice gives a device code and a user code out.
func (i *Issuer) serveDevice(w http.ResponseWriter, r *http.Request) {
	form, ok := deviceForm(w, r)
	switch {
	case !ok:
		return
	case form.Get("client_id") == "":
		oauthError(w, "invalid_client", "client_id is missing")
		return
	case !strings.Contains(" "+form.Get("scope")+" ", " openid "):
		oauthError(w, "invalid_scope", "without openid there is no ID token")
		return
	}
	code := randomText()
	d := &device{client: form.Get("client_id"), user: userCode(), ends: i.now().Add(deviceLifetime), interval: deviceInterval}
	i.mu.Lock()
	i.devices[code] = d
	i.mu.Unlock()
	writeJSON(w, map[string]any{
		"device_code": code, "user_code": d.user, "verification_uri": i.url + "/device", "verification_uri_complete": i.url + "/device?user_code=" + url.QueryEscape(d.user),
		"expires_in": int(deviceLifetime / time.Second), "interval": int(d.interval / time.Second),
	})
}

// serveDeviceToken answers a program that asks whether somebody has logged in.
func (i *Issuer) serveDeviceToken(w http.ResponseWriter, r *http.Request) {
	form, ok := deviceForm(w, r)
	if !ok {
		return
	}
	if form.Get("grant_type") != deviceGrant {
		oauthError(w, "unsupported_grant_type", "only "+deviceGrant)
		return
	}
	person, client, problem := i.poll(form.Get("device_code"), form.Get("client_id"))
	if problem != "" {
		oauthError(w, problem, "")
		return
	}
	token, err := i.PersonToken(*person, client)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, map[string]any{"access_token": randomText(), "token_type": "Bearer", "expires_in": int(personLifetime / time.Second), "refresh_token": randomText(), "id_token": token})
}

// poll returns who has logged in, or the error code of RFC 8628, 3.5. A code
// works once.
func (i *Issuer) poll(code, client string) (*Person, string, string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d, ok := i.devices[code]
	now := i.now()
	switch {
	case !ok:
		return nil, "", "invalid_grant"
	case d.client != client:
		return nil, "", "invalid_client"
	case !now.Before(d.ends):
		return nil, "", "expired_token"
	}
	early := !d.asked.IsZero() && now.Sub(d.asked) < d.interval
	d.asked = now
	switch {
	case early:
		d.interval += slowDown
		return nil, "", "slow_down"
	case d.refused:
		delete(i.devices, code)
		return nil, "", "access_denied"
	case d.person == nil:
		return nil, "", "authorization_pending"
	}
	delete(i.devices, code)
	return d.person, client, ""
}

// deviceForm reads a form as the standard wants it sent.
func deviceForm(w http.ResponseWriter, r *http.Request) (url.Values, bool) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxDeviceForm))
	form, ferr := url.ParseQuery(string(raw))
	switch {
	case r.Method != http.MethodPost:
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return nil, false
	case media != "application/x-www-form-urlencoded" || err != nil || ferr != nil || r.URL.RawQuery != "":
		oauthError(w, "invalid_request", "a form in the body, and nothing in the query")
		return nil, false
	}
	for name, values := range form {
		if len(values) != 1 {
			oauthError(w, "invalid_request", strconv.Quote(name)+" is there twice")
			return nil, false
		}
	}
	return form, true
}

func oauthError(w http.ResponseWriter, code, description string) {
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description}) // a client that hangs up loses its answer
}

// userCode returns what a person types: XXXX-XXXX.
func userCode() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // documented never to return an error
	var b strings.Builder
	for n, c := range raw {
		if n == 4 {
			b.WriteByte('-')
		}
		b.WriteByte(userLetters[int(c)%len(userLetters)])
	}
	return b.String()
}

// devLogin enters, or refuses, a code that `sealwright login` shows.
func (w *World) devLogin(r *http.Request) (string, error) {
	q := struct {
		UserCode string `json:"user_code"`
		Refuse   bool   `json:"refuse"`
		Person   Person `json:"person"`
	}{Person: NewPerson()}
	if err := decode(r, &q); err != nil {
		return "", err
	}
	if q.Refuse {
		return "refused\n", w.People.Refuse(q.UserCode)
	}
	return "logged in as " + q.Person.Subject + "\n", w.People.Enter(q.UserCode, q.Person)
}
