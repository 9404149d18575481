// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// Inventory names what the vCenter holds at the start. There are no VMs.
type Inventory struct {
	Datacenter    string   `json:"datacenter"`
	Cluster       string   `json:"cluster"`
	Hosts         []string `json:"hosts"`
	Datastore     string   `json:"datastore"`
	ResourcePools []string `json:"resource_pools"` // children of the cluster's root pool
	Folders       []string `json:"folders"`        // VM folders at the top of the datacenter
	Portgroups    []string `json:"portgroups"`     // distributed ones; the standard "VM Network" exists by itself
	DatastoreSize int64    `json:"datastore_bytes"`
}

func about() types.AboutInfo {
	return types.AboutInfo{
		Name:                  "VMware vCenter Server",
		FullName:              "VMware vCenter Server 8.0.2 build-22617221 (simulated)",
		Vendor:                "VMware, Inc.",
		Version:               "8.0.2",
		Build:                 "22617221",
		LocaleVersion:         "INTL",
		LocaleBuild:           "000",
		OsType:                "linux-x64",
		ProductLineId:         "vpx",
		ApiType:               "VirtualCenter",
		ApiVersion:            "8.0.2.0",
		InstanceUuid:          "5c1b4a5e-7f35-4c55-9a05-a3b9a2f6c0d1",
		LicenseProductName:    "VMware VirtualCenter Server",
		LicenseProductVersion: "8.0",
	}
}

// apply renames what the model made and adds what it does not make.
func (inv *Inventory) apply(ctx context.Context, client *vim25.Client) error {
	dc := simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	cluster := simulator.Map.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
	simulator.Map.Update(dc, []types.PropertyChange{{Name: "name", Val: inv.Datacenter}})
	simulator.Map.Update(cluster, []types.PropertyChange{{Name: "name", Val: inv.Cluster}})
	for i, ref := range cluster.Host {
		host := simulator.Map.Get(ref).(*simulator.HostSystem)
		host.Name, host.Summary.Config.Name = inv.Hosts[i], inv.Hosts[i]
	}

	seen := map[types.ManagedObjectReference]bool{}
	var networks []types.ManagedObjectReference
	for _, ref := range dc.Network { // the model lists its port group once per host
		if !seen[ref] {
			networks = append(networks, ref)
		}
		seen[ref] = true
	}
	dc.Network = networks

	store := simulator.Map.Any("Datastore").(*simulator.Datastore)
	info := store.Info.GetDatastoreInfo()
	store.Name, store.Summary.Name, info.Name = inv.Datastore, inv.Datastore, inv.Datastore
	if inv.DatastoreSize > 0 {
		store.Summary.Capacity, store.Summary.FreeSpace, info.FreeSpace = inv.DatastoreSize, inv.DatastoreSize, inv.DatastoreSize
	}

	pool := object.NewResourcePool(client, *cluster.ResourcePool)
	for _, name := range inv.ResourcePools {
		if _, err := pool.Create(ctx, name, types.DefaultResourceConfigSpec()); err != nil {
			return fmt.Errorf("resource pool %s: %w", name, err)
		}
	}
	folder := object.NewFolder(client, dc.VmFolder)
	for _, name := range inv.Folders {
		if _, err := folder.CreateFolder(ctx, name); err != nil {
			return fmt.Errorf("folder %s: %w", name, err)
		}
	}
	switchEntity := simulator.Map.Any("DistributedVirtualSwitch")
	if switchEntity == nil {
		switchEntity = simulator.Map.Any("VmwareDistributedVirtualSwitch")
	}
	dvs := object.NewDistributedVirtualSwitch(client, switchEntity.Reference())
	for _, name := range inv.Portgroups {
		task, err := dvs.AddPortgroup(ctx, []types.DVPortgroupConfigSpec{{Name: name}})
		if err == nil {
			err = task.Wait(ctx)
		}
		if err != nil {
			return fmt.Errorf("port group %s: %w", name, err)
		}
	}
	return nil
}
