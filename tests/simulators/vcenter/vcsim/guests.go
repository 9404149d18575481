// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// guest identifiers of vSphere 8.0 U2 that the simulator's list is too old for
var newerGuests = []string{
	"almalinux_64Guest", "amazonlinux2_64Guest", "amazonlinux3_64Guest", "centos8_64Guest", "centos9_64Guest",
	"debian11Guest", "debian11_64Guest", "debian12Guest", "debian12_64Guest", "freebsd11Guest", "freebsd11_64Guest",
	"freebsd12Guest", "freebsd12_64Guest", "freebsd13Guest", "freebsd13_64Guest", "freebsd14Guest", "freebsd14_64Guest",
	"kylinlinux_64Guest", "oracleLinux8_64Guest", "oracleLinux9_64Guest", "other4xLinux64Guest", "other4xLinuxGuest",
	"other5xLinux64Guest", "other5xLinuxGuest", "other6xLinux64Guest", "other6xLinuxGuest", "rhel8_64Guest",
	"rhel9_64Guest", "rockylinux_64Guest", "sles15_64Guest", "sles16_64Guest", "windows11_64Guest", "windows12_64Guest",
	"windows2019srvNext_64Guest", "windows2019srv_64Guest", "windows2022srvNext_64Guest",
}

const newestHardware = 21

// environment answers what a cluster can run. The simulator's own gives nothing but identifiers.
type environment struct {
	mo.EnvironmentBrowser
}

func installGuests(_ *vim25.Client) {
	known := map[string]bool{}
	for _, id := range simulator.GuestID {
		known[string(id)] = true
	}
	for _, id := range newerGuests {
		if !known[id] {
			simulator.GuestID = append(simulator.GuestID, types.VirtualMachineGuestOsIdentifier(id))
		}
	}
	for _, entity := range simulator.Map.All("ClusterComputeResource") {
		cluster := entity.(*simulator.ClusterComputeResource)
		browser := &environment{}
		browser.Self = *cluster.EnvironmentBrowser
		simulator.Map.Put(browser)
	}
}

// hardware gives the number in vmx-NN; 0 when the key is none.
func hardware(key string) int {
	if !strings.HasPrefix(key, "vmx-") {
		return 0
	}
	number := 0
	for _, digit := range key[4:] {
		if digit < '0' || digit > '9' {
			return 0
		}
		number = number*10 + int(digit-'0')
	}
	return number
}

// QueryConfigOptionDescriptor lists the hardware versions.
func (*environment) QueryConfigOptionDescriptor(*types.QueryConfigOptionDescriptor) soap.HasFault {
	answer := new(types.QueryConfigOptionDescriptorResponse)
	for _, key := range []string{"vmx-10", "vmx-11", "vmx-13", "vmx-14", "vmx-15", "vmx-17", "vmx-18", "vmx-19", "vmx-20", "vmx-21"} {
		answer.Returnval = append(answer.Returnval, types.VirtualMachineConfigOptionDescriptor{
			Key: key, Description: "Hardware " + key,
			CreateSupported: types.NewBool(true), DefaultConfigOption: types.NewBool(key == "vmx-21"),
			RunSupported: types.NewBool(true), UpgradeSupported: types.NewBool(true),
		})
	}
	return &methods.QueryConfigOptionDescriptorBody{Res: answer}
}

// QueryConfigOption answers for one hardware version.
func (b *environment) QueryConfigOption(req *types.QueryConfigOption) soap.HasFault {
	option, fault := b.option(req.Key, nil)
	if fault != nil {
		return &methods.QueryConfigOptionBody{Fault_: fault}
	}
	return &methods.QueryConfigOptionBody{Res: &types.QueryConfigOptionResponse{Returnval: option}}
}

// QueryConfigOptionEx answers for one hardware version and some guests. Without a match it gives all guests.
func (b *environment) QueryConfigOptionEx(req *types.QueryConfigOptionEx) soap.HasFault {
	key, guests := "", []string(nil)
	if req.Spec != nil {
		key, guests = req.Spec.Key, req.Spec.GuestId
	}
	option, fault := b.option(key, guests)
	if fault != nil {
		return &methods.QueryConfigOptionExBody{Fault_: fault}
	}
	return &methods.QueryConfigOptionExBody{Res: &types.QueryConfigOptionExResponse{Returnval: option}}
}

func (*environment) option(key string, guests []string) (*types.VirtualMachineConfigOption, *soap.Fault) {
	version := newestHardware
	if key != "" {
		version = hardware(key)
		if version < 4 || version > newestHardware {
			return nil, simulator.Fault(key, &types.InvalidArgument{InvalidProperty: "key"})
		}
	} else {
		key = "vmx-21"
	}
	option := &types.VirtualMachineConfigOption{Version: key, Description: "ESXi 8.0 U2 virtual machine"}
	wanted := map[string]bool{}
	for _, id := range guests {
		wanted[id] = true
	}
	var all []types.GuestOsDescriptor
	for _, id := range simulator.GuestID {
		descriptor := describe(string(id), version)
		all = append(all, descriptor)
		if wanted[string(id)] {
			option.GuestOSDescriptor = append(option.GuestOSDescriptor, descriptor)
		}
	}
	if len(option.GuestOSDescriptor) == 0 {
		option.GuestOSDescriptor = all
	}
	return option, nil
}

func describe(id string, version int) types.GuestOsDescriptor {
	lower := strings.ToLower(id)
	windows := strings.HasPrefix(lower, "win")
	wide := strings.Contains(lower, "64")
	vintage := strings.Contains(lower, "win9") || strings.Contains(lower, "win3") || strings.Contains(lower, "winnt") ||
		strings.Contains(lower, "win2000") || strings.Contains(lower, "winxp") || strings.Contains(lower, "dos") ||
		strings.Contains(lower, "winme")
	family := string(types.VirtualMachineGuestOsFamilyLinuxGuest)
	if windows {
		family = string(types.VirtualMachineGuestOsFamilyWindowsGuest)
	} else if strings.HasPrefix(lower, "other") && !strings.Contains(lower, "linux") {
		family = string(types.VirtualMachineGuestOsFamilyOtherGuestFamily)
	}
	firmware := []string{"bios"}
	if wide && version >= 11 && !vintage {
		firmware = append(firmware, "efi")
	}
	recommendedFirmware := "bios"
	if windows && wide && !vintage && version >= 13 {
		recommendedFirmware = "efi"
	}
	secure := wide && !vintage && version >= 13
	descriptor := types.GuestOsDescriptor{
		Id: id, Family: family, FullName: id,
		SupportedMaxCPUs: 768, NumSupportedPhysicalSockets: 64, NumSupportedCoresPerSocket: 64,
		SupportedMinMemMB: 32, SupportedMaxMemMB: 25165824, RecommendedMemMB: 2048,
		SupportedDiskControllerList: []string{
			"VirtualIDEController", "VirtualAHCIController", "VirtualLsiLogicController", "VirtualLsiLogicSASController",
		},
		RecommendedSCSIController: "VirtualLsiLogicController", RecommendedDiskController: "VirtualLsiLogicController",
		SupportedNumDisks: 60, RecommendedDiskSizeMB: 16384, RecommendedCdromController: "VirtualAHCIController",
		SupportedEthernetCard: []string{"VirtualE1000"}, RecommendedEthernetCard: "VirtualE1000",
		SupportedFirmware: firmware, RecommendedFirmware: recommendedFirmware, SupportLevel: "supported",
		SupportsSlaveDisk: types.NewBool(true), SmcRequired: types.NewBool(false), SupportsVMI: types.NewBool(false),
		SupportsMemoryHotAdd: types.NewBool(wide), SupportsCpuHotAdd: types.NewBool(wide), SupportsCpuHotRemove: types.NewBool(false),
		Supports3D: types.NewBool(false), Recommended3D: types.NewBool(false), SmcRecommended: types.NewBool(false),
		Ich7mRecommended: types.NewBool(false), UsbRecommended: types.NewBool(false), SupportedForCreate: types.NewBool(true),
		SupportsPvscsiControllerForBoot: types.NewBool(!vintage), DiskUuidEnabled: types.NewBool(false),
		SupportsHotPlugPCI: types.NewBool(true), SupportsSecureBoot: types.NewBool(secure),
		DefaultSecureBoot: types.NewBool(secure && windows), PersistentMemorySupported: types.NewBool(false),
		PersistentMemoryHotAddSupported: types.NewBool(false), PersistentMemoryHotRemoveSupported: types.NewBool(false),
		PersistentMemoryColdGrowthSupported: types.NewBool(false), PersistentMemoryHotGrowthSupported: types.NewBool(false),
		SupportsTPM20: types.NewBool(wide && version >= 14), VwdtSupported: types.NewBool(false),
	}
	if vintage {
		descriptor.SupportedDiskControllerList = []string{"VirtualIDEController", "VirtualBusLogicController", "VirtualLsiLogicController"}
		descriptor.SupportedEthernetCard = []string{"VirtualPCNet32", "VirtualE1000"}
		descriptor.RecommendedDiskController = "VirtualIDEController"
		return descriptor
	}
	descriptor.SupportedDiskControllerList = append(descriptor.SupportedDiskControllerList, "ParaVirtualSCSIController")
	if version >= 13 {
		descriptor.SupportedDiskControllerList = append(descriptor.SupportedDiskControllerList, "VirtualNVMEController")
	}
	descriptor.SupportedEthernetCard = append(descriptor.SupportedEthernetCard, "VirtualE1000e", "VirtualVmxnet3")
	if windows {
		descriptor.RecommendedSCSIController = "VirtualLsiLogicSASController"
		descriptor.RecommendedDiskController = "VirtualLsiLogicSASController"
		descriptor.RecommendedEthernetCard = "VirtualE1000e"
	} else {
		descriptor.RecommendedSCSIController = "ParaVirtualSCSIController"
		descriptor.RecommendedDiskController = "ParaVirtualSCSIController"
		descriptor.RecommendedEthernetCard = "VirtualVmxnet3"
	}
	return descriptor
}
