# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_import as vi
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS_BY_NAME,
    DiskPlace,
    Hardware,
    place_disks,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import VcenterError, listing

vim = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed").vim

DISKS = (DiskPlace(0, 1024, 0, 0), DiskPlace(1, 2048, 0, 1))


def url(import_key: str | None, target: str | None = None, *, disk: bool | None = True, **others: Any) -> Any:
    values = {"key": f"/vm-1/{target}", "importKey": import_key, "targetId": target, "disk": disk, "sslThumbprint": ""}
    return SimpleNamespace(**{**values, "url": f"https://esx1/nfc/1/{target}", **others})


def hardware(controller: str = "pvscsi", sizes: tuple[int, ...] = (1024, 2048), **others: Any) -> Hardware:
    values: dict[str, Any] = {
        "guest_id": "debian12_64Guest",
        "firmware": "efi",
        "secure_boot": True,
        "controller": controller,
        "nic": "vmxnet3",
        "num_cpus": 4,
        "cores_per_socket": 2,
        "memory_mb": 2048,
        "disks": place_disks(CONTROLLERS_BY_NAME[controller], sizes),
    }
    return Hardware(**{**values, **others})


def indexes(urls: list[Any], controller: str = "pvscsi") -> dict[int, str]:
    found = vi.match_device_urls(urls, DISKS, controller, "vc:443")
    return {index: target.url.rpartition("/")[2] for index, target in found.items()}


def test_urls_are_matched_by_bus_and_unit_whatever_their_order() -> None:
    urls = [url("/n/ParaVirtualSCSIController0:1", "a"), url("/n/ParaVirtualSCSIController0:0", "b")]
    assert indexes(urls) == {0: "b", 1: "a"}


def test_class_is_known_with_and_without_its_prefix() -> None:
    urls = [url("/n/AHCIController0:1", "a"), url("/n/VirtualAHCIController0:0", "b")]
    assert indexes(urls, "ahci") == {0: "b", 1: "a"}


def test_place_may_be_named_as_in_the_vm_s_own_file() -> None:
    assert indexes([url("/vm/scsi0:1", "b"), url("/vm/scsi0:0", "a")]) == {1: "b", 0: "a"}
    assert indexes([url("/vm/sata0:1", "b"), url("/vm/sata0:0", "a")], "ahci") == {1: "b", 0: "a"}
    assert indexes([url("/vm/VirtualNVMEController0:1", "b"), url("/vm/nvme0:0", "a")], "nvme") == {1: "b", 0: "a"}


def test_urls_that_only_number_the_disks_are_matched() -> None:
    assert indexes([url("/n/disk:1", "x"), url("/n/disk:0", "y")]) == {0: "y", 1: "x"}
    assert indexes([url(None, "disk-1.vmdk"), url(None, "disk-0.vmdk")]) == {0: "disk-0.vmdk", 1: "disk-1.vmdk"}


def test_devices_that_are_no_disks_are_left_out() -> None:
    urls = [url("/n/nvram", "nvram", disk=False), url("/n/disk:0", "a"), url("/n/disk:1", "b")]
    assert indexes(urls) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "urls",
    [
        [],
        [url("/n/disk:0", "a")],
        [url("/n/disk:0", "a"), url("/n/disk:0", "b")],
        [url("/n/disk:0", "a"), url("/n/disk:2", "b")],
        [url("/n/disk:0", "a"), url("/n/disk:1", "b"), url("/n/disk:2", "c")],
        [url("/n/ParaVirtualSCSIController1:0", "a"), url("/n/ParaVirtualSCSIController0:1", "b")],
    ],
)
def test_urls_that_do_not_match_one_to_one_are_refused(urls: list[Any]) -> None:
    with pytest.raises(VcenterError, match="do not match the VM's 2 disks"):
        indexes(urls)


def test_star_stands_for_the_server_that_was_asked() -> None:
    urls = [
        url("/n/disk:0", "disk-0.vmdk", url="https://*/nfc/1/disk-0.vmdk"),
        url("/n/disk:1", "disk-1.vmdk", url="https://esx*/nfc/1/disk-1.vmdk"),
    ]
    found = vi.match_device_urls(urls, DISKS, "pvscsi", "vc.example.com:8443")
    assert found[0].url == "https://vc.example.com:8443/nfc/1/disk-0.vmdk"
    assert found[1].url == "https://esx*/nfc/1/disk-1.vmdk"


def test_config_spec_has_the_hardware() -> None:
    request = vi.VmRequest("id-1", "erp", "note", hardware(sizes=(1024,) * 17), hardware_version="vmx-19")
    spec = vi.build_config_spec(request, "ds")
    devices = [change.device for change in spec.deviceChange]
    controllers = [d for d in devices if isinstance(d, vim.vm.device.ParaVirtualSCSIController)]
    disks = [d for d in devices if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [c.busNumber for c in controllers] == [0, 1]
    assert [(d.controllerKey, d.unitNumber) for d in disks[14:]] == [
        (controllers[0].key, 15),
        (controllers[1].key, 0),
        (controllers[1].key, 1),
    ]
    assert len({device.key for device in devices}) == len(devices)
    assert {change.fileOperation for change in spec.deviceChange if change.device in disks} == {"create"}
    assert (spec.firmware, spec.bootOptions.efiSecureBootEnabled) == ("efi", True)
    assert (spec.numCPUs, spec.numCoresPerSocket, spec.memoryMB, spec.version) == (4, 2, 2048, "vmx-19")
    assert {option.key: option.value for option in spec.extraConfig} == {
        "guestinfo.coldmig.id": "id-1",
        "guestinfo.coldmig.state": "importing",
    }


def test_storage_policy_is_set_for_the_vm_and_every_disk_only() -> None:
    spec = vi.build_config_spec(vi.VmRequest("i", "n", "a", hardware(), policy_id="p-1"), "ds")
    assert [profile.profileId for profile in spec.vmProfile] == ["p-1"]
    assert [len(change.profile or []) for change in spec.deviceChange] == [0, 1, 1]
    assert not vi.build_config_spec(vi.VmRequest("i", "n", "a", hardware()), "ds").vmProfile


@pytest.mark.parametrize("name", CONTROLLERS_BY_NAME)
def test_every_controller_exists_in_pyvmomi(name: str) -> None:
    spec = vi.build_config_spec(vi.VmRequest("i", "n", "a", hardware(name)), "ds")
    assert type(spec.deviceChange[0].device).__name__.endswith(CONTROLLERS_BY_NAME[name].vim_class)


def test_nics_are_not_connected_and_keep_a_mac_only_where_asked() -> None:
    request = vi.VmRequest("i", "n", "a", hardware(), nics=("52:54:00:00:00:01", None))
    network = vim.Network("network-1", None)
    nics = [c.device for c in vi.build_config_spec(request, "ds", network, "VM Network").deviceChange][-2:]
    assert [(nic.macAddress, nic.addressType) for nic in nics] == [("52:54:00:00:00:01", "manual"), (None, "generated")]
    assert [(nic.connectable.connected, nic.connectable.startConnected) for nic in nics] == [(False, False)] * 2


def test_listing_is_bounded() -> None:
    assert listing([]) == "are none"
    assert listing(["a"]) == "is 'a'"
    assert listing(f"n{number:02}" for number in range(12)).endswith("'n09' and 2 more")
