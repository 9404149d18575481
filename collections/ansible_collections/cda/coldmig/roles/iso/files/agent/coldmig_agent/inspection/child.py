# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes that mount file systems and read them: one for each, made by a server that does nothing else.

The server has loaded all that is needed, and makes copies of itself: that takes milliseconds, a new Python seconds.
It hears requests on a socket, its standard input, each with a pipe for the answer. A process that reads has its own
pipe and nothing else of the server's: it can say nothing about any other file system than its own.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from coldmig_agent.guest.facts import VolumeFacts
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.volume import read_volume
from coldmig_agent.inspection import filesystems, jail
from coldmig_agent.inspection.filesystems import NTFS, Way
from coldmig_agent.records import from_json, to_json

_FLAGS = jail.MS_RDONLY | jail.MS_NOSUID | jail.MS_NODEV | jail.MS_NOEXEC
_MAX_REQUEST = 1 << 16
_NTFS_SECONDS = 60.0
_NTFS_CAGE = ("setpriv", "--bounding-set=-all,+sys_admin,+setuid,+setgid", "--no-new-privs", "--")


@dataclass(frozen=True, slots=True)
class Request:
    """``devices`` of one file system (several for Btrfs), whether its journal may be replayed, seconds for all."""

    devices: tuple[str, ...]
    fstype: str
    replay: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What was read, or why nothing was; ``way``: options that it was mounted with."""

    facts: VolumeFacts | None = None
    problem: str = ""
    way: str = ""


def main() -> int:
    """The command ``inspect``, no command for people: serve until the other end of the socket is closed."""
    with socket.socket(fileno=os.dup(0)) as requests:
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")
        while True:
            message, pipes, _flags, _address = socket.recv_fds(requests, _MAX_REQUEST, 1)
            if not message or len(pipes) != 1:
                return 0
            child = os.fork()
            if not child:
                requests.close()
                _serve(from_json(Request, message), pipes[0])
            os.close(pipes[0])
            os.waitpid(child, 0)


def _serve(request: Request, pipe: int) -> NoReturn:
    """Read one file system, answer, and end."""
    try:
        os.dup2(pipe, 1)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.close(pipe)
        os.set_inheritable(1, False)  # no program that is started here holds the pipe open
        end = time.monotonic() + request.seconds
        try:
            jail.bound(request.seconds)
            jail.isolate()
            jail.build({f"volume{number}": Path(device) for number, device in enumerate(request.devices)})
            answer = _read(request, end)
        except OSError as error:
            answer = Answer(problem=error.strerror or str(error))
        data = to_json(answer).encode()
        while data:
            data = data[os.write(1, data) :]
    except BaseException:  # whatever it is, this copy of the server must not go on as one
        if os.environ.get("COLDMIG_DEBUG"):
            traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _read(request: Request, end: float) -> Answer:
    """Mount, shut the door, and read."""
    default = ""
    mounted: Way | None = None
    if request.fstype != NTFS:
        mounted, default = _mount(request)
    jail.enter()
    if request.fstype == NTFS:
        mounted = _mount_ntfs()
    jail.drop_privileges()
    with GuestRoot.at(Path(jail.GUEST)) as root:
        budget = max(1.0, (end - time.monotonic()) * 0.8)
        facts = read_volume(root, request.fstype, default_subvolume=default, budget_seconds=budget)
    return Answer(facts, way=mounted.options if mounted else "")


def _mount(request: Request) -> tuple[Way, str]:
    """The way that worked, and the path of a Btrfs's default subvolume. Raises OSError."""
    guest = f"{jail.PLACE}{jail.GUEST}"
    devices = [f"{jail.PLACE}/dev/volume{number}" for number in range(len(request.devices))]
    problem: OSError | None = None
    for way in filesystems.ways(request.fstype, replay=request.replay):
        options = ",".join([*(part for part in [way.options] if part), *(f"device={path}" for path in devices[1:])])
        try:
            jail.mount(devices[0], guest, way.driver, _FLAGS, options)
        except OSError as error:
            problem = problem or error  # what stands in the way of the best one
            continue
        default = _default_subvolume(devices[0], options) if request.fstype == "btrfs" else ""
        return way, default
    raise problem or OSError(0, f"{request.fstype} cannot be mounted")


def _default_subvolume(device: str, options: str) -> str:
    """Path from the top level of the subvolume that is mounted when none is named; empty for the top level."""
    other = f"{jail.PLACE}/other"
    try:
        jail.mount(device, other, "btrfs", _FLAGS, options.replace("subvolid=5,", "").replace("subvolid=5", ""))
    except OSError:
        return ""
    try:
        return mount_root(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"), other)
    finally:
        jail.umount(other)


def mount_root(mountinfo: str, place: str) -> str:
    """Which directory of its file system is mounted at ``place``, without the first slash (proc(5), mountinfo)."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 5 and fields[4] == place:
            return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[3]).lstrip("/")
    return ""


def _mount_ntfs() -> Way:
    """NTFS through FUSE: the driver runs inside the jail, and ends with it. Raises OSError."""
    options = "ro,nosuid,nodev,noexec,allow_other,norecover,streams_interface=none,no_detach"
    log = os.open("/tmp/ntfs-3g", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # noqa: S108 - a jail of its own
    try:
        process = subprocess.Popen(
            [*_NTFS_CAGE, "ntfs-3g", "-o", options, "/dev/volume0", jail.GUEST],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"},
        )
        end = time.monotonic() + _NTFS_SECONDS
        while not _is_mounted():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                said = os.pread(log, 2000, 0).decode("utf-8", "replace").split("\n")
                raise OSError(0, "ntfs-3g: " + next((line for line in said if line.strip()), "it did not mount"))
            time.sleep(0.02)
    finally:
        os.close(log)
    return Way(NTFS, options)


def _is_mounted() -> bool:
    try:
        return Path(jail.GUEST).stat().st_dev != Path("/").stat().st_dev
    except OSError:  # the driver has ended, or is not ready
        return False
