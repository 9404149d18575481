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
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
import threading
import time
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS_BY_NAME,
    NICS,
    DiskPlace,
    Hardware,
)
from ansible_collections.cda.coldmig.plugins.module_utils._http import root_cause
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import (
    ID_KEY,
    POLL_SECONDS,
    STATE_KEY,
    FoundVm,
    Placement,
    Vcenter,
    VcenterError,
    describe_fault,
    translated,
)

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import vim, vmodl

STATE_IMPORTING = "importing"
KEEP_ALIVE_SECONDS = 2.0
VMDK_MEDIA = "application/x-vnd.vmware-streamVmdk"


class UploadError(VcenterError):
    """A disk did not arrive; the lease was aborted and nothing of the VM is left."""


class _StoppedError(UploadError):
    """This disk was given up because something else failed; never the error that a person has to see."""


class ByteSource(t.Protocol):
    """An open disk image: its exact length in bytes, and its bytes in order."""

    @property
    def length(self) -> int: ...

    def blocks(self) -> Iterator[bytes]: ...


OpenDisk = Callable[[int], contextlib.AbstractContextManager[ByteSource]]
"""Opens the image of the disk with this index, from its beginning."""


@dataclass(frozen=True)
class VmRequest:
    """The VM that is wanted. ``nics`` are the permanent MACs to keep, None where vCenter chooses; empty: no NICs."""

    migration_id: str
    name: str
    annotation: str
    hardware: Hardware
    hardware_version: str | None = None
    thin: bool = True
    nics: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class DeviceUrl:
    """Where one disk goes."""

    key: str
    url: str
    thumbprint: str


# --- pure parts ---------------------------------------------------------------------------------------------------


def build_config_spec(
    request: VmRequest, datastore: str, network: t.Any | None = None, network_name: str = ""
) -> t.Any:
    """``vim.vm.ConfigSpec`` for ImportVApp. Device keys are negative, as for all devices that do not exist yet."""
    hardware = request.hardware
    controller = CONTROLLERS_BY_NAME[hardware.controller]
    buses = sorted({disk.bus for disk in hardware.disks})
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
                startConnected=True, allowGuestControl=True, connected=False
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

    vCenter names a device by its place, ``/<vm>/ParaVirtualSCSIController0:1``, where bus and unit tell the disk. Other
    servers number the disks, ``/<vm>/disk:1``, or their files, ``disk-1.vmdk``. A host that was asked directly writes
    ``*`` for itself.
    """
    candidates = [url for url in urls if url.disk is not False]
    vim_class = CONTROLLERS_BY_NAME[controller].vim_class
    by_place = {(disk.bus, disk.unit): disk.index for disk in disks}

    def index_of(url: t.Any) -> int | None:
        for text in (url.importKey or "", url.key or ""):
            place = re.search(r"/(?P<kind>[A-Za-z]+)(?P<bus>\d+):(?P<unit>\d+)$", text)
            if place and place["kind"].removeprefix("Virtual") == vim_class.removeprefix("Virtual"):
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


# --- sending one disk ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """What was sent for one disk."""

    length: int
    digest: str


def open_connection(target: DeviceUrl, vcenter_host: str, tls: ssl.SSLContext, timeout: float) -> HTTPSConnection:
    """A TLS connection to the URL's host, which is trusted by now or the connection is closed.

    Hosts have certificates of their own, often self-signed; the lease names the thumbprint to expect, which came over
    the verified connection to vCenter. Without one, and for vCenter itself, the certificate is verified like vCenter's.
    """
    parts = urlsplit(target.url)
    if parts.scheme != "https" or not parts.hostname:
        raise UploadError(f"the lease names {target.url!r}, which is no https URL")
    pinned = bool(target.thumbprint) and parts.hostname != vcenter_host and tls.verify_mode != ssl.CERT_NONE
    context = tls
    if pinned:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection = HTTPSConnection(parts.hostname, parts.port or 443, timeout=timeout, context=context)
    try:
        connection.connect()
        if pinned:
            certificate = t.cast(ssl.SSLSocket, connection.sock).getpeercert(binary_form=True) or b""
            expected = target.thumbprint.replace(":", "").lower()
            algorithm = {40: "sha1", 64: "sha256"}.get(len(expected))
            actual = hashlib.new(algorithm, certificate).hexdigest() if algorithm else None
            if actual != expected:
                raise UploadError(
                    f"{parts.hostname}: its certificate has the thumbprint {actual}, the lease promises {expected}"
                )
    except BaseException:
        connection.close()
        raise
    return connection


def send_disk(
    connection: HTTPSConnection,
    url: str,
    source: ByteSource,
    *,
    algorithm: str,
    report: Callable[[int], None],
    stop: threading.Event,
) -> Sent:
    """POST one image. *report* gets the number of bytes of each block; *stop* ends the upload.

    *algorithm* (sha1, sha256) is that of the digest of what was sent.

    Raises UploadError when the host refuses or the source has another length than it said.
    """
    parts = urlsplit(url)
    connection.putrequest("POST", parts.path + (f"?{parts.query}" if parts.query else ""), skip_accept_encoding=True)
    connection.putheader("Content-Type", VMDK_MEDIA)
    connection.putheader("Content-Length", str(source.length))
    connection.endheaders()
    digest, sent = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        for block in source.blocks():
            if stop.is_set():
                raise _StoppedError("stopped")
            if sent + len(block) > source.length:
                raise UploadError(f"the image has more than the {source.length} bytes that were announced")
            connection.send(block)
            sent += len(block)
            digest.update(block)
            report(len(block))
    except OSError as error:
        raise UploadError(
            f"the upload broke off after {sent} of {source.length} bytes: {_refusal(connection) or root_cause(error)}"
        ) from error
    if sent != source.length:
        raise UploadError(f"the image has only {sent} of the {source.length} bytes that were announced")
    try:
        answer = connection.getresponse()
        text = answer.read(300)
    except (OSError, HTTPException) as error:
        raise UploadError(f"no answer after all {sent} bytes: {root_cause(error)}") from error
    if answer.status not in (200, 201):
        raise UploadError(f"refused with {answer.status} {answer.reason}: {_plain(text)}")
    return Sent(sent, digest.hexdigest())


def _refusal(connection: HTTPSConnection) -> str:
    """What the host said before it closed the connection, if it said anything."""
    try:
        if connection.sock is not None:
            connection.sock.settimeout(2)
        answer = connection.getresponse()
        return f"{answer.status} {answer.reason}: {_plain(answer.read(300))}"
    except (OSError, HTTPException):
        return ""


def _plain(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split()) or "no text"


# --- the lease ----------------------------------------------------------------------------------------------------


class _KeepAlive(threading.Thread):
    """Reports progress to the lease every two seconds; sets ``stop`` when the lease does not take it any more."""

    def __init__(self, lease: t.Any, percent: Callable[[], int], stop: threading.Event) -> None:
        super().__init__(name="nfc-lease", daemon=True)
        self._lease = lease
        self._percent = percent
        self._stop_upload = stop
        self._ended = threading.Event()
        self.failure = ""

    def run(self) -> None:
        troubles = 0
        while not self._ended.wait(KEEP_ALIVE_SECONDS):
            try:
                self._lease.HttpNfcLeaseProgress(self._percent())
                troubles = 0
            except vmodl.MethodFault as fault:
                self.failure = describe_fault(fault)
            except (OSError, HTTPException) as error:
                troubles += 1  # vCenter may be back before the lease ends
                if troubles >= 30:
                    self.failure = root_cause(error)
            if self.failure:
                self._stop_upload.set()
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


def import_vm(
    vcenter: Vcenter,
    place: Placement,
    request: VmRequest,
    open_disk: OpenDisk,
    *,
    parallel: int = 1,
    timeout: float = 300.0,
    network_name: str = "",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> FoundVm:
    """Make the VM with all its disks.

    *parallel*: how many disks are sent at once. *timeout* (seconds) bounds the waits for vCenter, not the uploads;
    those end when nothing moves for the timeout of their connections. *report* gets bytes sent and bytes in all known
    images.
    Raises UploadError or VcenterError; then nothing of the VM is left.
    """
    spec = build_config_spec(request, place.datastore_name, place.network, network_name)
    with translated(f"creating VM {request.name}"):
        lease = place.pool.ImportVApp(vim.vm.VmImportSpec(configSpec=spec), place.folder, None)
    entity: t.Any = None
    try:
        info = _wait_ready(vcenter, lease, request.name, timeout)
        entity = info.entity
        targets = match_device_urls(
            info.deviceUrl, request.hardware.disks, request.hardware.controller, f"{vcenter.hostname}:{vcenter.port}"
        )
        algorithm = _choose_checksum(lease, targets.values())
        sent = _send_all(vcenter, lease, targets, open_disk, algorithm=algorithm, parallel=parallel, report=report)
        with translated(f"completing the import of VM {request.name}"):
            _compare_manifest(lease, targets, sent, algorithm)
            lease.HttpNfcLeaseComplete()
        vm = FoundVm(entity, request.name, complete=True)
        vcenter.mark_complete(vm, timeout=timeout)
    except BaseException as error:
        left_over = _abort(vcenter, lease, entity, request.migration_id, timeout=timeout)
        if left_over and isinstance(error, ColdmigError):
            raise VcenterError(f"{error}; {left_over}") from error
        raise
    return vm


def _wait_ready(vcenter: Vcenter, lease: t.Any, name: str, timeout: float) -> t.Any:
    deadline = time.monotonic() + timeout
    with translated(f"opening the import lease of VM {name}"):
        while True:
            values = vcenter.properties(lease, ["state", "error", "info"])
            state = values.get("state")
            if state == vim.HttpNfcLease.State.ready:
                return values["info"]
            if state == vim.HttpNfcLease.State.error:
                raise VcenterError(f"creating VM {name}: {describe_fault(values['error'])}")
            if time.monotonic() > deadline:
                raise VcenterError(f"creating VM {name}: the import lease is not ready after {timeout:g} seconds")
            time.sleep(POLL_SECONDS)


def _choose_checksum(lease: t.Any, targets: Iterable[DeviceUrl]) -> str:
    """Ask for SHA-256 in the manifest; without it there is SHA-1, which serves as well against transfer errors."""
    wanted = [vim.KeyValue(key=target.key, value="sha256") for target in targets]
    try:
        lease.HttpNfcLeaseSetManifestChecksumType(wanted)
    except vmodl.MethodFault:
        return "sha1"
    return "sha256"


def _send_all(
    vcenter: Vcenter,
    lease: t.Any,
    targets: Mapping[int, DeviceUrl],
    open_disk: OpenDisk,
    *,
    algorithm: str,
    parallel: int,
    report: Callable[[int, int], None],
) -> dict[int, Sent]:
    stop = threading.Event()
    lock = threading.Lock()
    totals = {"sent": 0, "known": 0, "opened": 0}

    def count(number: int) -> None:
        with lock:
            totals["sent"] += number
            report(totals["sent"], totals["known"])

    def percent() -> int:
        with lock:
            if not totals["known"]:
                return 0
            return min(99, totals["sent"] * 100 * totals["opened"] // (totals["known"] * len(targets)))

    def send(index: int) -> Sent:
        if stop.is_set():
            raise _StoppedError(f"disk {index}: not begun")
        target = targets[index]
        try:
            with open_disk(index) as source:
                with lock:
                    totals["known"] += source.length
                    totals["opened"] += 1
                with contextlib.closing(
                    open_connection(target, vcenter.hostname, vcenter.tls, vcenter.timeout)
                ) as connection:
                    return send_disk(connection, target.url, source, algorithm=algorithm, report=count, stop=stop)
        except _StoppedError:
            raise
        except UploadError as error:
            raise UploadError(f"disk {index} to {urlsplit(target.url).netloc}: {error}") from error
        except OSError as error:
            raise UploadError(f"disk {index} to {urlsplit(target.url).netloc}: {root_cause(error)}") from error

    keeper = _KeepAlive(lease, percent, stop)
    keeper.start()
    try:
        with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="nfc-disk") as pool:
            running = {pool.submit(send, index): index for index in sorted(targets)}
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                if any(future.done() and future.exception() for future in running):
                    stop.set()
            errors = [error for future in running if future.done() and (error := future.exception()) is not None]
            # not one of those that it caused
            for error in sorted(errors, key=lambda each: isinstance(each, _StoppedError)):
                raise error
            return {index: future.result() for future, index in running.items()}
    except ColdmigError as error:
        # an upload that breaks off is often only how the end of the lease shows
        ended = _why_ended(vcenter, lease) or keeper.failure
        if ended:
            raise UploadError(f"vCenter ended the import lease: {ended} ({error})") from error
        raise
    finally:
        stop.set()
        keeper.end()


def _why_ended(vcenter: Vcenter, lease: t.Any) -> str:
    """The fault of a lease that ended badly, else nothing."""
    with contextlib.suppress(vmodl.MethodFault, OSError, HTTPException):
        values = vcenter.properties(lease, ["state", "error"])
        if values.get("state") == vim.HttpNfcLease.State.error:
            return describe_fault(values["error"])
    return ""


def _compare_manifest(lease: t.Any, targets: Mapping[int, DeviceUrl], sent: Mapping[int, Sent], algorithm: str) -> None:
    """What vCenter says it received against what was sent. Not every version has a manifest for imports."""
    try:
        entries = {entry.key: entry for entry in lease.HttpNfcLeaseGetManifest() or ()}
    except (vmodl.fault.NotSupported, vmodl.fault.MethodNotFound, vmodl.fault.NotImplemented):
        return
    for index, target in targets.items():
        received = received_digest(entries.get(target.key), algorithm)
        if received is not None and received.lower() != sent[index].digest:
            raise UploadError(
                f"disk {index}: vCenter received other bytes than were sent ({received}, not {sent[index].digest})"
            )


def received_digest(entry: t.Any, algorithm: str) -> str | None:
    """The digest of this kind in an entry of the lease's manifest, if it has one."""
    if entry is None:
        return None
    if (entry.checksumType or "").lower() == algorithm and entry.checksum:
        return str(entry.checksum)
    return str(entry.sha1) if algorithm == "sha1" and entry.sha1 else None


def _abort(vcenter: Vcenter, lease: t.Any, entity: t.Any, migration_id: str, *, timeout: float) -> str:
    """End the lease and make sure that the VM is gone. Never raises; gives what is wrong when the VM is still there."""
    with contextlib.suppress(vmodl.MethodFault, OSError, HTTPException):
        lease.HttpNfcLeaseAbort(None)
    try:
        left = vcenter.find_vm(migration_id, hint=entity._moId if entity is not None else None)
        if left is not None:
            vcenter.remove_vm(left, timeout=min(timeout, 60))
    except ColdmigError as error:
        return f"also, the half-made VM could not be removed: {error}"
    return ""
