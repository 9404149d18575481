# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks as a source machine may have them after a loss of power: whatever writes to them unasked has reason to.

A small Debian guest (the kernel of the live system with all its modules, busybox, and this machine's disk tools) makes
them in QEMU, and loses its power while everything is mounted:

disk 0: swap with a hibernation image's signature, dirty ext4, LVM with a snapshot and a thin volume, half a RAID1,
dirty XFS, Btrfs, a degraded RAID1 with LVM on it, half of an LVM RAID1, NTFS, FAT, and two file systems that were
damaged on purpose
disk 1: the other half of the RAID1, of the Btrfs, and of the LVM RAID1
disks 2 and 3: a RAID1 of Intel's firmware (imsm), with a dirty ext4 on it

Each dirty file system is the root of a small system whose name is :data:`HOSTS`'s when its journal is replayed, and
"before-the-journal" when it is not.

The same guest can also *provoke* such disks the way a stock live system does: it starts arrays, "only" mounts file
systems read-only, resumes, swaps, sets the clock, and, with all disks set read-only, mounts a logical volume. All of it
writes: :data:`PROVOKED` says where. That is the proof that the measurement of the tests sees each of these writes, and
why the fence is more than a flag.
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

TOOLS = ("mdadm", "mdmon", "lvm", "mke2fs", "mkfs.xfs", "mkfs.btrfs")
HOST_TOOLS = ("sfdisk", "mkntfs", "mkfs.vfat", "mke2fs", "mkfs.btrfs")
MIB = 1 << 20
_MODULES = (
    "crc32c_generic", "ahci", "sd_mod", "md-mod", "raid1", "dm-mod", "dm-snapshot", "dm-thin-pool", "dm-raid", "ext4",
    "xfs", "btrfs",
)  # fmt: skip
_SIZES = ((64, 64, 320, 64, 320, 160, 96, 48, 16, 16, 16, 128), (64, 160, 48))
_IMSM_MIB = 64
NTFS, FAT, BAD_EXT4, BAD_BTRFS = 9, 10, 11, 12

#: Host name that a replayed journal gives -> key of the file system.
HOSTS = {
    "on-ext4": "disk0/2",
    "on-lvm": "lvm/vg/root",
    "on-thin": "lvm/vg/thin",
    "on-raid": "md/0",
    "on-xfs": "disk0/5",
    "on-btrfs": "disk0/6",
    "on-degraded": "lvm/vgmd/root",
    "on-lv-raid": "lvm/vgr/root",
}

_START = """#!/bin/sh
export PATH=/sbin:/bin DM_DISABLE_UDEV=1
/bin/busybox mkdir -p /proc /sys /dev /run /mnt /tmp /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in @MODULES@; do modprobe $module; done
A= B= C= D=
while [ -z "$A" ] || [ -z "$B" ] || [ -z "$D" ]; do
    sleep 1
    A= B= C= D=
    for disk in /dev/sd[a-z]; do  # the kernel may find them in any order
        if [ -b ${disk}12 ]; then A=$disk; elif [ -b ${disk}3 ]; then B=$disk; else D=$C C=$disk; fi
    done
done
export IMSM_NO_PLATFORM=1 MDADM_NO_UDEV=1
options='devices/obtain_device_list_from_udev=0 activation/udev_sync=0 activation/udev_rules=0 activation/monitoring=0'
options="$options "'global/thin_check_executable=""'
lvm() { /sbin/lvm "$@" --config "$options"; }
"""
_END = """
echo "@DONE@"
while :; do sleep 1000; done
"""

MAKE = """
set -e
system() {
    # system DIRECTORY NAME: a root whose name changes in the last moment
    mkdir -p $1/etc $1/bin $1/usr/lib
    printf 'ID=debian\\nVERSION_ID="12"\\nPRETTY_NAME="%s"\\n' "$2" >$1/etc/os-release
    echo "/dev/sda1 / auto defaults 0 1" >$1/etc/fstab
    echo before-the-journal >$1/etc/hostname
}
rename() {
    for name in "$@"; do
        echo "on-$name" >/mnt/$name/etc/hostname.new
        mv /mnt/$name/etc/hostname.new /mnt/$name/etc/hostname
        dd if=/dev/null of=/mnt/$name/etc/hostname conv=notrunc,fsync 2>/dev/null
    done
}
mkswap ${A}1
printf 'S1SUSPEND\\000' | dd of=${A}1 bs=1 seek=4086 conv=notrunc
for name in ext4 lvm thin raid xfs btrfs degraded lv-raid; do mkdir -p /mnt/$name; done
/sbin/mke2fs -q -t ext4 ${A}2 && mount -t ext4 ${A}2 /mnt/ext4
mdadm --create /dev/md0 --name=source:0 --level=1 --raid-devices=2 --metadata=1.2 --assume-clean --run ${A}4 ${B}1
/sbin/mke2fs -q -t ext4 /dev/md0 && mount -t ext4 /dev/md0 /mnt/raid
mdadm --create /dev/md1 --name=source:half --level=1 --raid-devices=2 --metadata=1.2 --run ${A}7 missing
mdadm --create /dev/md127 --metadata=imsm --raid-devices=2 --run $C $D
mdadm --create /dev/md126 --level=1 --raid-devices=2 --assume-clean --run /dev/md127
/sbin/mke2fs -q -t ext4 /dev/md126 && mkdir -p /mnt/imsm && mount -t ext4 /dev/md126 /mnt/imsm
lvm pvcreate -q ${A}3 /dev/md1 ${A}8 ${B}3
lvm vgcreate -q vg ${A}3
lvm vgcreate -q vgmd /dev/md1
lvm vgcreate -q vgr ${A}8 ${B}3
lvm lvcreate -q -L 64M -n root vg
lvm lvcreate -q -L 96M -T vg/pool -V 128M -n thin
lvm lvcreate -q -L 64M -n root vgmd
lvm lvcreate -q --type raid1 --nosync -m 1 -L 32M -n root vgr
/sbin/mke2fs -q -t ext4 /dev/mapper/vg-root && mount -t ext4 /dev/mapper/vg-root /mnt/lvm
/sbin/mke2fs -q -t ext4 /dev/mapper/vg-thin && mount -t ext4 /dev/mapper/vg-thin /mnt/thin
/sbin/mke2fs -q -t ext4 /dev/mapper/vgmd-root && mount -t ext4 /dev/mapper/vgmd-root /mnt/degraded
/sbin/mke2fs -q -t ext4 /dev/mapper/vgr-root && mount -t ext4 /dev/mapper/vgr-root /mnt/lv-raid
mkfs.xfs -q ${A}5 && mount -t xfs ${A}5 /mnt/xfs
mkfs.btrfs -q -m raid1 -d raid1 ${A}6 ${B}2
mount -t btrfs -o device=${A}6,device=${B}2 ${A}6 /mnt/btrfs
for name in ext4 lvm thin raid xfs btrfs degraded lv-raid; do system /mnt/$name $name; done
system /mnt/imsm imsm
sync
lvm lvcreate -q -s -L 32M -n before vg/root
rename ext4 lvm thin raid xfs btrfs degraded lv-raid imsm
"""

PROVOKE = """
mkdir -p /mnt/raid /mnt/any /mnt/lvm
mdadm --assemble --run /dev/md0 ${A}4 ${B}1
mount -t ext4 -o ro /dev/md0 /mnt/raid && umount /mnt/raid
mdadm --wait /dev/md0
mdadm --stop /dev/md0
mdadm --assemble --run /dev/md1 ${A}7
lvm vgchange -a y vgmd
mount -t ext4 -o ro /dev/mapper/vgmd-root /mnt/any && umount /mnt/any
lvm vgchange -a n vgmd; mdadm --stop /dev/md1
mdadm --assemble /dev/md127 $C $D
IMSM_NO_PLATFORM=1 mdadm --incremental --run /dev/md127
for array in /dev/md126 /dev/md/*; do mount -t ext4 -o ro $array /mnt/any && umount /mnt/any && break; done
mdadm --stop --scan
mount -t ext4 -o ro ${A}2 /mnt/any && umount /mnt/any
mount -t xfs -o ro ${A}5 /mnt/any && umount /mnt/any
mount -t btrfs -o ro,device=${A}6,device=${B}2 ${A}6 /mnt/any && umount /mnt/any
stat -c '0x%t:0x%T' ${A}1 | { IFS=: read -r major minor; echo $((major)):$((minor)) >/sys/power/resume; }
hwclock -w -u
for disk in /dev/sd??; do blockdev --setro "$disk"; done
blockdev --setro $A && blockdev --setro $B
lvm vgchange -a y vg
mount -t ext4 -o ro /dev/mapper/vg-root /mnt/lvm
dmesg | grep -E 'read-only|recovery|md0|md12|PM:'
"""
#: What the provocation writes to, (disk, partition), partition 0 being the whole disk; every hazard of these disks
#: that a kernel alone can set off.
PROVOKED = {
    "swap with a hibernation image": (0, 1),
    "dirty ext4": (0, 2),
    "LVM": (0, 3),
    "RAID1": (0, 4),
    "dirty XFS": (0, 5),
    "dirty Btrfs": (0, 6),
    "degraded RAID1": (0, 7),
    "RAID1, other half": (1, 1),
    "Intel RAID": (2, 0),
    "Intel RAID, other half": (3, 0),
}


def missing_tools() -> list[str]:
    """Disk tools that this machine lacks."""
    return [name for name in dict.fromkeys((*TOOLS, *HOST_TOOLS)) if shutil.which(name, path=_PATH) is None]


def make(directory: Path, tree: Path) -> list[Disk]:
    """Make all four disks in ``directory``. ``tree``: result of the stage "tree" (the guest's kernel and modules)."""
    disks = []
    for index, sizes in enumerate(_SIZES):
        path = directory / f"dirty{index}.raw"
        with path.open("wb") as image:
            image.truncate((sum(sizes) + 2) * MIB)
        table = "label: gpt\n" + "".join(f"size={size}MiB\n" for size in sizes)
        subprocess.run(["sfdisk", "--quiet", path], input=table, text=True, check=True, env={"PATH": _PATH})
        disks.append(Disk(path, f"DIRTY-{index}"))
    _plain_partitions(disks[0].path)
    for index in (len(_SIZES), len(_SIZES) + 1):
        path = directory / f"dirty{index}.raw"
        with path.open("wb") as image:
            image.truncate(_IMSM_MIB * MIB)
        disks.append(Disk(path, f"DIRTY-{index}"))
    with _workshop(directory, tree, disks, "make", MAKE) as guest:
        guest.wait_for("^DISKS-MADE", 60, failure=["^Kernel panic", "not syncing"])
        # the plug is pulled here, with everything mounted
    return disks


def _plain_partitions(disk: Path) -> None:
    """What this machine can make by itself; two of them are damaged where mounting comes across it."""
    makers = {
        NTFS: ["mkntfs", "-Q", "-F", "-q", "-L", "windows"],
        FAT: ["mkfs.vfat", "-n", "ESP"],
        BAD_EXT4: ["mke2fs", "-q", "-t", "ext4"],
        BAD_BTRFS: ["mkfs.btrfs", "-q", "--mixed"],
    }
    starts = [start for start, _size in _places(disk)]
    for number, command in makers.items():
        part = disk.with_suffix(f".part{number}")
        with part.open("wb") as image:
            image.truncate(_SIZES[0][number - 1] * MIB)
        subprocess.run([*command, part], check=True, capture_output=True, env={"PATH": _PATH})
        data = bytearray(part.read_bytes())
        if number == BAD_EXT4:
            for at in range(2048, 512 << 10, 64):  # group descriptors, bitmaps and inodes
                data[at] ^= 0xA5
        elif number == BAD_BTRFS:
            for at in range(1 << 20, len(data), 256):  # all trees
                data[at] ^= 0xA5
        with disk.open("r+b") as image:
            image.seek(starts[number - 1])
            image.write(data)
        part.unlink()


def _places(disk: Path) -> list[tuple[int, int]]:
    """Start and size of each partition in bytes; none of a disk without a table."""
    listing = subprocess.run(
        ["sfdisk", "--dump", disk], capture_output=True, text=True, check=False, env={"PATH": _PATH}
    )
    found = re.findall(r"start= *(\d+), size= *(\d+)", listing.stdout)
    return [(int(start) * 512, int(size) * 512) for start, size in found]


def digest_of(disk: Path, partition: int) -> str:
    """Digest of a partition, or with 0 of the whole disk."""
    start, size = _places(disk)[partition - 1] if partition else (0, disk.stat().st_size)
    with disk.open("rb") as image:
        image.seek(start)
        return hashlib.sha256(image.read(size)).hexdigest()


def provoke(directory: Path, tree: Path, disks: list[Disk]) -> Running:
    """Boot a guest that does all that PROVOKE says; returns when it has done so."""
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
