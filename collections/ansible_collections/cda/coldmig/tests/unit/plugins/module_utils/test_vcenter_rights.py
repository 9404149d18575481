# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileges that preflight asks for are those that vCenter's own API names for what we call."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_rights as rights

pyvmomi = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed")
vim, pbm = pyvmomi.vim, pyvmomi.pbm

EVERYBODY = {"System.Anonymous", "System.Read", "System.View"}
"""Every role has them."""


def named(method: Any) -> set[str]:
    """The privileges that a method and its parameters want."""
    return {method.info.privId, *(parameter.privId for parameter in method.info.params)} - {None} - EVERYBODY


def of(kind: str, *, network: bool = False, storage_policy: bool = False, test_boot: bool = False) -> set[str]:
    found = rights.needed(network=network, storage_policy=storage_policy, test_boot=test_boot)
    return {right for one in found if one.kind == kind and not one.dispensable for right in one.rights}


def test_import_has_what_its_methods_want() -> None:
    wanted = named(vim.ResourcePool.ImportVApp)
    assert wanted == {"VApp.Import"}
    assert wanted <= of("resource pool")
    assert wanted <= of("folder")
    # what making a VM by other means wants, this one wants as well
    assert named(vim.Folder.CreateVM_Task) <= of("resource pool") | of("folder")
    assert "Network.Assign" in of("network", network=True)
    assert of("network") == set()


def test_test_boot_has_what_its_methods_want() -> None:
    machine = vim.VirtualMachine
    for method in (
        machine.CreateSnapshot_Task,
        machine.RevertToCurrentSnapshot_Task,
        machine.RemoveAllSnapshots_Task,
        machine.PowerOnVM_Task,
        machine.PowerOffVM_Task,
    ):
        assert named(method) <= of("folder", test_boot=True), method.info.name
        assert not named(method) & of("folder"), method.info.name
    assert "VirtualMachine.Interact.DeviceConnection" in of("folder", test_boot=True, network=True)
    assert "VirtualMachine.Interact.DeviceConnection" not in of("folder", test_boot=True)


def test_storage_policy_has_what_its_methods_want() -> None:
    manager = pbm.profile.ProfileManager
    for method in (manager.PbmQueryProfile, manager.PbmRetrieveContent):
        assert named(method) <= of("vCenter", storage_policy=True), method.info.name
    assert of("vCenter") == set()
