// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/pbm"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// Faults is what a test wants to go wrong. All zero: nothing.
type Faults struct {
	Unreachable          bool    `json:"unreachable"`             // every connection is closed without an answer
	SlowSeconds          float64 `json:"slow_seconds"`            // before each SOAP call
	RefuseImport         string  `json:"refuse_import"`           // message of the fault that ImportVApp answers
	RefuseImportTimes    int     `json:"refuse_import_times"`     // 0: always
	DropUploadAfter      int64   `json:"drop_upload_after"`       // bytes, then the connection is reset; 0: never
	DropUploadTimes      int     `json:"drop_upload_times"`       // 0: always
	UploadStatus         int     `json:"upload_status"`           // answer every upload with this instead of taking it
	UploadBytesPerSecond int64   `json:"upload_bytes_per_second"` // 0: no limit
	IgnoreProgress       bool    `json:"ignore_progress"`         // leases run into their timeout whatever the client does
	CompleteFails        string  `json:"complete_fails"`          // message of the fault that HttpNfcLeaseComplete answers
	NoSecondUpload       bool    `json:"no_second_upload"`        // a disk whose upload broke off is not taken again (409)
	WrongChecksums       int     `json:"wrong_checksums"`         // the manifests of so many imports have a wrong digest

	Calls  []CallRule `json:"calls"`
	Delays []Delay    `json:"delays"`
}

// Event is one line of the record that the control endpoint gives.
type Event struct {
	Time   time.Time              `json:"time"`
	Kind   string                 `json:"kind"`
	Lease  string                 `json:"lease,omitempty"`
	VM     string                 `json:"vm,omitempty"`
	Detail map[string]interface{} `json:"detail,omitempty"`
}

// Sim is the state beside the simulator's own registry.
type Sim struct {
	config *Config
	client *vim25.Client
	inner  http.Handler
	host   string // public host:port

	mu      sync.Mutex
	faults  Faults
	over    chan struct{} // closed when other faults take the place of these
	seen    []int         // calls counted, per rule
	boots   Boots
	denied  []string // privileges that no account has
	guests  map[types.ManagedObjectReference]guest
	timeout time.Duration
	urlHost string
	leases  map[string]*Lease // by id in the device URL
	disks   map[types.ManagedObjectReference]map[int32]*StoredDisk
	managed map[types.ManagedObjectReference]string
	// storage policies, the VM's and its disks'
	policies map[types.ManagedObjectReference][]string
	missing  map[types.ManagedObjectReference]int // VMs with disks that the last sweeps did not find
	events   []Event
}

func newSim(config *Config, client *vim25.Client, inner http.Handler, host string) *Sim {
	sim := &Sim{
		config: config, client: client, inner: inner, host: host,
		timeout:  time.Duration(config.LeaseTimeout * float64(time.Second)),
		urlHost:  config.DeviceURLHost,
		over:     make(chan struct{}),
		guests:   map[types.ManagedObjectReference]guest{},
		leases:   map[string]*Lease{},
		disks:    map[types.ManagedObjectReference]map[int32]*StoredDisk{},
		managed:  map[types.ManagedObjectReference]string{},
		policies: map[types.ManagedObjectReference][]string{},
		missing:  map[types.ManagedObjectReference]int{},
	}
	go sim.watchLeases()
	return sim
}

func (s *Sim) record(kind, lease, vm string, detail map[string]interface{}) {
	s.mu.Lock()
	s.events = append(s.events, Event{time.Now().UTC(), kind, lease, vm, detail})
	s.mu.Unlock()
	log.Printf("%s lease=%s vm=%s %v", kind, lease, vm, detail)
}

func (s *Sim) currentFaults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// handler routes: /__sim/ control, /nfc/ disks, /sdk SOAP, all else to the simulator.
func (s *Sim) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/__sim/", s.serveControl)
	mux.HandleFunc("/nfc/", func(w http.ResponseWriter, r *http.Request) { s.withFaults(w, r, "upload", s.serveUpload) })
	mux.HandleFunc("/sdk", s.soap)
	mux.HandleFunc(pbm.Path, s.soap)
	mux.HandleFunc("/screen", s.serveScreen)
	mux.HandleFunc("/sdk/vimServiceVersions.xml", serveVersions)
	mux.Handle("/", s.inner)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/__sim/") && s.currentFaults().Unreachable {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	})
}

func serveVersions(w http.ResponseWriter, _ *http.Request) {
	prior := []string{
		"8.0.1.0", "8.0.0.1", "8.0.0.0", "7.0.3.2", "7.0.3.1", "7.0.3.0", "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0",
		"7.0.0.2", "7.0.0.0", "6.9.1", "6.8.7", "6.7.3", "6.7.2", "6.7.1", "6.7", "6.5", "6.0", "5.5", "5.1", "5.0",
	}
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, "%s<namespaces version=\"1.0\"><namespace><name>urn:vim25</name><version>%s</version><priorVersions>",
		xml.Header, about().ApiVersion)
	for _, version := range prior {
		fmt.Fprintf(w, "<version>%s</version>", version)
	}
	fmt.Fprint(w, "</priorVersions></namespace></namespaces>\n")
}

var (
	profileID   = regexp.MustCompile(`<profileId>([^<]+)<`)
	leaseAnswer = regexp.MustCompile(`(<returnval[^>]*type="HttpNfcLease"[^>]*>)([^<]+)(<)`)
	leaseEntity = regexp.MustCompile(`<entity[^>]*type="VirtualMachine"[^>]*>([^<]+)<`)
)

func (s *Sim) serveSDK(w http.ResponseWriter, r *http.Request, method string, body []byte) {
	switch method {
	case "ImportVApp":
	case "ReconfigVM_Task":
		s.notePolicies(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.inner.ServeHTTP(w, r)
		return
	case "HasPrivilegeOnEntities":
		answer := s.call(r, body)
		copyAnswer(w, answer, s.deny(answer.Body.Bytes()))
		return
	case "PowerOnVM_Task", "PowerOffVM_Task", "CreateSnapshot_Task", "RevertToCurrentSnapshot_Task":
		s.serveGuest(w, r, method, body)
		return
	default:
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.inner.ServeHTTP(w, r)
		return
	}
	if message, refuse := s.takeImportRefusal(); refuse {
		s.record("import-refused", "", "", map[string]interface{}{"message": message})
		writeFault(w, message)
		return
	}
	s.serveImport(w, r, body)
}

// deny takes the privileges that no account has out of an answer.
func (s *Sim) deny(answer []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, privilege := range s.denied {
		granted := regexp.MustCompile(`(<privId>` + regexp.QuoteMeta(privilege) + `</privId>\s*<isGranted>)true<`)
		answer = granted.ReplaceAll(answer, []byte("${1}false<"))
	}
	return answer
}

func (s *Sim) takeImportRefusal() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	message := s.faults.RefuseImport
	if message == "" {
		return "", false
	}
	if s.faults.RefuseImportTimes > 0 {
		s.faults.RefuseImportTimes--
		if s.faults.RefuseImportTimes == 0 {
			s.faults.RefuseImport = ""
		}
	}
	return message, true
}

// serveImport lets the simulator make the VM and its lease, and then puts our own lease in the place of that one.
func (s *Sim) serveImport(w http.ResponseWriter, r *http.Request, body []byte) {
	answer := s.call(r, body)
	match := leaseAnswer.FindSubmatch(answer.Body.Bytes())
	if answer.Code != http.StatusOK || match == nil {
		copyAnswer(w, answer, answer.Body.Bytes())
		return
	}
	original := string(match[2])
	info := s.call(r, []byte(fmt.Sprintf(retrieveLease, original)))
	entity := leaseEntity.FindSubmatch(info.Body.Bytes())
	s.call(r, []byte(fmt.Sprintf(completeLease, original)))
	if entity == nil {
		http.Error(w, "the simulator's lease names no VM", http.StatusInternalServerError)
		return
	}
	vm := types.ManagedObjectReference{Type: "VirtualMachine", Value: string(entity[1])}
	lease, err := s.newLease(vm)
	if err != nil {
		s.destroyVM(vm)
		writeFault(w, err.Error())
		return
	}
	replaced := leaseAnswer.ReplaceAll(answer.Body.Bytes(), []byte("${1}"+lease.Self.Value+"${3}"))
	copyAnswer(w, answer, replaced)
}

// call runs one SOAP request in the session of r and returns the answer.
func (s *Sim) call(r *http.Request, body []byte) *httptest.ResponseRecorder {
	request := r.Clone(r.Context())
	request.Body = io.NopCloser(bytes.NewReader(body))
	request.ContentLength = int64(len(body))
	answer := httptest.NewRecorder()
	s.inner.ServeHTTP(answer, request)
	return answer
}

func copyAnswer(w http.ResponseWriter, answer *httptest.ResponseRecorder, body []byte) {
	for name, values := range answer.Header() {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

const (
	retrieveLease = `<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><RetrieveProperties xmlns="urn:vim25">` +
		`<_this type="PropertyCollector">propertyCollector</_this><specSet><propSet><type>HttpNfcLease</type>` +
		`<pathSet>info</pathSet></propSet><objectSet><obj type="HttpNfcLease">%s</obj></objectSet></specSet>` +
		`</RetrieveProperties></soapenv:Body></soapenv:Envelope>`
	completeLease = `<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">` +
		`<soapenv:Body><HttpNfcLeaseComplete xmlns="urn:vim25"><_this type="HttpNfcLease">%s</_this>` +
		`</HttpNfcLeaseComplete></soapenv:Body></soapenv:Envelope>`
)

// destroyVM removes a VM and what was uploaded for it, whatever state it is in.
func (s *Sim) destroyVM(ref types.ManagedObjectReference) {
	ctx := context.Background()
	entity, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	simulator.Map.WithLock(ref, func() { entity.DisabledMethod = nil })
	vm := object.NewVirtualMachine(s.client, ref)
	if entity.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		if task, err := vm.PowerOff(ctx); err == nil {
			_ = task.Wait(ctx)
		}
	}
	task, err := vm.Destroy(ctx)
	if err == nil {
		err = task.Wait(ctx)
	}
	if err != nil {
		log.Printf("cannot remove %s: %s", ref, err)
	}
}

// sweepDisks drops the disks of VMs that left the inventory, by whichever way. A VM that moves is out of the registry for a
// moment, so it has to be missing twice.
func (s *Sim) sweepDisks() {
	s.mu.Lock()
	var gone []types.ManagedObjectReference
	for ref := range s.disks {
		if simulator.Map.Get(ref) != nil {
			delete(s.missing, ref)
			continue
		}
		if s.missing[ref]++; s.missing[ref] > 1 {
			gone = append(gone, ref)
		}
	}
	var unused []string
	for _, ref := range gone {
		stored := s.disks[ref]
		delete(s.disks, ref)
		delete(s.missing, ref)
		delete(s.managed, ref)
		for _, disk := range stored {
			if !s.shared(disk.Path) { // by a clone
				unused = append(unused, disk.Path)
			}
		}
	}
	s.mu.Unlock()
	for _, path := range unused {
		_ = os.Remove(path)
		_ = os.Remove(filepath.Dir(path)) // succeeds with the last one
	}
	for _, ref := range gone {
		s.record("vm-removed", "", ref.Value, nil)
	}
}

func (s *Sim) shared(path string) bool {
	for _, disks := range s.disks {
		for _, disk := range disks {
			if disk.Path == path {
				return true
			}
		}
	}
	return false
}
