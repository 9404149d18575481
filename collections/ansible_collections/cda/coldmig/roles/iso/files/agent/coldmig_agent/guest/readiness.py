# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Linux system can use VMware's devices: pure judgement of what was read.

A storage driver counts only if it is there before the root file system: built in, or in the initramfs of the entry that
boots. A network driver may also come from the root file system.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coldmig_agent.guest.devices import DEVICES, Device, normal
from coldmig_agent.guest.facts import ImageFacts, KernelFacts, KernelImage
from coldmig_agent.machine import Readiness
from coldmig_agent.text import clean

READY, LIKELY, NO, UNKNOWN = "ready", "likely", "no", "unknown"
_BLACKLIST = re.compile(r"(?:^|\s)(?:rd\.driver\.blacklist|modprobe\.blacklist|module_blacklist|rdblacklist)=(\S+)")
_ROOT = re.compile(r"(?:^|\s)root=[\"']?(/dev/\S+?)[\"']?(?=\s|$)")
_SCSI_NAME = re.compile(r"^/dev/sd[a-z]+\d*$")
_NVME_NAME = re.compile(r"^/dev/nvme\d+n\d+(?:p\d+)?$")
_IDE_NAME = re.compile(r"^/dev/hd[a-z]+\d*$")
_LOST_NAME = re.compile(r"^/dev/(?:vd|xvd|cciss/|disk/by-path/|disk/by-id/(?!dm-|md-|lvm-))")
_MAX_EVIDENCE = 160


@dataclass(frozen=True, slots=True)
class Start:
    """What a system starts with.

    ``certain``: a menu says that this entry boots; else the newest kernel was taken. ``initrds``: the entry names some.
    ``image``: what was read of them, None where they were not found. ``kernel``: modules of this very version in the
    root. ``file``: the kernel's own file with its config. ``blacklist``: of the root's modprobe.d.
    """

    version: str | None
    options: str = ""
    certain: bool = True
    initrds: tuple[str, ...] = ()
    image: ImageFacts | None = None
    kernel: KernelFacts | None = None
    file: KernelImage | None = None
    blacklist: tuple[str, ...] = ()
    #: A reason why the system may not start although its driver does, empty where there is none.
    doubt: str = ""


class _Facts:
    """The sets that all devices are judged by."""

    def __init__(self, start: Start) -> None:
        image, kernel, file = start.image, start.kernel, start.file
        self.start = start
        # An image for another kernel helps nobody.
        self.foreign = bool(
            image and image.versions and start.version and start.version not in image.versions and image.modules
        )
        usable = None if self.foreign else image
        self.in_image = set(usable.modules) if usable else set()
        self.builtin = set(kernel.builtin if kernel else ()) | set(file.builtin if file else ())
        self.builtin |= set(usable.builtin if usable else ())
        self.builtin_known = bool(
            (kernel and kernel.complete) or (file and file.config) or (usable and usable.builtin_known)
        )
        self.aliases = bool((kernel and kernel.alias_source) or (usable and usable.drivers))
        self.drivers: dict[str, list[str]] = {}
        for answer in (*(kernel.drivers if kernel else ()), *(usable.drivers if usable else ())):
            self.drivers.setdefault(answer.device, []).extend(answer.modules)
        self.needs = {item.module: item.needs for item in kernel.needs} if kernel else {}
        words = (word for found in _BLACKLIST.findall(start.options) for word in found.split(","))
        self.cmdline_blacklist = {normal(word) for word in words}
        self.image_blacklist = set(usable.blacklist) if usable else set()

    def candidates(self, device: Device) -> list[str]:
        """Drivers that bind to it. Built-in ones have told no aliases before kernel 5.2: their names must do."""
        found = dict.fromkeys(self.drivers.get(device.name, []))
        for name in device.drivers:
            if not self.aliases or name in self.builtin:
                found.setdefault(name)
        return list(found)


def _names(found: Sequence[str]) -> str:
    return ", ".join(sorted(found)[:4])


def _missing(device: Device, driver: str, facts: _Facts) -> list[str]:
    """What the driver needs and is neither built in nor in the initramfs."""
    there = facts.in_image | facts.builtin
    used = [driver, *(name for group in device.helpers for name in group if name in facts.in_image)]
    missing = [name for module in used for name in facts.needs.get(module, ()) if name not in there]
    for group in device.helpers:
        # A helper that the kernel does not even have as a module has another name there, or is part of the driver.
        known = facts.start.kernel is None or set(group) & {*facts.start.kernel.modules, *facts.builtin}
        if known and not set(group) & there:
            missing.append(group[0])
    return list(dict.fromkeys(missing))


def _unseen(facts: _Facts) -> tuple[str, str] | None:
    """Verdict and evidence where the initramfs says nothing about what is missing in it; None where it does."""
    start = facts.start
    if start.image is None:
        return (UNKNOWN, f"{start.initrds[-1]} was not found") if start.initrds else None
    if facts.foreign:
        return UNKNOWN, f"{start.image.path} is for kernel {_names(start.image.versions)}, not {start.version}"
    if not start.image.complete:
        return UNKNOWN, f"{start.image.path} could not be read to its end: {start.image.problem}"
    return None


def _without(device: Device, names: Sequence[str], facts: _Facts) -> tuple[str, str]:
    """Verdict and evidence where no driver was seen."""
    start, kernel = facts.start, facts.start.kernel
    usual = _names(names) or device.drivers[0]
    if kernel is not None and kernel.complete and not set(names) & {*kernel.modules, *kernel.builtin}:
        return NO, f"kernel {start.version} has no {device.drivers[0]} ({kernel.alias_source or kernel.path})"
    if not facts.builtin_known:
        return UNKNOWN, f"no {usual} in {_where(start)}; whether it is built in could not be seen"
    if start.image is None:
        return NO, f"{usual} is not built in, and the entry has no initramfs"
    if kernel is not None and set(names) & set(kernel.modules):
        made = ", which was made for this machine only" if start.image.hostonly else ""
        return NO, f"kernel {start.version} has {usual}, but {start.image.path} does not{made}"
    return NO, f"no {usual} in {start.image.path}"


def _where(start: Start) -> str:
    return start.image.path if start.image else "an initramfs"


def _storage(device: Device, facts: _Facts) -> tuple[Readiness, str | None]:
    """The verdict, and the driver that it stands on."""
    start = facts.start
    names = facts.candidates(device)
    present = [name for name in names if name in facts.in_image or name in facts.builtin]
    barred = [
        name
        for name in present
        if name not in facts.builtin and name in facts.cmdline_blacklist | facts.image_blacklist
    ]
    allowed = [name for name in present if name not in barred]
    if not allowed:
        if barred:
            place = "the boot arguments" if set(barred) & facts.cmdline_blacklist else f"modprobe.d in {_where(start)}"
            return _result(device, NO, f"{_names(barred)} is blacklisted by {place}"), None
        verdict, reason = _unseen(facts) or _without(device, names, facts)
        return _result(device, verdict, reason), None
    driver = allowed[0]
    built_in = driver in facts.builtin
    evidence = [f"{driver} is built in" if built_in else f"{driver} in {_where(start)}"]
    verdict = READY
    if missing := _missing(device, driver, facts):
        certain = facts.builtin_known and (start.image is None or start.image.complete)
        verdict = NO if certain else LIKELY
        evidence.append(f"it needs {_names(missing)}, not seen in {_where(start)}")
    if verdict == READY and start.image is not None and not start.image.complete:
        verdict = LIKELY
        evidence.append(f"{start.image.path} could not be read to its end: {start.image.problem}")
    if verdict == READY and not start.certain:
        verdict = LIKELY
        evidence.append("no menu says that this kernel boots")
    if verdict == READY and start.doubt:
        verdict = LIKELY
        evidence.append(start.doubt)
    verdict = _with_root_name(device, driver, start.options, verdict, evidence)
    return _result(device, verdict, *evidence), None if verdict == NO else driver


def root_name(options: str) -> str:
    """The root as the boot arguments name it by a device; empty for UUIDs and labels."""
    found = _ROOT.search(options)
    return found[1] if found else ""


def is_lost(name: str) -> bool:
    """Whether a disk is surely called otherwise at the destination, whatever controller it gets."""
    return bool(_LOST_NAME.match(name))


def _with_root_name(device: Device, driver: str, options: str, verdict: str, evidence: list[str]) -> str:
    """A root that is named by its disk is found only where the disk is called so again."""
    name = root_name(options)
    if not name or verdict == NO:
        return verdict
    if is_lost(name):
        evidence.append(f"root={clean(name, 60)} names a disk that is not called so there")
        return NO
    wanted = (
        "nvme" if _NVME_NAME.match(name) else "sd" if _SCSI_NAME.match(name) else "hd" if _IDE_NAME.match(name) else ""
    )
    if not wanted:
        return verdict
    given = "nvme" if device.name == "nvme" else "hd" if driver == "piix" else "sd"
    if wanted != given:
        evidence.append(f"root={clean(name, 60)}, but the disk is called {given}… there")
        return NO
    evidence.append(f"root={clean(name, 60)} holds while the order of the disks does")
    return LIKELY if verdict == READY else verdict


def _network(device: Device, facts: _Facts) -> tuple[Readiness, str | None]:
    start = facts.start
    names = facts.candidates(device) or list(device.drivers)
    kernel = start.kernel
    places = [
        (set(kernel.modules) if kernel else set(), kernel.path if kernel else ""),
        (facts.in_image, _where(start)),
    ]
    for name in names:
        if name in facts.builtin:
            return _result(device, READY if start.certain else LIKELY, f"{name} is built in"), name
        for there, path in places:
            if name not in there:
                continue
            if name in facts.cmdline_blacklist or name in start.blacklist:
                return _result(device, NO, f"{name} is blacklisted"), None
            return _result(device, READY if start.certain else LIKELY, f"{name} in {path}"), name
    if kernel is None:
        what = f"/lib/modules/{start.version}" if start.version else "its modules"
        return _result(device, UNKNOWN, f"{what} could not be looked into"), None
    if not facts.builtin_known:
        return _result(
            device, UNKNOWN, f"no {device.drivers[0]} in {kernel.path}; what is built in could not be seen"
        ), None
    return _result(device, NO, f"no {device.drivers[0]} in {kernel.path}"), None


def _result(device: Device, verdict: str, *evidence: str) -> Readiness:
    return Readiness(device.name, device.kind, verdict, tuple(clean(text, _MAX_EVIDENCE) for text in evidence if text))


def judge(start: Start) -> tuple[tuple[Readiness, ...], tuple[str, ...]]:
    """The verdict for every device, and the drivers that can be counted on."""
    facts = _Facts(start)
    results = [(_storage if device.kind == "storage" else _network)(device, facts) for device in DEVICES]
    drivers = {driver for _unused, driver in results if driver is not None}
    return tuple(result for result, _unused in results), tuple(sorted(drivers))


def devices_with(results: Sequence[Readiness], kind: str, *verdicts: str) -> list[str]:
    """Names of the devices of a kind with one of some verdicts."""
    return [item.device for item in results if item.kind == kind and item.verdict in verdicts]
