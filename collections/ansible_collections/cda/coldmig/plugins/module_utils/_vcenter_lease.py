# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""An import lease (HttpNfcLease): opened, kept alive, fed with the disks, ended.

vCenter makes the VM with empty disks when it opens the lease, and removes it when the lease ends badly. Every call here
knows that its answer can get lost: opening twice would make two VMs, and a lease that is complete must not be aborted.
"""

from __future__ import annotations

import contextlib
import threading
import time
import typing as t
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from http.client import HTTPException
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, HttpError, TransportError
from ansible_collections.cda.coldmig.plugins.module_utils._http import backoff, root_cause
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import (
    POLL_SECONDS,
    Placement,
    Vcenter,
    VcenterError,
    VcenterUnreachableError,
    describe_fault,
    translated,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_calls import ATTEMPTS, is_transient, is_unreached
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_upload import (
    BUSY,
    DeviceUrl,
    OpenDisk,
    Sent,
    StoppedError,
    UploadError,
    open_connection,
    send_disk,
)

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import vim, vmodl

KEEP_ALIVE_SECONDS = 2.0
UPLOAD_ATTEMPTS = 3
"""How often one disk is sent within the same lease."""


def may_pass(error: ColdmigError) -> bool:
    """Whether an import that failed so may succeed when it is repeated from staging."""
    if isinstance(error, HttpError):  # the gateway's
        return error.status in BUSY
    return isinstance(error, TransportError) or (isinstance(error, VcenterError) and error.transient)


def open_lease(vcenter: Vcenter, place: Placement, spec: t.Any, migration_id: str, *, timeout: float) -> t.Any:
    """The import lease. One whose answer got lost has made a VM that has to go first: its lease nobody knows."""
    action = f"creating VM {spec.name}"
    attempt = 1
    while True:
        try:
            with translated(action):
                return place.pool.ImportVApp(vim.vm.VmImportSpec(configSpec=spec), place.folder, None)
        except VcenterError as error:
            taken = isinstance(error.__cause__, vim.fault.DuplicateName)
            if not (error.transient or (taken and attempt > 1)) or attempt >= ATTEMPTS:
                raise
            left = vcenter.find_vm(migration_id)
            if left is not None:
                vcenter.remove_vm(left, timeout=timeout)
            elif taken:
                raise
        time.sleep(backoff(attempt))
        attempt += 1


def complete(vcenter: Vcenter, lease: t.Any, entity: t.Any, name: str) -> None:
    """End the lease well; whether a call whose answer got lost has done so is what the lease and the VM tell."""
    action = f"completing the import of VM {name}"
    attempt = 1
    with translated(action):
        while True:
            try:
                lease.HttpNfcLeaseComplete()
            except (vmodl.MethodFault, OSError, HTTPException) as error:
                over = isinstance(error, vim.fault.InvalidState | vmodl.fault.ManagedObjectNotFound)
                if not (is_transient(error) or (over and attempt > 1)) or attempt >= ATTEMPTS:
                    raise
                try:
                    state = vcenter.properties(lease, ["state"]).get("state")
                except vmodl.fault.ManagedObjectNotFound:
                    # a lease that ends badly takes the VM with it
                    vcenter.properties(entity, ["name"])
                    return
                if state == vim.HttpNfcLease.State.done:
                    return
                if state == vim.HttpNfcLease.State.error:
                    raise
                time.sleep(backoff(attempt))
                attempt += 1
            else:
                return


def wait_ready(vcenter: Vcenter, lease: t.Any, name: str, timeout: float) -> t.Any:
    deadline = time.monotonic() + timeout
    with translated(f"opening the import lease of VM {name}"):
        while True:
            values = vcenter.properties(lease, ["state", "error", "info"])
            state = values.get("state")
            if state == vim.HttpNfcLease.State.ready:
                return values["info"]
            if state == vim.HttpNfcLease.State.error:
                fault = values["error"]
                raise VcenterError(f"creating VM {name}: {describe_fault(fault)}", transient=is_transient(fault))
            if time.monotonic() > deadline:
                raise VcenterError(f"creating VM {name}: the import lease is not ready after {timeout:g} seconds")
            time.sleep(POLL_SECONDS)


def choose_checksum(lease: t.Any, targets: Iterable[DeviceUrl]) -> str:
    """Ask for SHA-256 in the manifest; without it there is SHA-1, which serves as well against transfer errors."""
    wanted = [vim.KeyValue(key=target.key, value="sha256") for target in targets]
    try:
        with translated("choosing the digest of the import's manifest"):
            lease.HttpNfcLeaseSetManifestChecksumType(wanted)
    except VcenterUnreachableError:
        raise
    except VcenterError:
        return "sha1"
    return "sha256"


def compare_manifest(lease: t.Any, targets: Mapping[int, DeviceUrl], sent: Mapping[int, Sent], algorithm: str) -> None:
    """What vCenter says it received against what was sent. Not every version has a manifest for imports."""
    try:
        with translated("asking for the digests of what vCenter received"):
            entries = {entry.key: entry for entry in lease.HttpNfcLeaseGetManifest() or ()}
    except VcenterError as error:
        if isinstance(
            error.__cause__, vmodl.fault.NotSupported | vmodl.fault.MethodNotFound | vmodl.fault.NotImplemented
        ):
            return
        raise
    for index, target in targets.items():
        received = received_digest(entries.get(target.key), algorithm)
        if received is not None and received.lower() != sent[index].digest:
            raise UploadError(
                f"disk {index}: vCenter received other bytes than were sent ({received}, not {sent[index].digest})",
                transient=True,
            )


def received_digest(entry: t.Any, algorithm: str) -> str | None:
    """The digest of this kind in an entry of the lease's manifest, if it has one."""
    if entry is None:
        return None
    if (entry.checksumType or "").lower() == algorithm and entry.checksum:
        return str(entry.checksum)
    return str(entry.sha1) if algorithm == "sha1" and entry.sha1 else None


def abort(vcenter: Vcenter, lease: t.Any, entity: t.Any, migration_id: str, *, timeout: float) -> str:
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


class _KeepAlive(threading.Thread):
    """Reports progress to the lease every two seconds; sets ``stop`` when the lease does not take it any more."""

    def __init__(self, lease: t.Any, percent: Callable[[], int], stop: threading.Event, timeout: float) -> None:
        super().__init__(name="nfc-lease", daemon=True)
        self._lease = lease
        self._percent = percent
        self._stop_upload = stop
        self._timeout = timeout
        self._ended = threading.Event()
        self.failure = ""

    def run(self) -> None:
        alive = time.monotonic()
        while not self._ended.wait(KEEP_ALIVE_SECONDS):
            try:
                self._lease.HttpNfcLeaseProgress(self._percent())
                alive = time.monotonic()
            except (vmodl.MethodFault, OSError, HTTPException) as error:
                # vCenter may be back before the lease ends
                may_pass = is_transient(error) or isinstance(error, TimeoutError)
                ended = isinstance(error, vim.fault.Timedout) or not may_pass
                if ended or time.monotonic() - alive > self._timeout:
                    self.failure = describe_fault(error) if isinstance(error, vmodl.MethodFault) else root_cause(error)
            if self.failure:
                self._stop_upload.set()
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


class Uploads:
    """Sends all disks of a lease. *report* gets bytes sent, and bytes in all images that are known by then."""

    def __init__(
        self,
        vcenter: Vcenter,
        lease: t.Any,
        targets: Mapping[int, DeviceUrl],
        open_disk: OpenDisk,
        *,
        algorithm: str,
        report: Callable[[int, int], None],
    ) -> None:
        self._vcenter = vcenter
        self._lease = lease
        self._targets = targets
        self._open_disk = open_disk
        self._algorithm = algorithm
        self._report = report
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sent: dict[int, int] = {}
        self._lengths: dict[int, int] = {}

    def run(self, *, parallel: int, lease_timeout: float) -> dict[int, Sent]:
        """All disks, *parallel* of them at once, with the lease kept alive. Raises the first failure that counts."""
        keeper = _KeepAlive(self._lease, self._percent, self._stop, lease_timeout)
        keeper.start()
        try:
            with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="nfc-disk") as pool:
                running = {pool.submit(self._send, index): index for index in sorted(self._targets)}
                try:
                    wait(running, return_when=FIRST_EXCEPTION)
                finally:
                    if any(future.done() and future.exception() for future in running):
                        self._stop.set()
                errors = [error for future in running if future.done() and (error := future.exception()) is not None]
                # not one of those that it caused
                for error in sorted(errors, key=lambda each: isinstance(each, StoppedError)):
                    raise error
                return {index: future.result() for future, index in running.items()}
        except ColdmigError as error:
            # an upload that breaks off is often only how the end of the lease shows
            fault = _why_ended(self._vcenter, self._lease)
            why = describe_fault(fault) if fault is not None else keeper.failure
            if why:
                raise UploadError(
                    f"vCenter ended the import lease: {why} ({error})",
                    transient=not isinstance(fault, _final_faults()),
                ) from error
            raise
        finally:
            self._stop.set()
            keeper.end()

    def _percent(self) -> int:
        with self._lock:
            known = sum(self._lengths.values())
            if not known:
                return 0
            return min(99, sum(self._sent.values()) * 100 * len(self._lengths) // (known * len(self._targets)))

    def _send(self, index: int) -> Sent:
        """One disk, again in the same lease as long as that makes sense."""
        where = f"disk {index} to {urlsplit(self._targets[index].url).netloc}"
        attempt = 1
        while not self._stop.is_set():
            failure: ColdmigError
            try:
                return self._send_once(index)
            except StoppedError:
                raise
            except UploadError as error:
                # a host that takes no second upload may take another import
                failure = UploadError(f"{where}: {error}", transient=error.transient or attempt > 1)
                failure.__cause__, again = error, error.in_place
            except OSError as error:
                failure = UploadError(f"{where}: {root_cause(error)}", transient=is_transient(error))
                failure.__cause__, again = error, is_transient(error) and not is_unreached(error)
            except ColdmigError as error:  # the gateway's
                failure, again = error, may_pass(error)
            if not again or attempt >= UPLOAD_ATTEMPTS or not _is_ready(self._vcenter, self._lease):
                raise failure
            self._stop.wait(backoff(attempt))
            attempt += 1
        raise StoppedError(f"disk {index}: stopped")

    def _send_once(self, index: int) -> Sent:
        target = self._targets[index]
        with self._open_disk(index) as source:
            with self._lock:
                self._lengths[index], self._sent[index] = source.length, 0
            with contextlib.closing(
                open_connection(target, self._vcenter.hostname, self._vcenter.tls, self._vcenter.timeout)
            ) as connection:
                return send_disk(
                    connection,
                    target.url,
                    source,
                    algorithm=self._algorithm,
                    report=lambda number: self._count(index, number),
                    stop=self._stop,
                )

    def _count(self, index: int, number: int) -> None:
        with self._lock:
            self._sent[index] += number
            self._report(sum(self._sent.values()), sum(self._lengths.values()))


def _why_ended(vcenter: Vcenter, lease: t.Any) -> t.Any:
    """The fault of a lease that ended badly or is gone, else None."""
    try:
        values = vcenter.properties(lease, ["state", "error"])
    except vmodl.fault.ManagedObjectNotFound as fault:
        return fault
    except (vmodl.MethodFault, OSError, HTTPException):
        return None
    return values["error"] if values.get("state") == vim.HttpNfcLease.State.error else None


def _is_ready(vcenter: Vcenter, lease: t.Any) -> bool:
    with contextlib.suppress(vmodl.MethodFault, OSError, HTTPException):
        return bool(vcenter.properties(lease, ["state"]).get("state") == vim.HttpNfcLease.State.ready)
    return False


def _final_faults() -> tuple[type[BaseException], ...]:
    """What ended a lease and would end the next one too."""
    return (
        vim.fault.NoPermission,
        vim.fault.NoDiskSpace,
        vim.fault.InsufficientResourcesFault,
        vmodl.fault.InvalidArgument,
        vmodl.fault.RequestCanceled,
    )
