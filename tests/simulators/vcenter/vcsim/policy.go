// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"strings"

	pbmmethods "github.com/vmware/govmomi/pbm/methods"
	pbmsim "github.com/vmware/govmomi/pbm/simulator"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// solver says which datastores a storage policy can use: all but those of persistent memory, which there are none of.
type solver struct {
	types.ManagedObjectReference
}

func policies() *simulator.Registry {
	registry := pbmsim.New()
	registry.Put(&solver{types.ManagedObjectReference{Type: "PbmPlacementSolver", Value: "placementSolver"}})
	return registry
}

// PbmCheckRequirements answers for the hubs it is asked about, or for all.
func (*solver) PbmCheckRequirements(req *pbmtypes.PbmCheckRequirements) soap.HasFault {
	hubs := req.HubsToSearch
	if hubs == nil {
		for _, store := range simulator.Map.All("Datastore") {
			ref := store.Reference()
			hubs = append(hubs, pbmtypes.PbmPlacementHub{HubType: ref.Type, HubId: ref.Value})
		}
	}
	answer := new(pbmtypes.PbmCheckRequirementsResponse)
	for _, hub := range hubs {
		result := pbmtypes.PbmPlacementCompatibilityResult{Hub: hub}
		for _, wanted := range req.PlacementSubjectRequirement {
			profile, ok := wanted.(*pbmtypes.PbmPlacementCapabilityProfileRequirement)
			if ok && strings.HasPrefix(profile.ProfileId.UniqueId, "c268da1b") {
				result.Error = append(result.Error, types.LocalizedMethodFault{
					Fault:            &types.NotFound{},
					LocalizedMessage: "Datastore does not match current VM policy.",
				})
			}
		}
		answer.Returnval = append(answer.Returnval, result)
	}
	return &pbmmethods.PbmCheckRequirementsBody{Res: answer}
}

// notePolicies keeps the storage policies of a ReconfigVM_Task. What an import says of them counts for nothing, as it is not
// documented whether vCenter obeys it there.
func (s *Sim) notePolicies(body []byte) {
	match := thisVM.FindSubmatch(body)
	found := profileID.FindAllSubmatch(body, -1)
	if match == nil || found == nil {
		return
	}
	var ids []string
	for _, id := range found {
		ids = append(ids, string(id[1]))
	}
	s.mu.Lock()
	s.policies[types.ManagedObjectReference{Type: "VirtualMachine", Value: string(match[1])}] = ids
	s.mu.Unlock()
}
