// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The control endpoint, /__sim/…, with the header X-Sim-Token:
//
//	GET    vms, vms/ID           what is there, with the received disks
//	POST   vms/ID/power          {"state": "on"|"off"|"suspended"}
//	POST   vms/ID/adopt          {"by", "name", "resource_pool", "folder"}: as VCD takes a VM over
//	POST   vms/ID/nics           [{"index","type","mac","network","connected"}]: replaces all
//	POST   vms/ID/reconfigure    {"name","cpus","cores_per_socket","memory_mb"}
//	POST   vms/ID/clone          {"name"} → the new VM
//	DELETE vms/ID
//	GET    events                ?after=N: from the N-th on
//	GET    faults, PUT faults    see Faults; PUT replaces all
//	PUT    settings              {"lease_timeout_seconds", "device_url_host", "boots", "denied"}; see Boots, Sim

type vmView struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	UUID         string            `json:"uuid"`
	Power        string            `json:"power"`
	Path         string            `json:"path"`
	ResourcePool string            `json:"resource_pool"`
	Folder       string            `json:"folder"`
	Policies     []string          `json:"policies"` // ids of storage policies as the last reconfiguration has them
	Written      bool              `json:"written"`  // the disks are not what was imported any more: the VM ran
	Snapshots    int               `json:"snapshots"`
	ManagedBy    string            `json:"managed_by"`
	Leased       bool              `json:"leased"`
	Template     bool              `json:"template"`
	Version      string            `json:"version"`
	GuestID      string            `json:"guest_id"`
	Firmware     string            `json:"firmware"`
	SecureBoot   bool              `json:"secure_boot"`
	CPUs         int32             `json:"cpus"`
	Cores        int32             `json:"cores_per_socket"`
	MemoryMB     int32             `json:"memory_mb"`
	Annotation   string            `json:"annotation"`
	ExtraConfig  map[string]string `json:"extra_config"`
	Disks        []diskView        `json:"disks"`
	Nics         []nicView         `json:"nics"`
	TPM          bool              `json:"tpm"`
}

type diskView struct {
	Key            int32       `json:"key"`
	Label          string      `json:"label"`
	Controller     string      `json:"controller"` // class, e.g. ParaVirtualSCSIController
	ControllerKey  int32       `json:"controller_key"`
	Bus            int32       `json:"bus"`
	Unit           int32       `json:"unit"`
	CapacityBytes  int64       `json:"capacity_bytes"`
	StorageProfile string      `json:"storage_profile,omitempty"`
	Received       *StoredDisk `json:"received"` // nil: the disk is empty
}

type nicView struct {
	Key       int32  `json:"key"`
	Type      string `json:"type"` // class, e.g. VirtualVmxnet3
	MAC       string `json:"mac"`
	MACType   string `json:"mac_type"`
	Network   string `json:"network"`
	Connected bool   `json:"connected"`
}

func (s *Sim) serveControl(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Sim-Token")), []byte(s.config.ControlToken)) != 1 {
		http.Error(w, "X-Sim-Token", http.StatusForbidden)
		return
	}
	answer, err := s.control(r)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func decode(r *http.Request, into interface{}) error {
	decoder := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func (s *Sim) control(r *http.Request) (interface{}, error) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/__sim/"), "/"), "/")
	call := r.Method + " " + parts[0]
	switch {
	case call == "GET vms" && len(parts) == 1:
		return s.views(), nil
	case parts[0] == "vms" && len(parts) > 1:
		return s.controlVM(r, parts)
	case call == "GET events":
		after := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("after"), &after)
		s.mu.Lock()
		defer s.mu.Unlock()
		if after > len(s.events) || after < 0 {
			after = len(s.events)
		}
		return append([]Event{}, s.events[after:]...), nil
	case call == "GET faults":
		s.mu.Lock()
		defer s.mu.Unlock()
		return struct {
			Faults
			Seen []int `json:"seen"`
		}{s.faults, append([]int{}, s.seen...)}, nil
	case call == "PUT faults":
		faults := Faults{}
		if err := decode(r, &faults); err != nil {
			return nil, err
		}
		if err := faults.check(); err != nil {
			return nil, err
		}
		s.setFaults(faults)
		return faults, nil
	case call == "PUT settings":
		settings := struct {
			LeaseTimeout  *float64 `json:"lease_timeout_seconds"`
			DeviceURLHost *string  `json:"device_url_host"`
			Boots         *Boots   `json:"boots"`
			Denied        []string `json:"denied"`
		}{}
		if err := decode(r, &settings); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if settings.LeaseTimeout != nil {
			s.timeout = time.Duration(*settings.LeaseTimeout * float64(time.Second))
		}
		if settings.DeviceURLHost != nil {
			s.urlHost = *settings.DeviceURLHost
		}
		if settings.Boots != nil {
			s.boots = *settings.Boots
		}
		if settings.Denied != nil {
			s.denied = settings.Denied
		}
		return settings, nil
	}
	return nil, fmt.Errorf("no such call: %s %s", r.Method, r.URL.Path)
}

func (s *Sim) controlVM(r *http.Request, parts []string) (interface{}, error) {
	ctx := context.Background()
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: parts[1]}
	if _, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine); !ok {
		return nil, fmt.Errorf("no VM %s", parts[1])
	}
	vm := object.NewVirtualMachine(s.client, ref)
	action := ""
	if len(parts) > 2 {
		action = parts[2]
	}
	var err error
	switch r.Method + " " + action {
	case "GET ":
	case "DELETE ":
		s.destroyVM(ref)
		return map[string]string{}, nil
	case "POST power":
		err = s.power(ctx, vm, r)
	case "POST adopt":
		err = s.adopt(ctx, vm, r)
	case "POST nics":
		err = s.replaceNics(ctx, vm, r)
	case "POST reconfigure":
		change := struct {
			Name     string `json:"name"`
			CPUs     int32  `json:"cpus"`
			Cores    int32  `json:"cores_per_socket"`
			MemoryMB int64  `json:"memory_mb"`
		}{}
		if err = decode(r, &change); err == nil {
			err = s.wait(vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{
				Name: change.Name, NumCPUs: change.CPUs, NumCoresPerSocket: change.Cores, MemoryMB: change.MemoryMB,
			}))
		}
	case "POST clone":
		return s.clone(ctx, vm, r)
	default:
		err = fmt.Errorf("no such call: %s %s", r.Method, r.URL.Path)
	}
	if err != nil {
		return nil, err
	}
	return s.view(ref)
}

func (s *Sim) wait(task *object.Task, err error) error {
	if err != nil {
		return err
	}
	return task.Wait(context.Background())
}

func (s *Sim) power(ctx context.Context, vm *object.VirtualMachine, r *http.Request) error {
	want := struct {
		State string `json:"state"`
	}{}
	if err := decode(r, &want); err != nil {
		return err
	}
	s.record("power", "", vm.Reference().Value, map[string]interface{}{"state": want.State})
	switch want.State {
	case "on":
		return s.wait(vm.PowerOn(ctx))
	case "off":
		return s.wait(vm.PowerOff(ctx))
	case "suspended":
		return s.wait(vm.Suspend(ctx))
	}
	return fmt.Errorf("state %q", want.State)
}

func (s *Sim) adopt(ctx context.Context, vm *object.VirtualMachine, r *http.Request) error {
	want := struct {
		By           string `json:"by"`
		Name         string `json:"name"`
		ResourcePool string `json:"resource_pool"`
		Folder       string `json:"folder"`
	}{}
	if err := decode(r, &want); err != nil {
		return err
	}
	spec := types.VirtualMachineRelocateSpec{}
	if want.ResourcePool != "" {
		pool, err := lookup("ResourcePool", want.ResourcePool)
		if err != nil {
			return err
		}
		spec.Pool = pool
	}
	if want.Folder != "" {
		folder, err := lookup("Folder", want.Folder)
		if err != nil {
			return err
		}
		spec.Folder = folder
	}
	if spec.Pool != nil || spec.Folder != nil {
		if err := s.wait(vm.Relocate(ctx, spec, types.VirtualMachineMovePriorityDefaultPriority)); err != nil {
			return err
		}
	}
	if want.Name != "" && want.Name != simulator.Map.Get(vm.Reference()).(*simulator.VirtualMachine).Name {
		if err := s.wait(vm.Rename(ctx, want.Name)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.managed[vm.Reference()] = want.By
	s.mu.Unlock()
	s.record("vm-adopted", "", vm.Reference().Value, map[string]interface{}{"by": want.By, "name": want.Name})
	return nil
}

func lookup(kind, name string) (*types.ManagedObjectReference, error) {
	for _, entity := range simulator.Map.All(kind) {
		if entity.Entity().Name == name {
			ref := entity.Reference()
			return &ref, nil
		}
	}
	return nil, fmt.Errorf("no %s %q", kind, name)
}

func (s *Sim) replaceNics(ctx context.Context, vm *object.VirtualMachine, r *http.Request) error {
	var want []struct {
		Index     int    `json:"index"`
		Type      string `json:"type"` // as VCD names it: VMXNET3, E1000, E1000E, VMXNET2, VLANCE
		MAC       string `json:"mac"`
		Network   string `json:"network"`
		Connected bool   `json:"connected"`
	}
	if err := decode(r, &want); err != nil {
		return err
	}
	kinds := map[string]string{"VMXNET3": "vmxnet3", "E1000": "e1000", "E1000E": "e1000e", "VMXNET2": "vmxnet2", "VLANCE": "pcnet32"}
	devices, err := vm.Device(ctx)
	if err != nil {
		return err
	}
	for _, device := range devices.SelectByType((*types.VirtualEthernetCard)(nil)) {
		if err := vm.RemoveDevice(ctx, false, device); err != nil {
			return err
		}
	}
	sort.Slice(want, func(a, b int) bool { return want[a].Index < want[b].Index })
	finder := find.NewFinder(s.client, false)
	dc, err := finder.DefaultDatacenter(ctx)
	if err != nil {
		return err
	}
	finder.SetDatacenter(dc)
	for _, nic := range want {
		kind, ok := kinds[nic.Type]
		if !ok {
			return fmt.Errorf("adapter type %q", nic.Type)
		}
		network, err := finder.Network(ctx, nic.Network)
		if err != nil {
			return err
		}
		backing, err := network.EthernetCardBackingInfo(ctx)
		if err != nil {
			return err
		}
		device, err := object.EthernetCardTypes().CreateEthernetCard(kind, backing)
		if err != nil {
			return err
		}
		card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		card.Key = int32(-100 - nic.Index)
		card.UnitNumber = types.NewInt32(int32(7 + nic.Index))
		card.AddressType, card.MacAddress = "manual", nic.MAC
		card.Connectable = &types.VirtualDeviceConnectInfo{
			StartConnected: nic.Connected, Connected: nic.Connected, AllowGuestControl: true,
		}
		if err := vm.AddDevice(ctx, device); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) clone(ctx context.Context, vm *object.VirtualMachine, r *http.Request) (interface{}, error) {
	want := struct {
		Name string `json:"name"`
	}{}
	if err := decode(r, &want); err != nil {
		return nil, err
	}
	folder, err := lookup("Folder", "vm")
	if err != nil {
		return nil, err
	}
	entity := simulator.Map.Get(vm.Reference()).(*simulator.VirtualMachine)
	task, err := vm.Clone(ctx, object.NewFolder(s.client, *folder), want.Name, types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Pool: entity.ResourcePool},
	})
	if err != nil {
		return nil, err
	}
	info, err := task.WaitForResult(ctx, nil)
	if err != nil {
		return nil, err
	}
	ref := info.Result.(types.ManagedObjectReference)
	s.mu.Lock()
	copies := map[int32]*StoredDisk{}
	for key, disk := range s.disks[vm.Reference()] {
		copies[key] = disk
	}
	s.disks[ref] = copies
	s.mu.Unlock()
	return s.view(ref)
}

func (s *Sim) views() []*vmView {
	views := []*vmView{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if view, err := s.view(entity.Reference()); err == nil {
			views = append(views, view)
		}
	}
	sort.Slice(views, func(a, b int) bool { return views[a].ID < views[b].ID })
	return views
}

func entityName(ref *types.ManagedObjectReference) string {
	if ref == nil {
		return ""
	}
	switch entity := simulator.Map.Get(*ref).(type) {
	case *simulator.ResourcePool:
		return entity.Name
	case *simulator.Folder:
		return entity.Name
	}
	return ""
}

func (s *Sim) view(ref types.ManagedObjectReference) (*vmView, error) {
	vm, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return nil, fmt.Errorf("no VM %s", ref.Value)
	}
	s.mu.Lock()
	stored := map[int32]StoredDisk{}
	for key, disk := range s.disks[ref] {
		stored[key] = *disk
	}
	managed, known := s.managed[ref], s.guests[ref]
	policies := append([]string{}, s.policies[ref]...)
	s.mu.Unlock()

	view := &vmView{ID: ref.Value, ManagedBy: managed, ExtraConfig: map[string]string{}, Disks: []diskView{}, Nics: []nicView{}}
	view.Written, view.Policies = known.written, policies
	simulator.Map.WithLock(ref, func() {
		config := vm.Config
		view.Name, view.UUID, view.Power = vm.Name, config.Uuid, string(vm.Runtime.PowerState)
		view.Path = config.Files.VmPathName
		view.ResourcePool, view.Folder = entityName(vm.ResourcePool), entityName(vm.Parent)
		if vm.Snapshot != nil {
			view.Snapshots = len(vm.Snapshot.RootSnapshotList)
		}
		view.Leased, view.Template = len(vm.DisabledMethod) > 0, config.Template
		view.Version, view.GuestID, view.Firmware = config.Version, config.GuestId, config.Firmware
		if config.BootOptions != nil && config.BootOptions.EfiSecureBootEnabled != nil {
			view.SecureBoot = *config.BootOptions.EfiSecureBootEnabled
		}
		view.CPUs, view.Cores = config.Hardware.NumCPU, config.Hardware.NumCoresPerSocket
		view.MemoryMB, view.Annotation = config.Hardware.MemoryMB, config.Annotation
		for _, option := range config.ExtraConfig {
			value := option.GetOptionValue()
			view.ExtraConfig[value.Key] = fmt.Sprint(value.Value)
		}
		devices := object.VirtualDeviceList(config.Hardware.Device)
		for _, device := range devices {
			base := device.GetVirtualDevice()
			switch device := device.(type) {
			case *types.VirtualDisk:
				view.Disks = append(view.Disks, viewDisk(devices, device, stored))
			case *types.VirtualTPM:
				view.TPM = true
			case types.BaseVirtualEthernetCard:
				card := device.GetVirtualEthernetCard()
				nic := nicView{Key: base.Key, MAC: card.MacAddress, MACType: card.AddressType}
				nic.Type = reflect.TypeOf(device).Elem().Name()
				nic.Network = networkName(base.Backing)
				if base.Connectable != nil {
					nic.Connected = base.Connectable.StartConnected
				}
				view.Nics = append(view.Nics, nic)
			}
		}
	})
	sort.SliceStable(view.Disks, func(a, b int) bool {
		left, right := view.Disks[a], view.Disks[b]
		if left.ControllerKey != right.ControllerKey {
			return left.ControllerKey < right.ControllerKey
		}
		return left.Unit < right.Unit
	})
	return view, nil
}

func viewDisk(devices object.VirtualDeviceList, disk *types.VirtualDisk, stored map[int32]StoredDisk) diskView {
	view := diskView{Key: disk.Key, ControllerKey: disk.ControllerKey, CapacityBytes: disk.CapacityInKB * 1024}
	if disk.CapacityInBytes != 0 {
		view.CapacityBytes = disk.CapacityInBytes
	}
	if disk.UnitNumber != nil {
		view.Unit = *disk.UnitNumber
	}
	if disk.DeviceInfo != nil {
		view.Label = disk.DeviceInfo.GetDescription().Label
	}
	if controller := devices.FindByKey(disk.ControllerKey); controller != nil {
		view.Controller = controllerName(controller)
		if base, ok := controller.(types.BaseVirtualController); ok {
			view.Bus = base.GetVirtualController().BusNumber
		}
	}
	if received, ok := stored[disk.Key]; ok {
		view.Received = &received
	}
	return view
}

func networkName(backing types.BaseVirtualDeviceBackingInfo) string {
	switch backing := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return backing.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		ref := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: backing.Port.PortgroupKey}
		if group, ok := simulator.Map.Get(ref).(*simulator.DistributedVirtualPortgroup); ok {
			return group.Name
		}
	}
	return ""
}
