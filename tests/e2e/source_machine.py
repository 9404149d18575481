# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that is migrated in the end-to-end tests and the demo: two disk images with a real Debian 12 guest.

`system.raw` is a GPT disk with a BIOS boot partition, an ESP and an ext4 root, bootable by BIOS and by UEFI alike.
`data.raw` carries ext4 on the whole disk (no partition table) and has a size that is no multiple of 1 MiB, because
real disks are like that and the destination rounds up. The guest checks its own files at every boot and says on its
serial console what it runs on, so that a boot proves more than "some kernel came up".

Nothing is loop-mounted: file systems are filled by `mke2fs -d` and mtools, GRUB's images are put in place here.
Needs root, because file ownership in the guest must be right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SECTOR = 512

HOSTNAME = "erp-db-01"
SUITE = "bookworm"
SYSTEM_BYTES = 2048 * MIB
# 64 MiB and 37 sectors: neither a whole number of chunks nor of the megabytes that the destination counts in.
DATA_BYTES = 64 * MIB + 37 * SECTOR

# Partitions of the system disk: (number, first byte, bytes, GPT type, name).
BIOS_BOOT_START, BIOS_BOOT_BYTES = 1 * MIB, 1 * MIB
ESP_START, ESP_BYTES = 2 * MIB, 40 * MIB
ROOT_START = ESP_START + ESP_BYTES
ROOT_BYTES = SYSTEM_BYTES - ROOT_START - 1 * MIB  # the last MiB holds the backup GPT

NAMESPACE = uuid.UUID("6f3d8c0e-54f1-4d0c-9a37-0c2a5d4f6e11")
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
            _run("cp", "--sparse=always", "--reflink=auto", str(image), str(directory / image.name))
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
    key = hashlib.sha256(json.dumps([Path(__file__).read_text(), SUITE, mirror]).encode()).hexdigest()[:16]
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
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return disks


def _uuid(name: str) -> str:
    """A fixed UUID per use, so that the same inputs give the same images."""
    return str(uuid.uuid5(NAMESPACE, name))


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as missing:
        raise SourceMachineError(f"{argv[0]} is not installed") from missing
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise SourceMachineError(f"{argv[0]} ended with status {done.returncode}:\n{tail}")
    return done.stdout


def _make_tree(tree: Path, mirror: str | None) -> None:
    """The guest's root directory, as an installed and configured system has it."""
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={','.join(PACKAGES)}"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED_PATHS]
    # The initramfs is made once, by the kernel package itself, with the installer's default MODULES=most.
    _run(*argv, SUITE, str(tree), *([mirror] if mirror else []))
    files = {
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/machine-id": uuid.uuid5(NAMESPACE, "machine-id").hex + "\n",
        "etc/fstab": (
            f"UUID={_uuid('root')} / ext4 errors=remount-ro 0 1\n"
            f"UUID={_esp_serial()[:4]}-{_esp_serial()[4:]} /boot/efi vfat umask=0077,nofail 0 1\n"
            f"UUID={_uuid('data')} /srv/erp ext4 defaults,nofail 0 2\n"
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
    arguments = f"root=UUID={_uuid('root')} ro console=tty0 console=ttyS0,115200"
    return f"""\
set default="0"
set timeout=1
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {{
\tsearch --no-floppy --fs-uuid --set=root {_uuid("root")}
\techo\t'Loading Linux {version} ...'
\tlinux\t/boot/vmlinuz-{version} {arguments}
\techo\t'Loading initial ramdisk ...'
\tinitrd\t/boot/initrd.img-{version}
}}
"""


def _esp_serial() -> str:
    """The FAT volume's serial number, eight hex digits."""
    return uuid.uuid5(NAMESPACE, "esp").hex[:8].upper()


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
    _sparse(image, DATA_BYTES)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-U", _uuid("data"), "-L", "erp-data", "-E", "root_owner=0:0", "-d",
         str(tree), str(image))  # fmt: skip


def _sparse(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)


def _make_system_disk(image: Path, tree: Path, work: Path) -> None:
    _sparse(image, SYSTEM_BYTES)
    table = (
        f"label: gpt\nlabel-id: {_uuid('gpt')}\nfirst-lba: 34\n"
        f"start={BIOS_BOOT_START // SECTOR}, size={BIOS_BOOT_BYTES // SECTOR},"
        f" type=21686148-6449-6E6F-744E-656564454649, uuid={_uuid('part-bios')}, name=bios\n"
        f"start={ESP_START // SECTOR}, size={ESP_BYTES // SECTOR},"
        f" type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid={_uuid('part-esp')}, name=esp\n"
        f"start={ROOT_START // SECTOR}, size={ROOT_BYTES // SECTOR},"
        f" type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={_uuid('part-root')}, name=root\n"
    )
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(image), stdin=table)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-U", _uuid("root"), "-L", "root",
         "-E", f"offset={ROOT_START},root_owner=0:0", "-d", str(tree), str(image),
         f"{ROOT_BYTES // 1024}k")  # fmt: skip
    _install_grub_bios(image, work)
    _install_grub_efi(image, work)


GRUB_MODULES = (
    "part_gpt", "ext2", "fat", "search", "search_fs_uuid", "normal", "configfile", "linux", "serial", "terminal",
    "echo", "test", "minicmd", "ls", "cat", "boot", "halt", "reboot", "all_video",
)  # fmt: skip


def _grub_image(work: Path, target: str, modules: Sequence[str]) -> bytes:
    early = work / "early.cfg"
    early.write_text(f"search.fs_uuid {_uuid('root')} root\nset prefix=($root)/boot/grub\n")
    out = work / f"grub-{target}"
    _run("grub-mkimage", "-O", target, "-o", str(out), "-p", "/boot/grub", "-c", str(early), *GRUB_MODULES, *modules)
    return out.read_bytes()


def _install_grub_bios(image: Path, work: Path) -> None:
    """What grub-bios-setup does on a GPT disk: boot.img into the MBR, core.img into the BIOS boot partition.

    Offsets are from GRUB's grub-core/boot/i386/pc/{boot,diskboot}.S and include/grub/i386/pc/boot.h: 0x5c holds the
    LBA of core.img (u64), 0x66 a jump that is replaced by two NOPs for hard disks; the last 12 bytes of core.img's
    first sector say where the rest of it lies (LBA u64, sectors u16, load segment u16).
    """
    core = bytearray(_grub_image(work, "i386-pc", ["biosdisk", "vga"]))
    if len(core) > BIOS_BOOT_BYTES:
        raise SourceMachineError(f"GRUB's core image has {len(core)} bytes, the partition holds {BIOS_BOOT_BYTES}")
    boot = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    first = BIOS_BOOT_START // SECTOR
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[0x66:0x68] = b"\x90\x90"
    rest_sectors = -(-(len(core) - SECTOR) // SECTOR)
    struct.pack_into("<QHH", core, SECTOR - 12, first + 1, rest_sectors, 0x820)
    with image.open("r+b") as disk:
        mbr = disk.read(SECTOR)
        # The BIOS parameter block area and the partition table stay as the partitioner wrote them.
        disk.seek(0)
        disk.write(bytes(boot[:0x1B8]) + mbr[0x1B8:])
        disk.seek(BIOS_BOOT_START)
        disk.write(core)


def _install_grub_efi(image: Path, work: Path) -> None:
    """An ESP with GRUB at the removable-media path, which firmware finds without any boot variable."""
    loader = work / "BOOTX64.EFI"
    loader.write_bytes(_grub_image(work, "x86_64-efi", ["efi_gop", "efi_uga"]))
    esp = work / "esp.img"
    _sparse(esp, ESP_BYTES)
    _run("mformat", "-i", str(esp), "-F", "-c", "1", "-N", _esp_serial(), "-v", "ESP", "::")
    _run("mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", str(esp), str(loader), "::/EFI/BOOT/BOOTX64.EFI")
    with esp.open("rb") as source, image.open("r+b") as disk:
        for offset in range(0, ESP_BYTES, MIB):
            block = source.read(MIB)
            if block.count(0) != len(block):
                disk.seek(ESP_START + offset)
                disk.write(block)


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
