// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"time"
)

// CallRule is one entry of the faults' "calls": which of the calls that match, and what happens to them. VCD's simulator has
// the same. Methods are SOAP methods ("ImportVApp", "CreateContainerView", …) and "upload"; the path is that of the URL.
type CallRule struct {
	Every   int      `json:"every,omitempty"`
	At      []int    `json:"at,omitempty"`
	From    int      `json:"from,omitempty"`
	Methods []string `json:"methods,omitempty"`
	Path    string   `json:"path,omitempty"`
	Action  string   `json:"action"`            // refuse, drop, lose, hang, hang-after
	Status  int      `json:"status,omitempty"`  // of a refused upload; 503
	Minor   string   `json:"minor,omitempty"`   // type of a refused call's fault; SystemError
	Message string   `json:"message,omitempty"` // of the fault
	Seconds *float64 `json:"seconds,omitempty"` // how long it hangs; without it until faults are set again

	path *regexp.Regexp
}

// Delay makes calls of one method slow, some times or (0) always.
type Delay struct {
	Method  string  `json:"method"`
	Path    string  `json:"path"`
	Seconds float64 `json:"seconds"`
	Times   int     `json:"times"`

	path *regexp.Regexp
	used int
}

// check prepares the rules of faults that a test sends.
func (f *Faults) check() error {
	for i := range f.Calls {
		rule := &f.Calls[i]
		kinds := 0
		for _, given := range []bool{rule.Every > 0, len(rule.At) > 0, rule.From > 0} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			return fmt.Errorf("calls: one of every, at, from is needed")
		}
		switch rule.Action {
		case "refuse", "drop", "lose", "hang", "hang-after":
		default:
			return fmt.Errorf("calls: action %q: must be one of refuse, drop, lose, hang, hang-after", rule.Action)
		}
		var err error
		if rule.path, err = regexp.Compile(rule.Path); err != nil {
			return fmt.Errorf("calls: path: %w", err)
		}
	}
	for i := range f.Delays {
		var err error
		if f.Delays[i].path, err = regexp.Compile(f.Delays[i].Path); err != nil {
			return fmt.Errorf("delays: path: %w", err)
		}
	}
	return nil
}

// setFaults replaces all faults; what hangs because of the old ones goes on.
func (s *Sim) setFaults(faults Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.over)
	s.faults, s.over, s.seen = faults, make(chan struct{}), make([]int, len(faults.Calls))
}

// takeCall counts a call for all rules, and gives the first rule that it meets and the delay that it gets.
func (s *Sim) takeCall(method, path string) (*CallRule, time.Duration, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var delay time.Duration
	for i := range s.faults.Delays {
		each := &s.faults.Delays[i]
		if each.Method == method && each.path.MatchString(path) && (each.Times == 0 || each.used < each.Times) {
			each.used++
			delay = time.Duration(each.Seconds * float64(time.Second))
			break
		}
	}
	var met *CallRule
	for i := range s.faults.Calls {
		rule := &s.faults.Calls[i]
		if !rule.path.MatchString(path) || (len(rule.Methods) > 0 && !contains(rule.Methods, method)) {
			continue
		}
		s.seen[i]++
		number := s.seen[i]
		hit := (rule.Every > 0 && number%rule.Every == 0) || (rule.From > 0 && number >= rule.From)
		for _, at := range rule.At {
			hit = hit || number == at
		}
		if hit && met == nil {
			copied := *rule
			met = &copied
		}
	}
	return met, delay, s.over
}

func contains(list []string, text string) bool {
	for _, each := range list {
		if each == text {
			return true
		}
	}
	return false
}

// withFaults serves a call unless a rule has something else for it.
func (s *Sim) withFaults(w http.ResponseWriter, r *http.Request, method string, serve http.HandlerFunc) {
	rule, delay, over := s.takeCall(method, r.URL.Path)
	hang := func(limit <-chan time.Time) {
		select {
		case <-over:
		case <-limit:
		}
	}
	if delay > 0 {
		hang(time.After(delay))
	}
	if rule == nil {
		serve(w, r)
		return
	}
	s.record("call-fault", "", "", map[string]interface{}{"action": rule.Action, "method": method, "path": r.URL.Path})
	switch rule.Action {
	case "refuse":
		s.refuseCall(w, method, rule)
		return
	case "lose", "hang-after":
		serve(httptest.NewRecorder(), r)
	}
	if rule.Action == "hang" || rule.Action == "hang-after" {
		var limit <-chan time.Time
		if rule.Seconds != nil {
			limit = time.After(time.Duration(*rule.Seconds * float64(time.Second)))
		}
		hang(limit)
	}
	panic(http.ErrAbortHandler)
}

func (s *Sim) refuseCall(w http.ResponseWriter, method string, rule *CallRule) {
	message := rule.Message
	if message == "" {
		message = "A general system error occurred: fault injected"
	}
	if method == "upload" {
		status := rule.Status
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Connection", "close")
		http.Error(w, message, status)
		return
	}
	if rule.Status != 0 { // a proxy in front of vCenter answers without SOAP
		http.Error(w, message, rule.Status)
		return
	}
	kind := rule.Minor
	if kind == "" {
		kind = "SystemError"
	}
	writeTypedFault(w, kind, message)
}

var soapMethod = regexp.MustCompile(`<(?:[A-Za-z0-9_]+:)?Body[^>]*>\s*<(?:[A-Za-z0-9_]+:)?([A-Za-z0-9_]+)`)

// methodOf gives the name of the SOAP method in a body.
func methodOf(body []byte) string {
	if match := soapMethod.FindSubmatch(body); match != nil {
		return string(match[1])
	}
	return ""
}

const soapFault = `<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"` +
	` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>` +
	`<faultcode>ServerFaultCode</faultcode><faultstring>%[2]s</faultstring><detail>` +
	`<%[1]sFault xmlns="urn:vim25" xsi:type="%[1]s">%[3]s</%[1]sFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`

// writeTypedFault answers with a fault of the type with this name.
func writeTypedFault(w http.ResponseWriter, kind, message string) {
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(message))
	inner := ""
	if kind == "SystemError" {
		inner = "<reason>" + escaped.String() + "</reason>"
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, soapFault, kind, escaped.String(), inner)
}

func writeFault(w http.ResponseWriter, message string) { writeTypedFault(w, "VmConfigFault", message) }

// soap reads the body of a call, counts it, and serves it.
func (s *Sim) soap(w http.ResponseWriter, r *http.Request) {
	if seconds := s.currentFaults().SlowSeconds; seconds > 0 {
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 32<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	method := methodOf(body)
	s.withFaults(w, r, method, func(w http.ResponseWriter, r *http.Request) { s.serveSDK(w, r, method, body) })
}
