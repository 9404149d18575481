// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// methods of a VM that vCenter disables while an import lease holds it (names as the simulator's dispatcher has them)
var leasedMethods = []string{
	"PowerOnVMTask", "DestroyTask", "UnregisterVM", "ReconfigVMTask", "RelocateVMTask", "CloneVMTask", "MarkAsTemplate",
	"CreateSnapshotTask",
}

// StoredDisk is one received disk.
type StoredDisk struct {
	Path         string     `json:"path"`
	Size         int64      `json:"size"`
	SHA1         string     `json:"sha1"`
	SHA256       string     `json:"sha256"`
	CompletedAt  *time.Time `json:"completed_at"`
	checksumType string
}

type leaseFile struct {
	url      types.HttpNfcLeaseDeviceUrl
	device   int32 // vSphere device key
	capacity int64 // bytes
	stored   *StoredDisk
	busy     bool // an upload is running
	begun    bool // an upload has begun at some time
}

// Lease replaces the simulator's HttpNfcLease.
type Lease struct {
	mo.HttpNfcLease

	sim      *Sim
	id       string
	vm       types.ManagedObjectReference
	files    map[string]*leaseFile // by target id
	seen     time.Time             // last sign of life: creation or progress
	readyAt  time.Time
	over     chan struct{} // closed when the lease ends, whichever way
	pending  *types.HttpNfcLeaseInfo
	checksum map[string]string // device URL key → checksum type
}

// controllerName gives the part of a device URL's key that vCenter makes from the controller's class.
func controllerName(device types.BaseVirtualDevice) string {
	switch device.(type) {
	case *types.ParaVirtualSCSIController:
		return "ParaVirtualSCSIController"
	case *types.VirtualLsiLogicController:
		return "VirtualLsiLogicController"
	case *types.VirtualLsiLogicSASController:
		return "VirtualLsiLogicSASController"
	case *types.VirtualBusLogicController:
		return "VirtualBusLogicController"
	case *types.VirtualAHCIController:
		return "VirtualAHCIController"
	case *types.VirtualNVMEController:
		return "VirtualNVMEController"
	case *types.VirtualIDEController:
		return "VirtualIDEController"
	}
	return ""
}

// newLease makes the lease of a VM that ImportVApp has just made. It starts in the state "initializing".
func (s *Sim) newLease(vm types.ManagedObjectReference) (*Lease, error) {
	entity := simulator.Map.Get(vm).(*simulator.VirtualMachine)
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%x-%x-%x-%x-%x", random[:4], random[4:6], random[6:8], random[8:10], random[10:])
	session := make([]byte, 8)
	_, _ = rand.Read(session)

	s.mu.Lock()
	timeout, host := s.timeout, s.host
	if s.urlHost == "*" {
		host = "*"
	}
	s.mu.Unlock()

	lease := &Lease{
		sim: s, id: id, vm: vm, files: map[string]*leaseFile{}, seen: time.Now(), over: make(chan struct{}),
		readyAt:  time.Now().Add(time.Duration(s.config.LeaseReady * float64(time.Second))),
		checksum: map[string]string{},
	}
	lease.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: "session[" + hex.EncodeToString(session) + "]" + id}
	lease.State = types.HttpNfcLeaseStateInitializing
	info := &types.HttpNfcLeaseInfo{Lease: lease.Self, Entity: vm, LeaseTimeout: int32(timeout / time.Second)}

	var failure error
	simulator.Map.WithLock(vm, func() {
		devices := entity.Config.Hardware.Device
		byKey := map[int32]types.BaseVirtualDevice{}
		for _, device := range devices {
			byKey[device.GetVirtualDevice().Key] = device
		}
		for _, device := range devices {
			disk, ok := device.(*types.VirtualDisk)
			if !ok {
				continue
			}
			controller := byKey[disk.ControllerKey]
			name := ""
			if controller != nil {
				name = controllerName(controller)
			}
			if name == "" || disk.UnitNumber == nil {
				failure = fmt.Errorf("disk %d has no controller of the VM, or no unit number", disk.Key)
				return
			}
			bus := controller.(types.BaseVirtualController).GetVirtualController().BusNumber
			unit := fmt.Sprintf("%s%d:%d", name, bus, *disk.UnitNumber)
			target := fmt.Sprintf("disk-%d.vmdk", len(lease.files))
			if disk.DeviceInfo != nil {
				disk.DeviceInfo.GetDescription().Label = fmt.Sprintf("Hard disk %d", len(lease.files)+1)
			}
			capacity := disk.CapacityInKB * 1024
			if disk.CapacityInBytes != 0 {
				capacity = disk.CapacityInBytes
			}
			url := types.HttpNfcLeaseDeviceUrl{
				Key:          path.Join("/", vm.Value, unit),
				ImportKey:    path.Join("/", entity.Name, unit),
				Url:          fmt.Sprintf("https://%s/nfc/%s/%s", host, id, target),
				Disk:         types.NewBool(true),
				TargetId:     target,
				DatastoreKey: "",
			}
			lease.files[target] = &leaseFile{url: url, device: disk.Key, capacity: capacity}
			info.DeviceUrl = append(info.DeviceUrl, url)
			info.TotalDiskCapacityInKB += capacity / 1024
		}
		entity.DisabledMethod = leasedMethods
	})
	if failure != nil {
		return nil, failure
	}
	lease.pending = info
	simulator.Map.Put(lease)
	s.mu.Lock()
	s.leases[id] = lease
	s.mu.Unlock()
	s.record("lease-created", id, vm.Value, map[string]interface{}{"disks": len(lease.files), "timeout": timeout.Seconds()})
	return lease, nil
}

// watchLeases makes leases ready, and ends those that nobody keeps alive.
func (s *Sim) watchLeases() {
	for range time.Tick(50 * time.Millisecond) {
		s.mu.Lock()
		timeout := s.timeout
		all := make([]*Lease, 0, len(s.leases))
		for _, lease := range s.leases {
			all = append(all, lease)
		}
		s.mu.Unlock()
		s.sweepDisks()
		now := time.Now()
		for _, lease := range all {
			lease := lease
			expired := false
			simulator.Map.WithLock(lease.Self, func() {
				switch lease.State {
				case types.HttpNfcLeaseStateInitializing:
					if now.After(lease.readyAt) {
						simulator.Map.Update(lease, []types.PropertyChange{
							{Name: "info", Val: *lease.pending},
							{Name: "initializeProgress", Val: int32(100)},
							{Name: "state", Val: types.HttpNfcLeaseStateReady},
						})
					}
				case types.HttpNfcLeaseStateReady:
					expired = now.Sub(lease.seen) > timeout
				}
				if expired {
					lease.fail("lease-timed-out", &types.Timedout{}, "The operation timed out: no progress was reported in time.")
				}
			})
			if expired {
				s.destroyVM(lease.vm)
			}
		}
	}
}

// fail ends the lease, and drops what it received; the caller holds its lock and removes the VM.
func (l *Lease) fail(event string, fault types.BaseMethodFault, message string) {
	simulator.Map.Update(l, []types.PropertyChange{
		{Name: "error", Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: message}},
		{Name: "state", Val: types.HttpNfcLeaseStateError},
	})
	l.end()
	_ = os.RemoveAll(filepath.Join(l.sim.config.Store, l.id))
	l.sim.record(event, l.id, l.vm.Value, map[string]interface{}{"message": message})
}

// end closes the device URLs.
func (l *Lease) end() {
	l.sim.mu.Lock()
	delete(l.sim.leases, l.id)
	l.sim.mu.Unlock()
	close(l.over)
}

// notReady gives the fault of a call that needs a ready lease, or nil.
func (l *Lease) notReady() *soap.Fault {
	switch l.State {
	case types.HttpNfcLeaseStateReady:
		return nil
	case types.HttpNfcLeaseStateError:
		if l.Error != nil {
			if fault, ok := l.Error.Fault.(*types.Timedout); ok {
				return simulator.Fault("The operation timed out.", fault)
			}
		}
	}
	return simulator.Fault("The lease is not in the state 'ready'.", &types.InvalidState{})
}

// HttpNfcLeaseProgress renews the lease.
func (l *Lease) HttpNfcLeaseProgress(_ *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	if fault := l.notReady(); fault != nil {
		return &methods.HttpNfcLeaseProgressBody{Fault_: fault}
	}
	if req.Percent < 0 || req.Percent > 100 {
		return &methods.HttpNfcLeaseProgressBody{
			Fault_: simulator.Fault("percent", &types.InvalidArgument{InvalidProperty: "percent"}),
		}
	}
	if !l.sim.currentFaults().IgnoreProgress {
		l.seen = time.Now()
	}
	simulator.Map.Update(l, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	l.sim.record("lease-progress", l.id, l.vm.Value, map[string]interface{}{"percent": req.Percent})
	return &methods.HttpNfcLeaseProgressBody{Res: new(types.HttpNfcLeaseProgressResponse)}
}

// HttpNfcLeaseComplete ends the lease well. It refuses while a disk was not received: the VM would be there with empty disks.
func (l *Lease) HttpNfcLeaseComplete(*simulator.Context, *types.HttpNfcLeaseComplete) soap.HasFault {
	if fault := l.notReady(); fault != nil {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: fault}
	}
	if message := l.sim.currentFaults().CompleteFails; message != "" {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: simulator.Fault(message, &types.FileFault{File: "disk-0.vmdk"})}
	}
	l.sim.mu.Lock()
	missing := ""
	stored := map[int32]*StoredDisk{}
	now := time.Now().UTC()
	for target, file := range l.files {
		if file.stored == nil || file.busy {
			missing = target
			continue
		}
		stored[file.device] = file.stored
	}
	if missing == "" {
		for _, disk := range stored {
			disk.CompletedAt = &now
		}
		l.sim.disks[l.vm] = stored
	}
	l.sim.mu.Unlock()
	if missing != "" {
		l.sim.record("complete-refused", l.id, l.vm.Value, map[string]interface{}{"missing": missing})
		return &methods.HttpNfcLeaseCompleteBody{
			Fault_: simulator.Fault("The disk "+missing+" was not received.", &types.InvalidState{}),
		}
	}
	entity := simulator.Map.Get(l.vm).(*simulator.VirtualMachine)
	simulator.Map.WithLock(l.vm, func() { entity.DisabledMethod = nil })
	simulator.Map.Update(l, []types.PropertyChange{
		{Name: "transferProgress", Val: int32(100)},
		{Name: "state", Val: types.HttpNfcLeaseStateDone},
	})
	l.end()
	l.sim.record("lease-completed", l.id, l.vm.Value, nil)
	return &methods.HttpNfcLeaseCompleteBody{Res: new(types.HttpNfcLeaseCompleteResponse)}
}

// HttpNfcLeaseAbort ends the lease and removes the VM with all its disks.
func (l *Lease) HttpNfcLeaseAbort(_ *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	switch l.State {
	case types.HttpNfcLeaseStateDone, types.HttpNfcLeaseStateError:
		return &methods.HttpNfcLeaseAbortBody{Fault_: l.notReady()}
	}
	message := "The import was aborted by the client."
	if req.Fault != nil && req.Fault.LocalizedMessage != "" {
		message = req.Fault.LocalizedMessage
	}
	l.fail("lease-aborted", &types.RequestCanceled{}, message)
	l.sim.destroyVM(l.vm)
	return &methods.HttpNfcLeaseAbortBody{Res: new(types.HttpNfcLeaseAbortResponse)}
}

// HttpNfcLeaseGetManifest describes what was received so far.
func (l *Lease) HttpNfcLeaseGetManifest(*simulator.Context, *types.HttpNfcLeaseGetManifest) soap.HasFault {
	if fault := l.notReady(); fault != nil {
		return &methods.HttpNfcLeaseGetManifestBody{Fault_: fault}
	}
	answer := new(types.HttpNfcLeaseGetManifestResponse)
	l.sim.mu.Lock()
	defer l.sim.mu.Unlock()
	wrong := l.sim.faults.WrongChecksums > 0
	if wrong {
		l.sim.faults.WrongChecksums--
	}
	for _, url := range l.Info.DeviceUrl {
		file := l.files[url.TargetId]
		if file.stored == nil || file.busy {
			continue
		}
		entry := types.HttpNfcLeaseManifestEntry{
			Key: url.Key, Sha1: file.stored.SHA1, Size: file.stored.Size, Disk: true, Capacity: file.capacity,
		}
		entry.ChecksumType, entry.Checksum = "sha1", file.stored.SHA1
		if l.checksum[url.Key] == "sha256" {
			entry.ChecksumType, entry.Checksum = "sha256", file.stored.SHA256
		}
		if wrong {
			entry.Sha1, entry.Checksum = strings.Repeat("0", len(entry.Sha1)), strings.Repeat("0", len(entry.Checksum))
		}
		answer.Returnval = append(answer.Returnval, entry)
	}
	return &methods.HttpNfcLeaseGetManifestBody{Res: answer}
}

// The method of vSphere 6.7 that the simulator's types do not have.

type setManifestChecksumType struct {
	This                      types.ManagedObjectReference `xml:"_this"`
	DeviceUrlsToChecksumTypes []types.KeyValue             `xml:"deviceUrlsToChecksumTypes,omitempty"`
}

type setManifestChecksumTypeResponse struct{}

type setManifestChecksumTypeBody struct {
	Res    *setManifestChecksumTypeResponse `xml:"HttpNfcLeaseSetManifestChecksumTypeResponse,omitempty"`
	Fault_ *soap.Fault                      `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault makes it a soap.HasFault.
func (b *setManifestChecksumTypeBody) Fault() *soap.Fault { return b.Fault_ }

func init() {
	types.Add("HttpNfcLeaseSetManifestChecksumType", reflect.TypeOf((*setManifestChecksumType)(nil)).Elem())
}

// HttpNfcLeaseSetManifestChecksumType chooses sha1 or sha256 for a device URL's manifest entry.
func (l *Lease) HttpNfcLeaseSetManifestChecksumType(_ *simulator.Context, req *setManifestChecksumType) soap.HasFault {
	if fault := l.notReady(); fault != nil {
		return &setManifestChecksumTypeBody{Fault_: fault}
	}
	known := map[string]bool{}
	for _, url := range l.Info.DeviceUrl {
		known[url.Key] = true
	}
	for _, pair := range req.DeviceUrlsToChecksumTypes {
		if !known[pair.Key] || (pair.Value != "sha1" && pair.Value != "sha256") {
			return &setManifestChecksumTypeBody{Fault_: simulator.Fault(
				pair.Key+"="+pair.Value, &types.InvalidArgument{InvalidProperty: "deviceUrlsToChecksumTypes"})}
		}
	}
	for _, pair := range req.DeviceUrlsToChecksumTypes {
		l.checksum[pair.Key] = pair.Value
	}
	return &setManifestChecksumTypeBody{Res: &setManifestChecksumTypeResponse{}}
}
