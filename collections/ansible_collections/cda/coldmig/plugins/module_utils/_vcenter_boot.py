# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Test boot of an imported VM in vCenter: does what was copied start on this hardware?

The VM runs with its NICs disconnected, on a snapshot that is dropped afterwards: its disks stay as they were copied,
and the real first boot finds them so. A snapshot of ours that is there at the beginning is what a killed run left.

The VM keeps when its test boots began, noted before the snapshot is made, or putting the VM back would take the note
along: by this a power-on of ours is told from one by somebody who uses the VM, even if the run was killed.
"""

from __future__ import annotations

import contextlib
import json
import time
import typing as t
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import FoundVm, Vcenter, VcenterError, translated

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import vim

SNAPSHOT = "coldmig-test-boot"
RESULT_KEY = "guestinfo.coldmig.test-boot"
BEGUN_KEY = "guestinfo.coldmig.test-boots-begun"
KEPT = 50
"""How many beginnings a VM keeps."""
SLACK = timedelta(minutes=2)
"""The clocks of vCenter and of where we run differ."""
ONE_BOOT = timedelta(seconds=10)
"""Events of the same power-on are no further apart."""
POLL_SECONDS = 2.0
_RUNNING = frozenset({"guestToolsRunning", "guestToolsExecutingScripts"})


@dataclass(frozen=True)
class BootResult:
    """``sign``: ``heartbeat`` (VMware Tools), ``running`` (it did not power itself off), ``none``.

    ``seconds`` since power-on; ``at``: when that was, UTC, ISO 8601.
    """

    passed: bool
    sign: str
    detail: str
    seconds: int
    at: str


@dataclass(frozen=True)
class Seen:
    """What vCenter says of a running VM."""

    powered_on: bool
    tools: bool = False
    heartbeat: str = "gray"
    crashed: bool = False
    question: str = ""


def judge(seen: Seen, seconds: float, *, timeout: float, without_tools: float) -> tuple[bool, str, str] | None:
    """(passed, sign, detail) after so many seconds, or None while it has to be waited for."""
    if not seen.powered_on:
        return False, "none", f"the VM powered itself off within {seconds:.0f} seconds"
    if seen.crashed or seen.question:
        why = f"vCenter waits for an answer: {seen.question}" if seen.question else "its kernel crashed"
        return False, "none", f"the VM does not go on: {why}"
    if seen.tools and seen.heartbeat in ("green", "yellow"):
        return True, "heartbeat", f"VMware Tools answered after {seconds:.0f} seconds"
    if not seen.tools and seconds >= min(without_tools, timeout):
        return True, "running", f"the VM has run for {seconds:.0f} seconds without VMware Tools; look at the picture"
    if seconds >= timeout:
        return False, "none", f"VMware Tools run, but their heartbeat is {seen.heartbeat} after {seconds:.0f} seconds"
    return None


@dataclass(frozen=True)
class Begun:
    """A test boot that was begun at ``at`` (UTC); its VM was powered on within so many ``seconds``, or never."""

    at: datetime
    seconds: float


def first_use(power_ons: Sequence[datetime], begun: Sequence[Begun]) -> datetime | None:
    """The first power-on that was none of a test boot. Each of these powers the VM on once."""
    others = sorted(power_ons)
    for boot in begun:
        latest = boot.at + timedelta(seconds=boot.seconds) + SLACK
        ours = next((moment for moment in others if boot.at - SLACK <= moment <= latest), None)
        if ours is not None:
            others = [moment for moment in others if not ours <= moment <= ours + ONE_BOOT]
    return others[0] if others else None


def recorded(vcenter: Vcenter, vm: FoundVm) -> BootResult | None:
    """The result of an earlier test boot, as the VM keeps it."""
    with contextlib.suppress(ValueError, TypeError):
        return BootResult(**json.loads(_kept(vcenter, vm, RESULT_KEY)))
    return None


def begun_boots(vcenter: Vcenter, vm: FoundVm) -> list[Begun]:
    """All test boots of the VM that were begun, whatever became of them, in their order."""
    with contextlib.suppress(ValueError, TypeError):
        return [Begun(datetime.fromisoformat(at), float(seconds)) for at, seconds in _notes(vcenter, vm)]
    return []


def _notes(vcenter: Vcenter, vm: FoundVm) -> list[list[t.Any]]:
    found = json.loads(_kept(vcenter, vm, BEGUN_KEY) or "[]")
    return found if isinstance(found, list) else []


def _kept(vcenter: Vcenter, vm: FoundVm, key: str) -> str:
    with translated(f"reading VM {vm.name}"):
        options = vcenter.properties(vm.ref, ["config.extraConfig"]).get("config.extraConfig") or ()
    return next((str(option.value or "") for option in options if option.key == key), "")


def is_left_over(vcenter: Vcenter, vm: FoundVm) -> bool:
    """Whether a run was killed in a test boot of this VM, which then runs, or has the snapshot."""
    return SNAPSHOT in _snapshots(vcenter, vm)


def boot_test(
    vcenter: Vcenter,
    vm: FoundVm,
    *,
    timeout: float,
    without_tools: float,
    wait_timeout: float,
    picture: Callable[[bytes], None] = lambda data: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> BootResult:
    """Power on, wait for a sign of life, power off, put the disks back, record the result in the VM.

    *timeout*: seconds for the sign; *without_tools*: seconds without a power-off that count where no VMware Tools run;
    *wait_timeout*: for each thing that vCenter does. *picture* gets the console as PNG where there is one.
    Raises VcenterError when the VM cannot be powered on, or not be put back; the next run puts it back then.
    """
    _require_ours(vcenter, vm)
    put_back(vcenter, vm, timeout=wait_timeout)
    # two things may take wait_timeout each before it is known that the VM runs
    _prepare(vcenter, vm, within=2 * wait_timeout, timeout=wait_timeout)
    vcenter.run_task(
        lambda: vm.ref.CreateSnapshot_Task(SNAPSHOT, "dropped after the test boot", False, False),
        f"making a snapshot of VM {vm.name}",
        timeout=wait_timeout,
        done=lambda: bool(_snapshots(vcenter, vm)),
    )
    try:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        begun = clock()
        vcenter.run_task(
            lambda: vm.ref.PowerOnVM_Task(None),
            f"powering on VM {vm.name}",
            timeout=wait_timeout,
            done=lambda: _look(vcenter, vm).powered_on,
        )
        while True:
            seen = _look(vcenter, vm)
            seconds = clock() - begun
            verdict = judge(seen, seconds, timeout=timeout, without_tools=without_tools)
            if verdict is not None:
                break
            sleep(POLL_SECONDS)
        if seen.powered_on and (shown := vcenter.screen(vm)) is not None:
            picture(shown)
    finally:
        put_back(vcenter, vm, timeout=wait_timeout)
    passed, sign, detail = verdict
    result = BootResult(passed, sign, detail, int(seconds), at)
    vcenter.reconfigure(
        vm,
        vim.vm.ConfigSpec(
            extraConfig=[vim.option.OptionValue(key=RESULT_KEY, value=json.dumps(asdict(result), sort_keys=True))]
        ),
        f"recording the test boot of VM {vm.name}",
        timeout=wait_timeout,
    )
    return result


def _look(vcenter: Vcenter, vm: FoundVm) -> Seen:
    with translated(f"reading VM {vm.name}"):
        values = vcenter.properties(vm.ref, ["runtime.powerState", "runtime.question", "guest", "guestHeartbeatStatus"])
    guest, question = values.get("guest"), values.get("runtime.question")
    return Seen(
        powered_on=values.get("runtime.powerState") == vim.VirtualMachine.PowerState.poweredOn,
        tools=str(getattr(guest, "toolsRunningStatus", "")) in _RUNNING,
        heartbeat=str(values.get("guestHeartbeatStatus", "gray")),
        crashed=bool(getattr(guest, "guestKernelCrashed", False)),
        question=str(getattr(question, "text", "") or "")[:300],
    )


def _snapshots(vcenter: Vcenter, vm: FoundVm) -> list[str]:
    with translated(f"reading the snapshots of VM {vm.name}"):
        info = vcenter.properties(vm.ref, ["snapshot"]).get("snapshot")
    return [tree.name for tree in (info.rootSnapshotList if info else None) or ()]


def _require_ours(vcenter: Vcenter, vm: FoundVm) -> None:
    """Raises VcenterError for a VM that somebody else runs or has snapshots of."""
    names = _snapshots(vcenter, vm)
    if names not in ([], [SNAPSHOT]):
        raise VcenterError(f"VM {vm.name} has snapshots ({', '.join(names)}) that are not of a test boot; remove them")
    if not names and _look(vcenter, vm).powered_on:
        raise VcenterError(f"VM {vm.name} ({vm.moid}) is powered on, and not by a test boot")


def _prepare(vcenter: Vcenter, vm: FoundVm, *, within: float, timeout: float) -> None:
    """Note that a test boot begins; the NICs stay without a network when the VM is powered on."""
    notes: list[list[t.Any]] = []
    with contextlib.suppress(ValueError):
        notes = _notes(vcenter, vm)
    notes.append([time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), within])
    with translated(f"reading VM {vm.name}"):
        devices = vcenter.properties(vm.ref, ["config.hardware.device"]).get("config.hardware.device") or ()
    changes = []
    for device in devices:
        state = getattr(device, "connectable", None)
        if isinstance(device, vim.vm.device.VirtualEthernetCard) and (state is None or state.startConnected):
            device.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
                startConnected=False, connected=False, allowGuestControl=False
            )
            changes.append(vim.vm.device.VirtualDeviceSpec(operation="edit", device=device))
    begun = vim.option.OptionValue(key=BEGUN_KEY, value=json.dumps(notes[-KEPT:]))
    vcenter.reconfigure(
        vm,
        vim.vm.ConfigSpec(deviceChange=changes, extraConfig=[begun]),
        f"disconnecting the NICs of VM {vm.name}",
        timeout=timeout,
    )


def put_back(vcenter: Vcenter, vm: FoundVm, *, timeout: float) -> None:
    """Power off, and drop what the guest wrote since the snapshot; nothing where there is none."""
    if not is_left_over(vcenter, vm):
        return
    if _look(vcenter, vm).powered_on:
        vcenter.run_task(
            vm.ref.PowerOffVM_Task,
            f"powering off VM {vm.name} after its test boot",
            timeout=timeout,
            done=lambda: not _look(vcenter, vm).powered_on,
        )
    vcenter.run_task(
        lambda: vm.ref.RevertToCurrentSnapshot_Task(None, True),
        f"putting the disks of VM {vm.name} back",
        timeout=timeout,
    )
    vcenter.run_task(
        lambda: vm.ref.RemoveAllSnapshots_Task(True),
        f"removing the snapshot of VM {vm.name}",
        timeout=timeout,
        done=lambda: not _snapshots(vcenter, vm),
    )
