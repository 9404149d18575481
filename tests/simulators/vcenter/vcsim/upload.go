// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"crypto/sha1" // the manifest of an import lease is made of SHA-1
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	vmdkMedia   = "application/x-vnd.vmware-streamVmdk"
	sector      = 512
	gdAtEnd     = ^uint64(0)
	flagStream  = 1<<16 | 1<<17 // compressed grains, markers
	minVmdk     = 2 * sector
	copyBuffer  = 256 << 10
	footerDepth = 2 * sector // the footer is the last sector but one
)

// sparseHeader is the part of a VMDK's first sector that is judged.
type sparseHeader struct {
	version  uint32
	flags    uint32
	capacity uint64 // sectors
	grain    uint64
	gdOffset uint64
	compress uint16
}

func parseHeader(data []byte) (*sparseHeader, error) {
	if len(data) < sector || !bytes.Equal(data[:4], []byte("KDMV")) {
		return nil, fmt.Errorf("not a sparse VMDK")
	}
	header := &sparseHeader{
		version:  binary.LittleEndian.Uint32(data[4:]),
		flags:    binary.LittleEndian.Uint32(data[8:]),
		capacity: binary.LittleEndian.Uint64(data[12:]),
		grain:    binary.LittleEndian.Uint64(data[20:]),
		gdOffset: binary.LittleEndian.Uint64(data[56:]),
		compress: binary.LittleEndian.Uint16(data[77:]),
	}
	switch {
	case header.version < 3:
		return nil, fmt.Errorf("Not a supported disk format (sparse VMDK version too old)")
	case header.version > 3:
		return nil, fmt.Errorf("Not a supported disk format (sparse VMDK version too new)")
	case header.flags&flagStream != flagStream || header.compress != 1:
		return nil, fmt.Errorf("Not a supported disk format (not streamOptimized)")
	case !bytes.Equal(data[73:77], []byte("\n \r\n")):
		return nil, fmt.Errorf("the VMDK was damaged by a text mode transfer")
	case header.grain != 128:
		return nil, fmt.Errorf("Not a supported disk format (grain size %d)", header.grain)
	}
	return header, nil
}

// tail keeps the last bytes that were written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - footerDepth; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (s *Sim) refuseUpload(w http.ResponseWriter, lease, vm string, status int, reason string) {
	s.record("upload-refused", lease, vm, map[string]interface{}{"status": status, "reason": reason})
	w.Header().Set("Connection", "close")
	http.Error(w, reason, status)
}

// serveUpload is the receiving end of a device URL, /nfc/<lease>/<target id>.
func (s *Sim) serveUpload(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 3 {
		http.NotFound(w, r)
		return
	}
	id, target := parts[1], parts[2]
	s.mu.Lock()
	lease := s.leases[id]
	s.mu.Unlock()
	if lease == nil {
		s.refuseUpload(w, id, "", http.StatusNotFound, "no such lease")
		return
	}
	vm := lease.vm.Value
	file := lease.files[target]
	faults := s.currentFaults()
	reason, status := "", 0
	var state types.HttpNfcLeaseState
	simulator.Map.WithLock(lease.Self, func() { state = lease.State })
	media := r.Header.Get("Content-Type")
	switch {
	case faults.UploadStatus != 0:
		status, reason = faults.UploadStatus, "fault injected"
	case state != types.HttpNfcLeaseStateReady:
		status, reason = http.StatusForbidden, "the lease is "+string(state)
	case file == nil:
		status, reason = http.StatusNotFound, "the lease has no "+target
	case r.Method != http.MethodPost:
		status, reason = http.StatusMethodNotAllowed, "a disk is sent with POST, not "+r.Method
	case media != vmdkMedia:
		status, reason = http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type is %q, needed %s", media, vmdkMedia)
	case len(r.TransferEncoding) > 0 || r.ContentLength < 0:
		status, reason = http.StatusLengthRequired, "Content-Length is needed, chunked transfer is not taken"
	case r.ContentLength < minVmdk:
		status, reason = http.StatusBadRequest, "the body is shorter than a VMDK header"
	}
	if status != 0 {
		s.refuseUpload(w, id, vm, status, reason)
		return
	}

	s.mu.Lock()
	busy := file.busy
	again := file.begun && faults.NoSecondUpload
	file.busy, file.begun = true, true
	s.mu.Unlock()
	if again {
		s.mu.Lock()
		file.busy = busy
		s.mu.Unlock()
		s.refuseUpload(w, id, vm, http.StatusConflict, target+" was begun before")
		return
	}
	if busy {
		s.refuseUpload(w, id, vm, http.StatusConflict, target+" is being sent on another connection")
		return
	}
	stored, status, err := s.receive(lease, target, file, r, faults)
	s.mu.Lock()
	file.busy = false
	if err == nil {
		file.stored = stored
	}
	s.mu.Unlock()
	if err != nil {
		if status == 0 { // nobody to answer
			s.record("upload-broken", id, vm, map[string]interface{}{"target": target, "error": err.Error()})
			panic(http.ErrAbortHandler)
		}
		s.refuseUpload(w, id, vm, status, err.Error())
		return
	}
	s.record("upload-done", id, vm, map[string]interface{}{"target": target, "bytes": stored.Size, "sha1": stored.SHA1})
	w.WriteHeader(http.StatusOK)
}

// receive stores the body. It gives the status to answer with its error; 0 means that the connection is to be cut.
func (s *Sim) receive(lease *Lease, target string, file *leaseFile, r *http.Request, faults Faults) (*StoredDisk, int, error) {
	dir := filepath.Join(s.config.Store, lease.id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, http.StatusInsufficientStorage, err
	}
	name := filepath.Join(dir, target)
	out, err := os.OpenFile(name+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, http.StatusInsufficientStorage, err
	}
	defer func() {
		_ = out.Close()
		_ = os.Remove(name + ".part")
	}()

	first := make([]byte, sector)
	if _, err := io.ReadFull(r.Body, first); err != nil {
		return nil, 0, err
	}
	header, err := parseHeader(first)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if int64(header.capacity)*sector != file.capacity {
		return nil, http.StatusBadRequest, fmt.Errorf(
			"the VMDK's capacity is %d bytes, the VM's disk has %d", header.capacity*sector, file.capacity)
	}

	digest1, digest256, last := sha1.New(), sha256.New(), &tail{}
	sink := io.MultiWriter(out, digest1, digest256, last)
	if _, err := sink.Write(first); err != nil {
		return nil, http.StatusInsufficientStorage, err
	}
	buffer := make([]byte, copyBuffer)
	total, started := int64(sector), time.Now()
	for {
		select {
		case <-lease.over:
			return nil, 0, fmt.Errorf("the lease ended")
		default:
		}
		n, rerr := r.Body.Read(buffer)
		if n > 0 {
			if _, err := sink.Write(buffer[:n]); err != nil {
				return nil, http.StatusInsufficientStorage, err
			}
			total += int64(n)
			if s.dropNow(faults, total) {
				return nil, 0, fmt.Errorf("dropped after %d bytes (fault injected)", total)
			}
			if rate := faults.UploadBytesPerSecond; rate > 0 {
				s.pace(lease, started, total, rate)
			}
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return nil, 0, rerr
		}
	}
	if total != r.ContentLength {
		return nil, 0, fmt.Errorf("%d bytes of %d", total, r.ContentLength)
	}
	if header.gdOffset == gdAtEnd {
		footer, err := parseHeader(last.data[:sector])
		if err != nil || footer.gdOffset == gdAtEnd || footer.capacity != header.capacity {
			return nil, http.StatusBadRequest, fmt.Errorf("the VMDK has no footer where its header promises one")
		}
	}
	if err := out.Close(); err != nil {
		return nil, http.StatusInsufficientStorage, err
	}
	if err := os.Rename(name+".part", name); err != nil {
		return nil, http.StatusInsufficientStorage, err
	}
	return &StoredDisk{
		Path: name, Size: total,
		SHA1: hex.EncodeToString(digest1.Sum(nil)), SHA256: hex.EncodeToString(digest256.Sum(nil)),
	}, 0, nil
}

// dropNow says whether the fault "drop_upload_after" hits, and uses it up.
func (s *Sim) dropNow(faults Faults, total int64) bool {
	if faults.DropUploadAfter <= 0 || total < faults.DropUploadAfter {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.DropUploadTimes > 0 {
		s.faults.DropUploadTimes--
		if s.faults.DropUploadTimes == 0 {
			s.faults.DropUploadAfter = 0
		}
	}
	return true
}

// pace waits until the upload is no faster than rate.
func (s *Sim) pace(lease *Lease, started time.Time, total, rate int64) {
	due := started.Add(time.Duration(float64(total) / float64(rate) * float64(time.Second)))
	if wait := time.Until(due); wait > 0 {
		select {
		case <-lease.over:
		case <-time.After(wait):
		}
	}
}
