# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Import of a VM with its disks through an NFC lease (``ResourcePool.ImportVApp``).

vCenter makes the VM with empty disks and opens a lease; each disk is a streamOptimized VMDK that is POSTed to the URL
that the lease gives for it. The lease dies after minutes without a sign of life, an upload that broke off cannot be
continued, and a lease that ends badly takes the VM with it. So: a thread keeps the lease alive, every disk is sent from
its beginning with its exact length, what vCenter received is compared with what was sent, and on any error the lease is
aborted and the VM, should it still be there, removed. The VM is marked complete at the very end; one without the mark
is what a killed run left behind.

Three things are tried again, each a bounded number of times: opening the lease, if it is not clear whether that was
done; one disk, as long as its lease lives, because the same bytes at the same places make the same disk; and all of it,
with a new lease from the staged disks, when the lease was lost.
"""

from __future__ import annotations

import contextlib
import re
import time
import typing as t
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS_BY_NAME,
    NICS,
    DiskPlace,
    Hardware,
)
from ansible_collections.cda.coldmig.plugins.module_utils._http import backoff
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import (
    ID_KEY,
    STATE_KEY,
    FoundVm,
    Placement,
    Vcenter,
    VcenterError,
    translated,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_lease import (
    Uploads,
    abort,
    choose_checksum,
    compare_manifest,
    complete,
    may_pass,
    open_lease,
    wait_ready,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_upload import DeviceUrl, OpenDisk, UploadError

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import vim

STATE_IMPORTING = "importing"


@dataclass(frozen=True)
class VmRequest:
    """The VM that is wanted.

    ``policy_id``: pbm's id of its storage policy. ``nics`` are the permanent MACs to keep, None where vCenter chooses;
    empty: no NICs.
    """

    migration_id: str
    name: str
    annotation: str
    hardware: Hardware
    hardware_version: str | None = None
    thin: bool = True
    nics: tuple[str | None, ...] = ()
    policy_id: str | None = None


# --- pure parts ---------------------------------------------------------------------------------------------------


def build_config_spec(
    request: VmRequest, datastore: str, network: t.Any | None = None, network_name: str = ""
) -> t.Any:
    """``vim.vm.ConfigSpec`` for ImportVApp. Device keys are negative, as for all devices that do not exist yet."""
    hardware = request.hardware
    controller = CONTROLLERS_BY_NAME[hardware.controller]
    buses = sorted({disk.bus for disk in hardware.disks})
    profiles = [vim.vm.DefinedProfileSpec(profileId=request.policy_id)] if request.policy_id else []
    changes = []
    keys = {bus: -100 - bus for bus in buses}
    for bus in buses:
        device = getattr(vim.vm.device, controller.vim_class)(key=keys[bus], busNumber=bus)
        if isinstance(device, vim.vm.device.VirtualSCSIController):
            device.sharedBus = vim.vm.device.VirtualSCSIController.Sharing.noSharing
        changes.append(_added(device))
    for disk in hardware.disks:
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[{datastore}]", diskMode="persistent", thinProvisioned=request.thin
        )
        changes.append(
            vim.vm.device.VirtualDeviceSpec(
                operation="add",
                fileOperation="create",
                profile=profiles,
                device=vim.vm.device.VirtualDisk(
                    key=-200 - disk.index,
                    controllerKey=keys[disk.bus],
                    unitNumber=disk.unit,
                    # capacityInBytes alone is refused by some versions
                    capacityInKB=disk.capacity_kb,
                    backing=backing,
                ),
            )
        )
    for number, mac in enumerate(request.nics):
        nic = getattr(vim.vm.device, NICS[hardware.nic])(
            key=-300 - number,
            backing=_nic_backing(network, network_name),
            addressType="manual" if mac else "generated",
            macAddress=mac,
            connectable=vim.vm.device.VirtualDevice.ConnectInfo(
                # a copy of a machine must not meet the original by accident; who owns it connects it
                startConnected=False,
                allowGuestControl=True,
                connected=False,
            ),
        )
        changes.append(_added(nic))
    return vim.vm.ConfigSpec(
        name=request.name,
        annotation=request.annotation,
        version=request.hardware_version,
        guestId=hardware.guest_id,
        firmware=hardware.firmware,
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=hardware.secure_boot)
        if hardware.firmware == "efi"
        else None,
        numCPUs=hardware.num_cpus,
        numCoresPerSocket=hardware.cores_per_socket,
        memoryMB=hardware.memory_mb,
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        extraConfig=[
            vim.option.OptionValue(key=ID_KEY, value=request.migration_id),
            vim.option.OptionValue(key=STATE_KEY, value=STATE_IMPORTING),
        ],
        deviceChange=changes,
        vmProfile=profiles,
    )


def _added(device: t.Any) -> t.Any:
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def _nic_backing(network: t.Any, name: str) -> t.Any:
    ethernet = vim.vm.device.VirtualEthernetCard
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        with translated(f"reading network {name!r}"):
            switch: t.Any = network.config.distributedVirtualSwitch
            port = vim.dvs.PortConnection(portgroupKey=network.key, switchUuid=switch.uuid)
        return ethernet.DistributedVirtualPortBackingInfo(port=port)
    return ethernet.NetworkBackingInfo(network=network, deviceName=name)


def match_device_urls(
    urls: Sequence[t.Any], disks: Sequence[DiskPlace], controller: str, default_authority: str
) -> dict[int, DeviceUrl]:
    """Which URL each disk goes to: disk index -> URL. Raises VcenterError unless it is one to one.

    vCenter names a device by its place, ``/<vm>/ParaVirtualSCSIController0:1`` or ``/<vm>/scsi0:1``, where bus and unit
    tell the disk. Other servers number the disks, ``/<vm>/disk:1``, or their files, ``disk-1.vmdk``. A host that was
    asked directly writes ``*`` for itself.
    """
    candidates = [url for url in urls if url.disk is not False]
    vim_class = CONTROLLERS_BY_NAME[controller].vim_class
    kinds = {vim_class.removeprefix("Virtual").lower(), _short_kind(vim_class)}
    by_place = {(disk.bus, disk.unit): disk.index for disk in disks}

    def index_of(url: t.Any) -> int | None:
        for text in (url.importKey or "", url.key or ""):
            place = re.search(r"/(?P<kind>[A-Za-z]+)(?P<bus>\d+):(?P<unit>\d+)$", text)
            if place and place["kind"].removeprefix("Virtual").lower() in kinds:
                return by_place.get((int(place["bus"]), int(place["unit"])))
        for text, pattern in ((url.importKey, r"/disk:(\d+)$"), (url.targetId, r"disk-(\d+)\.vmdk$")):
            ordinal = re.search(pattern, text or "")
            if ordinal:
                return int(ordinal[1])
        return None

    matched = {index_of(url): url for url in candidates}
    if set(matched) != {disk.index for disk in disks} or len(candidates) != len(disks):
        shown = ", ".join(f"{url.importKey or url.key} ({url.targetId})" for url in candidates) or "none"
        raise VcenterError(f"the lease's URLs do not match the VM's {len(disks)} disks one to one: {shown}")
    return {
        index: DeviceUrl(
            key=url.key,
            url=re.sub(r"^(https?)://\*(?=/)", rf"\1://{default_authority}", url.url),
            thumbprint=(url.sslThumbprint or "").strip(),
        )
        for index, url in matched.items()
        if index is not None
    }


def _short_kind(vim_class: str) -> str:
    """What a VM's own configuration calls such controllers: scsi0:1, sata0:0, nvme0:0, ide1:0."""
    return {"VirtualAHCIController": "sata", "VirtualNVMEController": "nvme", "VirtualIDEController": "ide"}.get(
        vim_class, "scsi"
    )


# --- the lease ----------------------------------------------------------------------------------------------------


def import_vm(
    vcenter: Vcenter,
    place: Placement,
    request: VmRequest,
    open_disk: OpenDisk,
    *,
    parallel: int = 1,
    timeout: float = 300.0,
    network_name: str = "",
    attempts: int = 3,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
) -> FoundVm:
    """Make the VM with all its disks.

    *parallel*: how many disks are sent at once. *timeout* (seconds) bounds the waits for vCenter, not the uploads;
    those end when nothing moves for the timeout of their connections. *report* gets bytes sent and bytes in all known
    images. *attempts*: how many leases are tried before a failure that may pass is one; *note* is told of each that was
    lost.
    Raises UploadError or VcenterError; then nothing of the VM is left.
    """
    spec = build_config_spec(request, place.datastore_name, place.network, network_name)
    attempt = 1
    while True:
        try:
            return _import_once(
                vcenter, place, request, spec, open_disk, parallel=parallel, timeout=timeout, report=report
            )
        except ColdmigError as error:
            if not may_pass(error):
                raise
            if attempt >= attempts:
                if attempt == 1 or not isinstance(error, VcenterError):
                    raise
                raise UploadError(f"{error} (import {attempt} of {attempts})") from error
            note(f"import {attempt} of {attempts} was lost and is repeated: {error}")
        sleep(backoff(attempt, first=2.0))
        attempt += 1


def _import_once(
    vcenter: Vcenter,
    place: Placement,
    request: VmRequest,
    spec: t.Any,
    open_disk: OpenDisk,
    *,
    parallel: int,
    timeout: float,
    report: Callable[[int, int], None],
) -> FoundVm:
    lease = open_lease(vcenter, place, spec, request.migration_id, timeout=timeout)
    entity: t.Any = None
    try:
        info = wait_ready(vcenter, lease, request.name, timeout)
        entity = info.entity
        targets = match_device_urls(
            info.deviceUrl, request.hardware.disks, request.hardware.controller, f"{vcenter.hostname}:{vcenter.port}"
        )
        algorithm = choose_checksum(lease, targets.values())
        uploads = Uploads(vcenter, lease, targets, open_disk, algorithm=algorithm, report=report)
        sent = uploads.run(parallel=parallel, lease_timeout=float(info.leaseTimeout or 300))
        compare_manifest(lease, targets, sent, algorithm)
        complete(vcenter, lease, entity, request.name)
        vm = FoundVm(entity, request.name, complete=True)
        vcenter.mark_complete(vm, timeout=timeout, policy_id=request.policy_id)
    except BaseException as error:
        left_over = abort(vcenter, lease, entity, request.migration_id, timeout=timeout)
        if left_over and isinstance(error, ColdmigError):
            raise VcenterError(f"{error}; {left_over}") from error
        raise
    return vm
