# SPDX-License-Identifier: GPL-3.0-or-later
"""The jail of the process that reads a guest's file system: a crafted file system may take it over.

It has namespaces of its own for mounts, processes, network, IPC and the host name, and a root directory with nothing in
it but the live system's programs (read-only), some memory for files, and the guest. After mounting it is the user
"nobody", who may read every file there is and nothing else.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

#: Where the guest is mounted, inside the jail.
GUEST = "/guest"
#: Where the jail's root is mounted, in a mount namespace that nobody else sees: the directory itself stays empty.
PLACE = Path("/run/coldmig/jail")
#: Address space with mapped files, and memory of its own alone, for each process in the jail.
ADDRESS_BYTES = 512 << 20
MEMORY_BYTES = 192 << 20
#: Files in the jail's /tmp: a cap, only what is written takes memory. A registry that needs its log is copied there.
TMP_BYTES = 160 << 20
_NOBODY = 65534
_CLONE = {"NEWNS": 0x00020000, "NEWUTS": 0x04000000, "NEWIPC": 0x08000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_SYS_PIVOT_ROOT, _SYS_CAPSET = 155, 126  # x86_64, the live system's only architecture
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 8, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAP_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2
_LAST_CAP = 63
_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError with ``what`` when a call has failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), options.encode())
    check(result, f"mounting {kind or target}" + (f" ({options})" if options else ""))


def umount(target: str) -> None:
    """Take a mount away, at once for everybody who does not hold it open. Raises OSError."""
    check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmounting {target}")


def bound(cpu_seconds: float) -> None:
    """Limits of this process and of all that it starts."""
    for kind, value in (
        (resource.RLIMIT_AS, ADDRESS_BYTES),
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, int(cpu_seconds) + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 256 << 20),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, 64),
    ):
        resource.setrlimit(kind, (value, value))


def isolate() -> None:
    """Go on in namespaces of its own, as the first process there: whatever it starts ends with it.

    The calling process only waits. Raises OSError.
    """
    check(_libc.unshare(sum(_CLONE.values())), "unshare")
    child = os.fork()
    if child:
        _unused, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    mount(None, "/", None, _MS_REC | _MS_PRIVATE)


def build(nodes: Mapping[str, Path]) -> None:
    """Make the jail's root: ``nodes`` are block devices under ``/dev`` there. Raises OSError."""
    mount("jail", str(PLACE), "tmpfs", MS_NOSUID, f"size={TMP_BYTES},mode=0755")
    for name in ("usr", "dev", "tmp", "proc", "other", GUEST.lstrip("/")):
        (PLACE / name).mkdir()
    (PLACE / "tmp").chmod(0o1777)
    # All that ntfs-3g wants to know: a FUSE that does not claim the block device.
    (PLACE / "proc/filesystems").write_text("nodev\tfuse\n", encoding="ascii")
    _bind(Path("/usr"))
    for name in ("bin", "sbin", "lib", "lib64"):
        (PLACE / name).symlink_to(f"usr/{name}")
    for path in dict.fromkeys(Path(entry).resolve() for entry in sys.path if entry):
        if path.exists() and not path.is_relative_to("/usr") and not PLACE.is_relative_to(path):
            _bind(path)
    for name, mode, number in (("null", 0o666, (1, 3)), ("fuse", 0o600, (10, 229))):
        os.mknod(PLACE / "dev" / name, stat.S_IFCHR | mode, os.makedev(*number))
        (PLACE / "dev" / name).chmod(mode)
    for name, node in nodes.items():
        os.mknod(PLACE / "dev" / name, stat.S_IFBLK | 0o600, node.stat().st_rdev)


def _bind(path: Path) -> None:
    target = PLACE / path.relative_to("/")
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(str(path), str(target), None, _MS_BIND)
    mount(None, str(target), None, _MS_REMOUNT | _MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def enter() -> None:
    """Make the jail the root directory; nothing outside it can be reached from then on. Raises OSError."""
    os.chdir(PLACE)
    check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."), "pivot_root")
    umount(".")
    os.chdir("/")


def drop_privileges() -> None:
    """Be nobody, with the one privilege to read all files. Raises OSError."""
    for capability in range(_LAST_CAP + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that the kernel does not have fail
    check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    mask = 1 << _CAP_DAC_READ_SEARCH
    header = struct.pack("Ii", _CAP_VERSION_3, 0)
    data = struct.pack("6I", mask, mask, 0, 0, 0, 0)
    check(_libc.syscall(ctypes.c_long(_SYS_CAPSET), header, data), "capset")
    check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
