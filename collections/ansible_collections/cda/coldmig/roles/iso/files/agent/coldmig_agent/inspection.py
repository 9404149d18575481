# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the source's file systems, one at a time, each in a process of its own with a time limit.

The process that reads the guest's files mounts them in a mount namespace of its own: when it ends, by itself or killed,
the mount is gone and this process takes the overlay down.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import coldmig_agent
from coldmig_agent.discovery.disks import Source, Volume
from coldmig_agent.guest.linux import VolumeFacts, assemble, facts_from_json, read_volume
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.machine import Guest, Notice
from coldmig_agent.overlay import MOUNTABLE, OverlayError, View, have_device_mapper, view
from coldmig_agent.text import clean

LOG = logging.getLogger(__name__)

#: For one file system. Listing a big initramfs takes two seconds on a real machine, a minute on an emulated one.
TIME_LIMIT = 180.0
MAX_VOLUMES = 32
CHILD_COMMAND = "inspect"
_MAX_FACTS = 1 << 20
_MEMORY_LIMIT = 512 << 20
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
#: Subvolumes that distributions use as root when the default one is the top level.
_BTRFS_ROOTS = ("@", "@rootfs", "root")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(target: View, place: str) -> None:
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check(
        _libc.mount(
            str(target.device).encode(), place.encode(), target.fstype.encode(), ctypes.c_ulong(flags),
            target.options.encode(),
        ),
        f"mounting {target.fstype}",
    )  # fmt: skip


def read_mounted(place: Path, fstype: str) -> VolumeFacts:
    """Facts of a file system that is mounted at ``place``; of its root subvolume where Btrfs has one."""
    with GuestRoot.at(place) as top:
        facts = read_volume(top, fstype)
        if fstype != "btrfs" or facts.is_root:
            return facts
        for name in _BTRFS_ROOTS:
            if top.is_dir(f"{name}/etc"):
                with top.below(name) as root:
                    return read_volume(root, fstype)
    return facts


def child_main() -> int:
    """The inspecting process: a view as JSON on standard input, facts as JSON on standard output."""
    request = json.loads(sys.stdin.read())
    target = View(Path(request["device"]), request["fstype"], request["options"])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "making mounts private")
    with tempfile.TemporaryDirectory(prefix="coldmig-", dir="/run") as place:
        try:
            _mount(target, place)
        except OSError as error:
            print(json.dumps({"error": str(error)}))  # noqa: T201 - the answer
            return 0
        try:
            facts = read_mounted(Path(place), target.fstype)
        finally:
            _check(_libc.umount2(place.encode(), 2), "unmounting")  # MNT_DETACH
    print(json.dumps({"facts": facts.to_json()}))  # noqa: T201 - the answer
    return 0


def _read_bounded(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """The process's output; raises OverlayError when it is too long or too late."""
    output = cast(BinaryIO, process.stdout)
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise OverlayError(f"it took longer than {TIME_LIMIT:.0f} s")
            part = os.read(output.fileno(), 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            if sum(map(len, parts)) > _MAX_FACTS:
                raise OverlayError("it said too much")


def _inspect_view(target: View) -> VolumeFacts:
    """Run the inspecting process on a view. Raises OverlayError."""
    package = Path(coldmig_agent.__file__).parent.parent  # a directory, or the zipapp itself
    search_path = os.pathsep.join([str(package), *(entry for entry in sys.path if entry and entry != str(package))])
    process = subprocess.Popen(
        [sys.executable, "-m", "coldmig_agent", CHILD_COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if LOG.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search_path},
    )
    try:
        request = {"device": str(target.device), "fstype": target.fstype, "options": target.options}
        with cast(BinaryIO, process.stdin) as pipe:
            pipe.write(json.dumps(request).encode())
        output = _read_bounded(process, time.monotonic() + TIME_LIMIT)
    except BrokenPipeError:
        output = b""
    finally:
        process.kill()
        process.wait()
    try:
        document = json.loads(output)
        if "error" in document:
            raise OverlayError(str(document["error"])[:200])
        return facts_from_json(document["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise OverlayError(f"the inspecting process failed ({error or 'no answer'})") from None


def inspect_volume(path: Path, volume: Volume, *, device_mapper: bool) -> VolumeFacts:
    """Facts of one partition; first with its journal replayed in memory, else without. Raises OverlayError."""
    fstype = volume.content.fstype
    attempts = [True, False] if device_mapper and fstype != "vfat" else [False]
    problem = OverlayError("not tried")
    for replay in attempts:
        try:
            with view(path, volume.start_bytes, volume.size_bytes, fstype, replay=replay) as target:
                return _inspect_view(target)
        except OverlayError as error:
            LOG.info("looking into %s partition %d (replay=%s): %s", path, volume.number, replay, error)
            problem = error
    raise problem


def _windows(sources: Sequence[Source]) -> bool:
    return any(v.content.fstype in {"ntfs", "BitLocker"} for source in sources for v in source.volumes)


def inspect(sources: Sequence[Source], firmware: str) -> tuple[Guest, list[Notice]]:
    """Find the guest in all file systems that can be read. Never raises for what the disks hold."""
    notices: list[Notice] = []
    found: list[VolumeFacts] = []
    device_mapper = have_device_mapper()
    candidates = [(s, v) for s in sources for v in s.volumes if v.content.fstype in MOUNTABLE]
    for source, volume in candidates[:MAX_VOLUMES]:
        try:
            found.append(inspect_volume(source.path, volume, device_mapper=device_mapper))
        except OverlayError as error:
            place = f"disk {volume.disk}, partition {volume.number} ({volume.content.fstype})"
            notices.append(Notice("volume-not-readable", f"{place} could not be looked into: {clean(str(error), 160)}"))
    guest, more = assemble(found, firmware)
    notices += more
    if guest is not None:
        return guest, notices
    if _windows(sources):
        message = "the disks look like Windows; its version and computer name were not looked at"
        notices.append(Notice("guest-not-inspected", message))
        return Guest(os_type="windows", id="windows", pretty_name="Windows"), notices
    message = "no operating system was found in file systems that the agent can read; the disks are copied as they are"
    notices.append(Notice("guest-not-found", message))
    return Guest(), notices
