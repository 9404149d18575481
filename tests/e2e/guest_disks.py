# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the disks of the boot matrix's guests: Debian 12 on everything that a machine may keep its root on.

| guest | root | initramfs |
|---|---|---|
| `lvm-raid1` | ext4 on LVM on a RAID1 of two disks | initramfs-tools, MODULES=most |
| `btrfs` | subvolume `@` of a Btrfs of two disks, one of them without partitions | initramfs-tools, MODULES=most |
| `dirty` | ext4 whose journal holds what its last user wrote; the plug was pulled | initramfs-tools, MODULES=most |
| `luks` | ext4 in LUKS2 with a passphrase; `/boot` apart | initramfs-tools, MODULES=most |
| `dracut` | ext4 on a partition | dracut, host-only, made on a machine whose only disks are virtio's |

All are one tree of files made by mmdebstrap, with a kernel and initramfs each. What only a kernel can make (RAID, LVM,
LUKS, Btrfs subvolumes, a journal with content, a host-only initramfs) is made in a machine of its own, the workshop:
it boots this very tree with `/workshop` as its first process. Nothing here is mounted on the machine that tests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import images
from e2e.images import MIB, Grub, ImageError, Names, run
from e2e.qemu import Controller, Disk, Machine, MachineError
from e2e.source_machine import EXCLUDED_PATHS, PACKAGES, SUITE

NAMESPACE = uuid.UUID("b1a5c7f2-9d0e-4b7c-8a1d-52f6c3e40c77")
PASSPHRASE = "open sesame 42"
# The host name of the guest `dirty` as long as nobody has replayed its journal.
STALE = "matrix-before"
# With room for a second initramfs and for what a guest writes.
ROOT_BYTES = 720 * MIB
BOOT_BYTES = 96 * MIB
RAID_BYTES = ROOT_BYTES + 16 * MIB
EXTRA_PACKAGES = ("lvm2", "mdadm", "btrfs-progs", "cryptsetup-initramfs", "dracut-core")
# Drivers that take an emulated machine long to start with, and that say nothing about a destination.
_MORE_LEFT_OUT = (
    "arch/x86/kvm", "drivers/hid", "drivers/watchdog", "drivers/edac", "drivers/cpufreq", "drivers/tty",
)  # fmt: skip
_EXCLUDED = (*EXCLUDED_PATHS, *(f"/lib/modules/*/kernel/{name}/*" for name in _MORE_LEFT_OUT))

SELFCHECK = """\
#!/bin/sh
# Says on the console what this machine runs on, its network cards with and without a driver too.
udevadm settle --timeout=120
firmware=bios; [ -d /sys/firmware/efi ] && firmware=efi
nics=""
for card in /sys/bus/pci/devices/*; do
  case $(cat "$card/class") in 0x0200*) ;; *) continue ;; esac
  vendor=$(cat "$card/vendor") device=$(cat "$card/device") driver=none
  [ -e "$card/driver" ] && ls "$card/net/" >/dev/null 2>&1 && driver=$(basename "$(readlink -f "$card/driver")")
  nics="$nics,${vendor#0x}:${device#0x}=$driver"
done
state=$(awk '$2 == "/" { print $1 ":" $3 }' /proc/mounts | tail -n 1)
echo "selfcheck: host=$(cat /etc/hostname) root=$state firmware=$firmware nics=${nics#,}" >/dev/console
"""

SELFCHECK_UNIT = """\
[Unit]
Description=Say what this machine runs on
DefaultDependencies=no
After=local-fs.target systemd-udev-trigger.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/selfcheck

[Install]
WantedBy=sysinit.target
"""


class GuestError(RuntimeError):
    """A guest's disks could not be built; the message says which step failed and shows the tool's words."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a guest is put on its disks."""

    name: str
    root: str
    """What the kernel is told: root=…"""
    fstab_root: str
    arguments: str = "ro"
    boot: str = "/boot"
    """Where GRUB finds the kernel within its file system."""
    grub_on: str = "root"
    """Name of the file system (for its UUID) that GRUB reads."""
    modules: tuple[str, ...] = ("ext2",)
    initrd: str = "initrd.img"
    files: tuple[tuple[str, str], ...] = ()
    """More files of the guest: (path, text)."""
    more_fstab: str = ""

    @property
    def names(self) -> Names:
        return Names(NAMESPACE, f"{self.name}/")

    @property
    def grub(self) -> Grub:
        return Grub(self.names.uuid(self.grub_on), f"{self.boot.rstrip('/')}/grub", self.modules)


def _uuid(guest: str, name: str) -> str:
    return Names(NAMESPACE, f"{guest}/").uuid(name)


def _raid_id() -> str:
    """As mdadm writes the UUID of an array."""
    digits = Names(NAMESPACE, "lvm-raid1/").hex("array")
    return ":".join(digits[at : at + 8] for at in range(0, 32, 8))


PLANS = {
    plan.name: plan
    for plan in (
        _Plan(
            "lvm-raid1",
            root="/dev/mapper/vg0-root",
            fstab_root="/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1",
            modules=("ext2", "mdraid1x", "lvm"),
            initrd="initrd.raid",
            files=(("etc/mdadm/mdadm.conf", f"HOMEHOST <system>\nARRAY /dev/md/0 metadata=1.2 UUID={_raid_id()}\n"),),
        ),
        _Plan(
            "btrfs",
            root=f"UUID={_uuid('btrfs', 'root')}",
            fstab_root=f"UUID={_uuid('btrfs', 'root')} / btrfs defaults,subvol=@ 0 0",
            arguments="ro rootflags=subvol=@",
            boot="/@/boot",
            modules=("btrfs",),
            more_fstab=f"UUID={_uuid('btrfs', 'root')} /home btrfs defaults,subvol=@home 0 0\n",
        ),
        _Plan(
            "dirty",
            root=f"UUID={_uuid('dirty', 'root')}",
            fstab_root=f"UUID={_uuid('dirty', 'root')} / ext4 errors=remount-ro 0 1",
            files=(("etc/hostname", f"{STALE}\n"),),
        ),
        _Plan(
            "luks",
            root="/dev/mapper/luks-root",
            fstab_root="/dev/mapper/luks-root / ext4 errors=remount-ro 0 1",
            boot="/",
            grub_on="boot",
            initrd="initrd.luks",
            files=(("etc/crypttab", f"luks-root UUID={_uuid('luks', 'container')} none luks,discard,initramfs\n"),),
            more_fstab=f"UUID={_uuid('luks', 'boot')} /boot ext4 defaults 0 2\n",
        ),
        _Plan(
            "dracut",
            root=f"UUID={_uuid('dracut', 'root')}",
            fstab_root=f"UUID={_uuid('dracut', 'root')} / ext4 errors=remount-ro 0 1",
            # How long it waits for a disk that does not come; without this, for ever.
            arguments="ro rd.timeout=100",
        ),
    )
}


def hostname(name: str) -> str:
    """A guest's host name, as a boot of it says."""
    return f"matrix-{name}"


def build(directory: Path, cache: Path, mirror: str | None, names: Sequence[str] = tuple(PLANS)) -> None:
    """Makes the disks of these guests in `directory`: NAME-0.raw, NAME-1.raw. Needs root; raises GuestError.

    A guest whose NAME.ready stands there is complete.
    """
    work = Path(tempfile.mkdtemp(prefix="guests-", dir=cache))
    try:
        tree = _tree(cache, mirror)
        out = work / "out"
        out.mkdir()
        _prepare(out, work, tree, names)
        _workshop(out, work, tree, names)
        directory.mkdir(exist_ok=True)
        for image in out.iterdir():
            image.replace(directory / image.name)
        for name in names:
            (directory / f"{name}.ready").touch()
    except (ImageError, MachineError) as error:
        raise GuestError(str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -- the tree of files ------------------------------------------------------------------------------------------------

# Making an initramfs keeps a processor busy for half a minute, and for many in the workshop. So those that need no
# particular hardware are made with the tree; mdadm and cryptsetup put into them what these files say.
_INITRAMFS_HOOK = f"""\
set -e
cd "$1"
kernel=$(ls boot/vmlinuz-*); version=${{kernel#boot/vmlinuz-}}
mv boot/initrd.img-$version boot/initrd.img
cp etc/mdadm/mdadm.conf etc/mdadm/mdadm.conf.orig
cat >etc/mdadm/mdadm.conf <<'END'
{dict(PLANS["lvm-raid1"].files)["etc/mdadm/mdadm.conf"]}END
chroot . mkinitramfs -o /boot/initrd.raid $version
mv etc/mdadm/mdadm.conf.orig etc/mdadm/mdadm.conf
cp etc/crypttab etc/crypttab.orig
cat >etc/crypttab <<'END'
{dict(PLANS["luks"].files)["etc/crypttab"]}END
chroot . mkinitramfs -o /boot/initrd.luks $version
mv etc/crypttab.orig etc/crypttab
mkdir -p usr/local/sbin etc/systemd/network boot/grub boot/efi
rm -rf var/cache/apt var/lib/apt/lists
"""


def _tree(cache: Path, mirror: str | None) -> Path:
    """The files that all guests share, with every initramfs in /boot; kept in the cache by itself."""
    inputs = [PACKAGES, EXTRA_PACKAGES, _EXCLUDED, _INITRAMFS_HOOK, SUITE, mirror]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    final = cache / f"guests-tree-{key}"
    if final.exists():
        return final
    making = Path(tempfile.mkdtemp(prefix="guests-tree-", dir=cache))
    try:
        tree = making / "tree"
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"]
        argv += [f"--include={','.join((*PACKAGES, *EXTRA_PACKAGES))}"]
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
        run(*argv, f"--customize-hook={_INITRAMFS_HOOK}", SUITE, str(tree), *([mirror] if mirror else []))
        tree.rename(final)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return final


def _version(tree: Path) -> str:
    """The kernel's version. Raises ImageError."""
    kernels = list((tree / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise ImageError(f"the guests' tree should hold one kernel, and holds {[path.name for path in kernels]}")
    return kernels[0].name.removeprefix("vmlinuz-")


def _make_root(dest: Path, tree: Path, plan: _Plan) -> None:
    """A guest's own root directory: the shared tree and the few files that differ."""
    images.copy(tree, dest)
    version = _version(tree)
    names = plan.names
    for initrd in (dest / "boot").glob("initrd.*"):
        if initrd.name == plan.initrd:
            initrd.rename(dest / f"boot/initrd.img-{version}")
        else:
            initrd.unlink()
    home = hostname(plan.name)
    fstab = f"{plan.fstab_root}\n{plan.more_fstab}UUID={names.esp_id} /boot/efi vfat umask=0077,nofail 0 1\n"
    files = {
        "etc/hostname": f"{home}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {home}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/machine-id": names.hex("machine-id") + "\n",
        "etc/fstab": fstab,
        "etc/systemd/network/80-dhcp.network": "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n",
        "etc/systemd/system/selfcheck.service": SELFCHECK_UNIT,
        "usr/local/sbin/selfcheck": SELFCHECK,
        "boot/grub/grub.cfg": _grub_cfg(plan, version),
        **dict(plan.files),
    }
    for name, text in files.items():
        (dest / name).write_text(text)
    (dest / "usr/local/sbin/selfcheck").chmod(0o755)
    for target, unit, place in (
        ("sysinit", "selfcheck.service", "/etc/systemd/system"),
        ("multi-user", "systemd-networkd.service", "/lib/systemd/system"),
    ):
        wants = dest / f"etc/systemd/system/{target}.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / unit).unlink(missing_ok=True)
        (wants / unit).symlink_to(f"{place}/{unit}")


def _grub_cfg(plan: _Plan, version: str) -> str:
    boot = plan.boot.rstrip("/")
    insmods = "".join(f"\tinsmod {module}\n" for module in ("part_gpt", *plan.modules))
    return f"""\
set default="0"
set timeout=0
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {{
{insmods}\
\tsearch --no-floppy --fs-uuid --set=root {plan.grub.fs_uuid}
\techo\t'Loading Linux {version} ...'
\tlinux\t{boot}/vmlinuz-{version} root={plan.root} {plan.arguments} console=tty0 console=ttyS0,115200
\techo\t'Loading initial ramdisk ...'
\tinitrd\t{boot}/initrd.img-{version}
}}
"""


# -- disks ------------------------------------------------------------------------------------------------------------


def _prepare(out: Path, work: Path, tree: Path, names: Sequence[str]) -> None:
    """Makes the disks as far as that needs no kernel, and beside them the content that the workshop puts in place."""
    for plan in (PLANS[name] for name in names):
        root = work / f"root-{plan.name}"
        _make_root(root, tree, plan)
        _PREPARE[plan.name](plan, out, work, root)
        shutil.rmtree(root)


def _bootable(plan: _Plan, image: Path, work: Path, partitions: list[tuple[str, int, str]], names: Names) -> list[int]:
    size = images.FIRST_START + sum(length for _, length, _ in partitions) + images.TABLE_BYTES
    starts = images.make_disk(image, size, names, partitions)
    images.install_grub(image, work, plan.grub, names)
    return starts


def _prepare_partition(plan: _Plan, out: Path, work: Path, root: Path) -> None:
    image = out / f"{plan.name}-0.raw"
    (start,) = _bootable(plan, image, work, [("root", ROOT_BYTES, images.TYPE_LINUX)], plan.names)
    images.make_ext4(image, root, uuid=plan.names.uuid("root"), label="root", offset=start, size=ROOT_BYTES)


def _prepare_raid(plan: _Plan, out: Path, work: Path, root: Path) -> None:
    for index in (0, 1):
        # Both disks can start the machine.
        names = plan.names if index == 0 else Names(NAMESPACE, f"{plan.name}/second/")
        _bootable(plan, out / f"{plan.name}-{index}.raw", work, [("raid", RAID_BYTES, images.TYPE_RAID)], names)
    _content(plan, work, root, "root")


def _prepare_btrfs(plan: _Plan, out: Path, work: Path, root: Path) -> None:
    _bootable(plan, out / f"{plan.name}-0.raw", work, [("root", ROOT_BYTES, images.TYPE_LINUX)], plan.names)
    images.sparse(out / f"{plan.name}-1.raw", ROOT_BYTES)
    _content(plan, work, root, "content")  # of which the workshop copies every file


def _prepare_luks(plan: _Plan, out: Path, work: Path, root: Path) -> None:
    image = out / f"{plan.name}-0.raw"
    parts = [("boot", BOOT_BYTES, images.TYPE_LINUX), ("root", ROOT_BYTES + 16 * MIB, images.TYPE_LINUX)]
    start, _ = _bootable(plan, image, work, parts, plan.names)
    boot = work / "boot"
    (root / "boot").rename(boot)
    (root / "boot").mkdir()
    images.make_ext4(image, boot, uuid=plan.names.uuid("boot"), label="boot", offset=start, size=BOOT_BYTES)
    _content(plan, work, root, "root")


def _content(plan: _Plan, work: Path, root: Path, name: str) -> None:
    image = work / f"content-{plan.name}.raw"
    images.sparse(image, ROOT_BYTES)
    images.make_ext4(image, root, uuid=plan.names.uuid(name), label="root", size=ROOT_BYTES)


_PREPARE: dict[str, Callable[[_Plan, Path, Path, Path], None]] = {
    "lvm-raid1": _prepare_raid,
    "btrfs": _prepare_btrfs,
    "dirty": _prepare_partition,
    "luks": _prepare_luks,
    "dracut": _prepare_partition,
}


# -- the workshop -----------------------------------------------------------------------------------------------------

DONE = "WORKSHOP-DONE"
FAILED = "WORKSHOP-FAILED"

_BEGIN = f"""\
#!/bin/bash
# The first process of the workshop. The root is read-only; disks are known by their serial numbers.
exec </dev/console >/dev/console 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DM_DISABLE_UDEV=1 HOME=/root
trap 'echo "{FAILED} in line $LINENO"; sleep 1000' ERR
set -eE
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run/lock 2>/dev/null || {{ mkdir -p /run/lock; }}
mkdir -p /run/lvm /run/cryptsetup /tmp/a /tmp/b
for module in raid1 dm-mod dm-crypt btrfs ext4 xts; do modprobe $module; done
disk() {{
    for entry in /sys/block/vd*; do
        [ "$(cat $entry/serial)" = "$1" ] && {{ echo /dev/${{entry##*/}}; return 0; }}
    done
    echo "no disk $1"; return 1
}}
options='devices/obtain_device_list_from_udev=0 activation/udev_sync=0 activation/udev_rules=0'
options="$options activation/monitoring=0 backup/backup=0 backup/archive=0"
lvm() {{ command lvm "$@" --config "$options"; }}
put() {{ dd if="$(disk "$1")" of="$2" bs=1M conv=sparse status=none; }}
"""
_END = f"""
echo "{DONE}"
sleep 1000
"""

#: What makes each guest. `dirty` comes last: its disk is being written to when the plug is pulled.
_STEPS = {
    "lvm-raid1": f"""
echo "workshop: RAID1 and LVM"
one=$(disk lvm-raid1-0)3 two=$(disk lvm-raid1-1)3
mdadm --create /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 --assume-clean --run \\
    --homehost=matrix-lvm-raid1 --name=0 --uuid={_raid_id()} $one $two
lvm pvcreate -q /dev/md0
lvm vgcreate -q vg0 /dev/md0
lvm lvcreate -q -y -W n -Z n -l 100%FREE -n root vg0
put content-lvm-raid1 /dev/mapper/vg0-root
lvm vgchange -q -a n vg0
mdadm --stop /dev/md0
""",
    "luks": f"""
echo "workshop: LUKS"
target=$(disk luks-0)4
echo -n '{PASSPHRASE}' >/tmp/key
cryptsetup luksFormat -q --type luks2 --uuid {_uuid("luks", "container")} \\
    --pbkdf argon2id --pbkdf-memory 32768 --pbkdf-parallel 1 --pbkdf-force-iterations 4 --key-file /tmp/key $target
cryptsetup open --key-file /tmp/key $target luks-root
put content-luks /dev/mapper/luks-root
sync
cryptsetup close luks-root
""",
    "btrfs": f"""
echo "workshop: Btrfs"
one=$(disk btrfs-0)3 two=$(disk btrfs-1)
mkfs.btrfs -q -f -U {_uuid("btrfs", "root")} -L root -m raid1 -d raid1 $one $two
mount -t btrfs -o device=$one,device=$two $one /tmp/a
btrfs -q subvolume create /tmp/a/@
btrfs -q subvolume create /tmp/a/@home
mount -o ro "$(disk content-btrfs)" /tmp/b
cp -a /tmp/b/. /tmp/a/@/
btrfs -q subvolume snapshot -r /tmp/a/@ /tmp/a/@/.snapshot-of-yesterday
umount /tmp/b /tmp/a
""",
    "dracut": """
echo "workshop: dracut"
mount "$(disk dracut-0)3" /tmp/a
for place in dev proc sys; do mount --bind /$place /tmp/a/$place; done
mount -t tmpfs tmpfs /tmp/a/tmp
mount -t tmpfs tmpfs /tmp/a/run
cp -a /run/udev /tmp/a/run/ 2>/dev/null || true
version=$(uname -r)
chroot /tmp/a dracut --force --hostonly --no-hostonly-cmdline /boot/initrd.img-$version $version
for place in run tmp dev proc sys; do umount /tmp/a/$place; done
umount /tmp/a
""",
    "dirty": f"""
echo "workshop: a journal with content"
mount "$(disk dirty-0)3" /tmp/a
# On the disk as it is: the old name. In the journal: the new one. Syncing everything would write it in place.
cd /tmp/a/etc
echo "{hostname("dirty")}" >hostname.new
sync hostname.new
mv hostname.new hostname
sync .
(while :; do n=$((n + 1)); echo $n >/tmp/a/var/log/written-$n; sync /tmp/a/var/log/written-$n; done) &
while [ ! -e /tmp/a/var/log/written-50 ]; do sleep 0.1; done
""",
}


def _workshop(out: Path, work: Path, tree: Path, names: Sequence[str]) -> None:
    """Boots the tree with the steps as its first process, and pulls its plug when that says that it is done."""
    own = work / "root-workshop"
    images.copy(tree, own)
    steps = [step for name, step in _STEPS.items() if name in names]
    (own / "workshop").write_text("".join((_BEGIN, *steps, _END)))
    (own / "workshop").chmod(0o755)
    system = work / "workshop.raw"
    images.sparse(system, ROOT_BYTES)
    images.make_ext4(system, own, uuid=_uuid("workshop", "root"), label="workshop", size=ROOT_BYTES)
    disks = [Disk(system, "workshop", read_only=True)]
    disks += [Disk(image, image.stem) for image in sorted(out.glob("*.raw"))]
    disks += [Disk(image, image.stem, read_only=True) for image in sorted(work.glob("content-*.raw"))]
    machine = Machine(
        name="workshop",
        directory=work,
        memory_mib=1024,
        controller=Controller.VIRTIO_BLK,
        disks=disks,
        extra=(
            *("-kernel", str(tree / f"boot/vmlinuz-{_version(tree)}"), "-initrd", str(tree / "boot/initrd.img")),
            *("-append", "root=/dev/vda ro console=ttyS0 quiet init=/workshop panic=1"),
        ),
    )
    with machine.start() as running:
        running.wait_for(f"^{DONE}", 300, failure=[FAILED, "Kernel panic", r"\(initramfs\)"])
