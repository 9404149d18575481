# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks as a source machine may have them after a loss of power: whatever writes to them unasked has reason to.

A small Debian guest (the kernel of the live system with all its modules, busybox, and this machine's disk tools) makes
them in QEMU, and loses its power while everything is mounted:

disk 0: swap with a hibernation image's signature, dirty ext4, LVM with a snapshot, half a RAID1, dirty XFS, Btrfs
disk 1: the other half of the RAID1, and of the Btrfs

The same guest can also *provoke* such disks the way a stock live system does: it starts the array, and then, with all
disks set read-only, mounts a logical volume read-only. Both write. That is the proof that the measurement of the tests
sees writes, and why the fence is more than a flag.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from coldmig_iso.cpio import Archive
from coldmig_iso.modules import close, parse_dependencies
from coldmig_iso.tree import ARCHIVE

from e2e.qemu import Controller, Disk, Machine, Running

TOOLS = ("mdadm", "lvm", "mke2fs", "mkfs.xfs", "mkfs.btrfs")
MIB = 1 << 20
_MODULES = ("crc32c_generic", "ahci", "sd_mod", "md-mod", "raid1", "dm-mod", "dm-snapshot", "ext4", "xfs", "btrfs")
_SIZES = ((64, 64, 160, 64, 320, 160), (64, 160))

_START = """#!/bin/sh
export PATH=/sbin:/bin DM_DISABLE_UDEV=1
/bin/busybox mkdir -p /proc /sys /dev /run /mnt /tmp /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in @MODULES@; do modprobe $module; done
while [ ! -b /dev/sda2 ] || [ ! -b /dev/sdb2 ] || [ ! -b /dev/sd?6 ]; do sleep 1; done
A=/dev/sda B=/dev/sdb
[ -b /dev/sda6 ] || A=/dev/sdb B=/dev/sda  # the kernel may find them in either order
options='devices/obtain_device_list_from_udev=0 activation/udev_sync=0 activation/udev_rules=0 activation/monitoring=0'
lvm() { /sbin/lvm "$@" --config "$options"; }
"""
_END = """
echo "@DONE@"
while :; do sleep 1000; done
"""

MAKE = """
set -e
mkswap ${A}1
printf 'S1SUSPEND\\000' | dd of=${A}1 bs=1 seek=4086 conv=notrunc
mkdir -p /mnt/ext4 /mnt/lvm /mnt/raid /mnt/xfs /mnt/btrfs
/sbin/mke2fs -q -t ext4 ${A}2 && mount -t ext4 ${A}2 /mnt/ext4
lvm pvcreate -q ${A}3
lvm vgcreate -q vg ${A}3
lvm lvcreate -q -L 64M -n root vg
/sbin/mke2fs -q -t ext4 /dev/mapper/vg-root && mount -t ext4 /dev/mapper/vg-root /mnt/lvm
echo before >/mnt/lvm/file && sync
lvm lvcreate -q -s -L 32M -n before vg/root
mdadm --create /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 --assume-clean --run ${A}4 ${B}1
/sbin/mke2fs -q -t ext4 /dev/md0 && mount -t ext4 /dev/md0 /mnt/raid
mkfs.xfs -q ${A}5 && mount -t xfs ${A}5 /mnt/xfs
mkfs.btrfs -q -m raid1 -d raid1 ${A}6 ${B}2
mount -t btrfs -o device=${A}6,device=${B}2 ${A}6 /mnt/btrfs
for place in ext4 lvm raid xfs btrfs; do
    for number in 1 2 3; do echo "$number" | dd of=/mnt/$place/file-$number conv=fsync 2>/dev/null; done
done
"""

PROVOKE = """
mdadm --assemble --run /dev/md0 ${A}4 ${B}1
mkdir -p /mnt/raid
mount -t ext4 -o ro /dev/md0 /mnt/raid && umount /mnt/raid
mdadm --wait /dev/md0
mdadm --stop /dev/md0
for disk in /dev/sd??; do blockdev --setro "$disk"; done
blockdev --setro $A && blockdev --setro $B
lvm vgchange -a y vg
mkdir -p /mnt/lvm
mount -t ext4 -o ro /dev/mapper/vg-root /mnt/lvm
dmesg | grep -E 'read-only|recovery|md0'
"""


def missing_tools() -> list[str]:
    """Disk tools that this machine lacks."""
    return [name for name in (*TOOLS, "sfdisk") if shutil.which(name, path=_PATH) is None]


def make(directory: Path, tree: Path) -> list[Disk]:
    """Make both disks in ``directory``. ``tree``: result of the stage "tree" (the guest's kernel and modules)."""
    disks = []
    for index, sizes in enumerate(_SIZES):
        path = directory / f"dirty{index}.raw"
        with path.open("wb") as image:
            image.truncate((sum(sizes) + 2) * MIB)
        table = "label: gpt\n" + "".join(f"size={size}MiB\n" for size in sizes)
        subprocess.run(["sfdisk", "--quiet", path], input=table, text=True, check=True, env={"PATH": _PATH})
        disks.append(Disk(path, f"DIRTY-{index}"))
    with _workshop(directory, tree, disks, "make", MAKE) as guest:
        guest.wait_for("^DISKS-MADE", 60, failure=["^Kernel panic", "not syncing"])
        # the plug is pulled here, with everything mounted
    return disks


def provoke(directory: Path, tree: Path, disks: list[Disk]) -> Running:
    """Boot a guest that starts the array and mounts the volume; returns when it has done so."""
    guest = _workshop(directory, tree, disks, "provoke", PROVOKE)
    guest.wait_for("^DISKS-PROVOKED", 60, failure=["not syncing"])
    return guest


def sha256(path: Path) -> str:
    """Digest of a disk image."""
    with path.open("rb") as image:
        return hashlib.file_digest(image, "sha256").hexdigest()


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _workshop(directory: Path, tree: Path, disks: list[Disk], name: str, script: str) -> Running:
    done = "DISKS-MADE" if name == "make" else "DISKS-PROVOKED"
    kernel, initrd = _boot_files(directory, tree, name, _START + script + _END.replace("@DONE@", done))
    return Machine(
        name=f"workshop-{name}",
        directory=directory,
        memory_mib=512,
        controller=Controller.AHCI,
        disks=disks,
        extra=("-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet"),
    ).start()


def _boot_files(directory: Path, tree: Path, name: str, script: str) -> tuple[Path, Path]:
    parts = directory / "workshop"
    if not parts.is_dir():
        parts.mkdir()
        members = ["./boot", "./usr/lib/modules", "./usr/bin/busybox"]
        subprocess.run(["tar", "-x", "-C", parts, "-f", tree / ARCHIVE, *members], check=True)
    kernel = next((parts / "boot").glob("vmlinuz-*"))
    archive = Archive()
    made: set[str] = set()

    def add(path: str, source: Path) -> None:
        for parent in reversed(Path(path).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                archive.directory(str(parent))
        archive.file(path, source.read_bytes(), 0o755)

    add("bin/busybox", parts / "usr/bin/busybox")
    archive.link("bin/sh", "busybox")
    archive.directory("dev")
    archive.device("dev/console", 0o600, 5, 1)
    for path in _program_files():
        add(str(path).lstrip("/"), path)
    modules = next((parts / "usr/lib/modules").iterdir())
    dependencies = parse_dependencies((modules / "modules.dep").read_text())
    wanted = {path for path in dependencies if Path(path).stem in _MODULES}
    for module in sorted(close(dependencies, wanted)):
        add(f"lib/modules/{modules.name}/{module}", modules / module)
    for index in ("modules.dep", "modules.builtin", "modules.softdep", "modules.alias"):
        add(f"lib/modules/{modules.name}/{index}", modules / index)
    init = parts / f"init-{name}"
    init.write_text(script.replace("@MODULES@", " ".join(_MODULES)))
    add("init", init)
    initrd = parts / f"initrd-{name}.img"
    initrd.write_bytes(archive.finish())
    return kernel, initrd


def _program_files() -> list[Path]:
    """The disk tools and the shared libraries that they need, at the paths where they look for them."""
    found: dict[Path, None] = {}
    for tool in TOOLS:
        program = Path(str(shutil.which(tool, path=_PATH)))
        found[Path("/sbin") / tool] = None
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listing):
            found[Path(library)] = None
    return list(found)
