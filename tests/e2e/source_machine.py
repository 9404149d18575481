# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that is migrated in the end-to-end tests and the demo: two disk images with a real Debian 12 guest.

`system.raw` is a GPT disk with a BIOS boot partition, an ESP and an ext4 root, bootable by BIOS and by UEFI alike.
`data.raw` carries ext4 on the whole disk (no partition table) and has a size that is no multiple of 1 MiB, because
real disks are like that and the destination rounds up. The guest checks its own files at every boot and says on its
serial console what it runs on, so that a boot proves more than "some kernel came up".

Nothing is mounted: see images.py.
Needs root, because file ownership in the guest must be right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e import images
from e2e.images import MIB, SECTOR, ImageError, Names, run

HOSTNAME = "erp-db-01"
SUITE = "bookworm"
SYSTEM_BYTES = 2048 * MIB
# 64 MiB and 37 sectors: neither a whole number of chunks nor of the megabytes that the destination counts in.
DATA_BYTES = 64 * MIB + 37 * SECTOR

# The system disk's last partition.
ROOT_START = images.FIRST_START
ROOT_BYTES = SYSTEM_BYTES - ROOT_START - images.TABLE_BYTES

NAMESPACE = uuid.UUID("6f3d8c0e-54f1-4d0c-9a37-0c2a5d4f6e11")
NAMES = Names(NAMESPACE)
PACKAGES = (
    "linux-image-amd64",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "kmod",
    "zstd",  # Debian's installer has it too: the initramfs is then compressed with zstd
    "e2fsprogs",
)
# Left out to keep the image small. Of the drivers that a destination may ask for nothing is missing: every storage
# driver is there, and Intel's and VMware's Ethernet.
_LEFT_OUT_MODULES = (
    "sound", "drivers/gpu", "drivers/media", "drivers/staging", "drivers/infiniband", "drivers/iio", "drivers/isdn",
    "drivers/bluetooth", "drivers/input", "drivers/hwmon", "drivers/comedi", "drivers/mtd", "drivers/target",
    "drivers/platform", "drivers/usb/serial", "drivers/usb/gadget", "drivers/net/wireless", "drivers/net/usb",
    "drivers/net/can", "drivers/net/dsa", "drivers/net/ethernet/[!i]*",
    "net/wireless", "net/mac80211", "net/bluetooth", "net/sunrpc", "net/ceph", "net/sctp", "net/batman-adv",
    "net/openvswitch", "net/tipc", "net/rxrpc", "net/nfc",
    "fs/ocfs2", "fs/nfs", "fs/nfsd", "fs/smb", "fs/ceph", "fs/gfs2", "fs/f2fs", "fs/jfs", "fs/reiserfs", "fs/ubifs",
    "fs/afs", "fs/orangefs", "fs/nilfs2", "fs/dlm",
)  # fmt: skip
EXCLUDED_PATHS = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    *(f"/lib/modules/*/kernel/{name}/*" for name in _LEFT_OUT_MODULES),
)

SELFCHECK = """\
#!/bin/sh
# Says on the console what this machine runs on and whether its data arrived whole.
driver_of() { basename "$(readlink -f "$1/device/driver")" 2>/dev/null; }
data=damaged
(cd /srv/erp && sha256sum --quiet -c SHA256SUMS) >/dev/null 2>&1 && data=intact
firmware=bios; [ -d /sys/firmware/efi ] && firmware=efi
nics=""
# Their drivers may still be loading.
for _ in $(seq 60); do ls -d /sys/class/net/*/device >/dev/null 2>&1 && break; sleep 1; done
for nic in /sys/class/net/*; do [ -e "$nic/device" ] && nics="$nics,$(driver_of "$nic")"; done
disks=""
for disk in /sys/block/sd* /sys/block/vd* /sys/block/nvme*n1; do
  [ -e "$disk/device" ] || continue
  host=$(readlink -f "$disk/device"); host=${host%/target*}
  name=$(cat "$host"/scsi_host/host*/proc_name 2>/dev/null || driver_of "$disk")
  disks="$disks,$name"
done
memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)
echo "selfcheck: host=$(hostname) data=$data firmware=$firmware cpus=$(nproc) memory_mib=$memory" \\
     "disks=${disks#,} nics=${nics#,}" >/dev/console
"""

SELFCHECK_UNIT = """\
[Unit]
Description=Say what this machine runs on and whether its data is whole
Wants=srv-erp.mount
After=local-fs.target srv-erp.mount systemd-udev-trigger.service
Before=serial-getty@ttyS0.service getty@tty1.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/selfcheck

[Install]
WantedBy=multi-user.target
"""


class SourceMachineError(RuntimeError):
    """The source machine's disks could not be built; the message says which step failed and shows the tool's words."""


@dataclass(frozen=True, slots=True)
class SourceDisks:
    """Paths of the finished images, in the order in which the machine has them."""

    system: Path
    data: Path
    hostname: str

    @property
    def all(self) -> tuple[Path, Path]:
        return (self.system, self.data)

    def copy_to(self, directory: Path) -> SourceDisks:
        """Copies the images (sparse) so that one test's machine cannot spoil another's."""
        directory.mkdir(parents=True, exist_ok=True)
        for image in self.all:
            run("cp", "--sparse=always", "--reflink=auto", str(image), str(directory / image.name))
            (directory / image.name).chmod(0o600)
        return SourceDisks(directory / self.system.name, directory / self.data.name, self.hostname)


def cache_directory() -> Path:
    """Where built things are kept between runs: ${COLDMIG_CACHE:-${XDG_CACHE_HOME:-~/.cache}/coldmig}."""
    named = os.environ.get("COLDMIG_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coldmig"


def build(cache: Path | None = None, *, mirror: str | None = None) -> SourceDisks:
    """Returns the source machine's disks, building them when the cache has none made from the same inputs.

    `mirror` is handed to mmdebstrap as it is; by default the tool's own default (or COLDMIG_DEBIAN_MIRROR) is used.
    Raises SourceMachineError.
    """
    mirror = mirror or os.environ.get("COLDMIG_DEBIAN_MIRROR") or None
    cache = cache or cache_directory()
    made_by = [Path(file).read_text() for file in (__file__, images.__file__)]
    key = hashlib.sha256(json.dumps([*made_by, SUITE, mirror]).encode()).hexdigest()[:16]
    final = cache / f"source-machine-{key}"
    disks = SourceDisks(final / "system.raw", final / "data.raw", HOSTNAME)
    if all(image.exists() for image in disks.all):
        return disks
    if os.geteuid() != 0:
        raise SourceMachineError("building the source machine needs root (its files must have their right owners)")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="source-machine-", dir=cache))
    try:
        tree = work / "tree"
        _make_tree(tree, mirror)
        out = work / "out"
        out.mkdir()
        _make_data_disk(out / "data.raw", work)
        _make_system_disk(out / "system.raw", tree, work)
        if final.exists():
            shutil.rmtree(final)
        out.rename(final)
    except ImageError as error:
        raise SourceMachineError(str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return disks


def _make_tree(tree: Path, mirror: str | None) -> None:
    """The guest's root directory, as an installed and configured system has it."""
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={','.join(PACKAGES)}"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED_PATHS]
    # The initramfs is made once, by the kernel package itself, with the installer's default MODULES=most.
    run(*argv, SUITE, str(tree), *([mirror] if mirror else []))
    files = {
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/machine-id": uuid.uuid5(NAMESPACE, "machine-id").hex + "\n",
        "etc/fstab": (
            f"UUID={NAMES.uuid('root')} / ext4 errors=remount-ro 0 1\n"
            f"UUID={NAMES.esp_id} /boot/efi vfat umask=0077,nofail 0 1\n"
            f"UUID={NAMES.uuid('data')} /srv/erp ext4 defaults,nofail 0 2\n"
        ),
        "etc/systemd/network/80-dhcp.network": "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n",
        "etc/systemd/system/selfcheck.service": SELFCHECK_UNIT,
        "boot/grub/grub.cfg": _grub_cfg(tree),
    }
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for directory in ("boot/efi", "srv/erp"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    script = tree / "usr/local/sbin/selfcheck"
    script.write_text(SELFCHECK)
    script.chmod(0o755)
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for unit, target in (
        ("selfcheck.service", "/etc/systemd/system/selfcheck.service"),
        ("systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service"),
    ):
        (wants / unit).unlink(missing_ok=True)
        (wants / unit).symlink_to(target)
    shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)


def _grub_cfg(tree: Path) -> str:
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise SourceMachineError("the guest's root directory holds no kernel")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    if not (tree / f"boot/initrd.img-{version}").exists():
        raise SourceMachineError(f"the guest's kernel {version} has no initramfs")
    arguments = f"root=UUID={NAMES.uuid('root')} ro console=tty0 console=ttyS0,115200"
    return f"""\
set default="0"
set timeout=1
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {{
\tsearch --no-floppy --fs-uuid --set=root {NAMES.uuid("root")}
\techo\t'Loading Linux {version} ...'
\tlinux\t/boot/vmlinuz-{version} {arguments}
\techo\t'Loading initial ramdisk ...'
\tinitrd\t/boot/initrd.img-{version}
}}
"""


def _make_data_disk(image: Path, work: Path) -> None:
    """Some files with checksums beside them: text, numbers that deflate well, bytes that do not, a hole."""
    tree = work / "data"
    tree.mkdir()
    (tree / "invoices").mkdir()
    for year in range(2019, 2025):
        lines = (f"{year}-{n:06d};customer {n * 7919 % 1000:04d};{n * 104729 % 999983};EUR\n" for n in range(9000))
        (tree / f"invoices/{year}.csv").write_text("".join(lines))
    (tree / "backup.bin").write_bytes(b"".join(hashlib.sha512(b"%d" % n).digest() for n in range(6 * MIB // 64)))
    with (tree / "journal.db").open("wb") as journal:
        journal.write(b"ERPJ" + bytes(range(256)) * 16)
        journal.seek(9 * MIB)
        journal.write(b"end of journal\n")
    names = sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    sums = "".join(f"{hashlib.sha256((tree / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (tree / "SHA256SUMS").write_text(sums)
    images.sparse(image, DATA_BYTES)
    images.make_ext4(image, tree, uuid=NAMES.uuid("data"), label="erp-data", size=DATA_BYTES)


def _make_system_disk(image: Path, tree: Path, work: Path) -> None:
    (start,) = images.make_disk(image, SYSTEM_BYTES, NAMES, [("root", ROOT_BYTES, images.TYPE_LINUX)])
    images.make_ext4(image, tree, uuid=NAMES.uuid("root"), label="root", offset=start, size=ROOT_BYTES)
    images.install_grub(image, work, images.Grub(NAMES.uuid("root")), NAMES)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, help="directory for built images")
    arguments = parser.parse_args()
    try:
        disks = build(arguments.cache)
    except SourceMachineError as error:
        print(f"source machine: {error}", file=sys.stderr)
        return 1
    for image in disks.all:
        print(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
