// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Boots is how guests behave when a client of the API powers them on. Zero: they run, silently, for ever.
type Boots struct {
	HeartbeatSeconds *float64 `json:"heartbeat_seconds"` // VMware Tools run and their heart beats after so long
	PowersOffSeconds *float64 `json:"powers_off_seconds"`
	Crashes          bool     `json:"crashes"`   // the kernel of the guest, as Tools report it
	NoScreen         bool     `json:"no_screen"` // /screen answers 404
}

// guest is what is known of a VM's runs.
type guest struct {
	boots   int                     // power-ons
	written bool                    // its disks are not what was imported any more
	before  bool                    // … when the snapshot was made
	options []types.BaseOptionValue // its extraConfig then: it comes back with the snapshot
}

var thisVM = regexp.MustCompile(`<_this[^>]*type="VirtualMachine"[^>]*>([^<]+)<`)

// serveGuest passes on a call that touches what a guest has written, and notes what it means.
func (s *Sim) serveGuest(w http.ResponseWriter, r *http.Request, method string, body []byte) {
	answer := s.call(r, body)
	copyAnswer(w, answer, answer.Body.Bytes())
	match := thisVM.FindSubmatch(body)
	if answer.Code != http.StatusOK || match == nil {
		return
	}
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: string(match[1])}
	vm, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	s.mu.Lock()
	known := s.guests[ref]
	switch method {
	case "PowerOnVM_Task":
		known.boots++
		known.written = true
	case "CreateSnapshot_Task":
		known.before = known.written
		simulator.Map.WithLock(ref, func() { known.options = copied(vm.Config.ExtraConfig) })
	case "RevertToCurrentSnapshot_Task":
		known.written = known.before
		simulator.Map.WithLock(ref, func() { vm.Config.ExtraConfig = known.options })
	}
	s.guests[ref] = known
	boots := s.boots
	s.mu.Unlock()
	switch method {
	case "PowerOnVM_Task":
		s.record("power", "", ref.Value, map[string]interface{}{"state": "on", "connected": s.connected(vm)})
		s.quiet(vm)
		go s.boot(vm, ref, boots, known.boots)
	case "RevertToCurrentSnapshot_Task", "PowerOffVM_Task":
		s.record("power", "", ref.Value, map[string]interface{}{"state": "off"})
		s.quiet(vm)
	}
}

func copied(options []types.BaseOptionValue) []types.BaseOptionValue {
	found := make([]types.BaseOptionValue, 0, len(options))
	for _, option := range options {
		value := *option.GetOptionValue()
		found = append(found, &value)
	}
	return found
}

// connected counts the NICs that the guest finds connected.
func (s *Sim) connected(vm *simulator.VirtualMachine) int {
	count := 0
	simulator.Map.WithLock(vm.Self, func() {
		for _, device := range vm.Config.Hardware.Device {
			if _, ok := device.(types.BaseVirtualEthernetCard); ok {
				if base := device.GetVirtualDevice(); base.Connectable == nil || base.Connectable.StartConnected {
					count++
				}
			}
		}
	})
	return count
}

func (s *Sim) quiet(vm *simulator.VirtualMachine) {
	simulator.Map.WithLock(vm.Self, func() {
		vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
		simulator.Map.Update(vm, []types.PropertyChange{
			{Name: "guestHeartbeatStatus", Val: types.ManagedEntityStatusGray},
		})
	})
}

// boot is the life of a guest after a power-on, the number-th of its VM.
func (s *Sim) boot(vm *simulator.VirtualMachine, ref types.ManagedObjectReference, boots Boots, number int) {
	current := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.guests[ref].boots == number
	}
	if boots.HeartbeatSeconds != nil {
		time.Sleep(time.Duration(*boots.HeartbeatSeconds * float64(time.Second)))
		if !current() {
			return
		}
		simulator.Map.WithLock(ref, func() {
			if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
				return
			}
			vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
			vm.Guest.GuestKernelCrashed = types.NewBool(boots.Crashes)
			status := types.ManagedEntityStatusGreen
			if boots.Crashes {
				status = types.ManagedEntityStatusRed
			}
			simulator.Map.Update(vm, []types.PropertyChange{{Name: "guestHeartbeatStatus", Val: status}})
		})
	}
	if boots.PowersOffSeconds != nil {
		time.Sleep(time.Duration(*boots.PowersOffSeconds * float64(time.Second)))
		if !current() {
			return
		}
		ctx := context.Background()
		if task, err := object.NewVirtualMachine(s.client, ref).PowerOff(ctx); err == nil {
			_ = task.Wait(ctx)
			s.quiet(vm)
		}
	}
}

// one grey pixel
var picture, _ = base64.StdEncoding.DecodeString(
	"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")

// serveScreen is /screen?id=vm-42: what the console of a running VM shows. It wants the account, not a session.
func (s *Sim) serveScreen(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	boots := s.boots
	s.mu.Unlock()
	user, password, _ := r.BasicAuth()
	vm, ok := simulator.Map.Get(
		types.ManagedObjectReference{Type: "VirtualMachine", Value: r.URL.Query().Get("id")}).(*simulator.VirtualMachine)
	switch {
	case user != s.config.Username || password != s.config.Password:
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	case !ok || boots.NoScreen:
		http.NotFound(w, r)
	case vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn:
		http.Error(w, "the VM is not powered on", http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "image/png")
		_, _ = io.Copy(w, bytes.NewReader(picture))
	}
}
