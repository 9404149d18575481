# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines made of file trees: what the agent would find in them, without disks and mounts."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent_lab import write_tree

from coldmig_agent import records
from coldmig_agent.guest.assemble import Assembly, assemble
from coldmig_agent.guest.facts import InspectedFacts, VolumeFacts
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.volume import read_volume
from coldmig_agent.machine import Guest

Files = Mapping[str, str | bytes]
K = "6.1.0-20-amd64"
PCI_ALIASES = {
    "vmw_pvscsi": "pci:v000015ADd000007C0sv*sd*bc*sc*i*",
    "mptsas": "pci:v00001000d00000054sv*sd*bc*sc*i*",
    "mptspi": "pci:v00001000d00000030sv*sd*bc*sc*i*",
    "ahci": "pci:v*d*sv*sd*bc01sc06i01*",
    "nvme": "pci:v*d*sv*sd*bc01sc08i02*",
    "ata_piix": "pci:v00008086d00007111sv*sd*bc*sc*i*",
    "ata_generic": "pci:v*d*sv*sd*bc01sc01i*",
    "vmxnet3": "pci:v000015ADd000007B0sv*sd*bc*sc*i*",
    "e1000e": "pci:v00008086d000010D3sv*sd*bc*sc*i*",
    "e1000": "pci:v00008086d0000100Fsv*sd*bc*sc*i*",
}
PATHS = {
    "vmw_pvscsi": "drivers/scsi/vmw_pvscsi",
    "mptsas": "drivers/message/fusion/mptsas",
    "mptspi": "drivers/message/fusion/mptspi",
    "mptscsih": "drivers/message/fusion/mptscsih",
    "mptbase": "drivers/message/fusion/mptbase",
    "scsi_transport_sas": "drivers/scsi/scsi_transport_sas",
    "scsi_transport_spi": "drivers/scsi/scsi_transport_spi",
    "sd_mod": "drivers/scsi/sd_mod",
    "crc_t10dif": "lib/crc-t10dif",
    "ahci": "drivers/ata/ahci",
    "ata_piix": "drivers/ata/ata_piix",
    "ata_generic": "drivers/ata/ata_generic",
    "nvme": "drivers/nvme/host/nvme",
    "nvme_core": "drivers/nvme/host/nvme-core",
    "virtio_blk": "drivers/block/virtio_blk",
    "virtio_scsi": "drivers/scsi/virtio_scsi",
    "vmxnet3": "drivers/net/vmxnet3/vmxnet3",
    "e1000e": "drivers/net/ethernet/intel/e1000e/e1000e",
    "e1000": "drivers/net/ethernet/intel/e1000/e1000",
}
NEEDS = {
    "sd_mod": ("crc_t10dif",),
    "mptsas": ("mptscsih", "mptbase", "scsi_transport_sas"),
    "mptspi": ("mptscsih", "mptbase", "scsi_transport_spi"),
    "mptscsih": ("mptbase",),
    "nvme": ("nvme_core",),
}
EVERY = tuple(PATHS)
VIRTIO = ("virtio_blk", "virtio_scsi", "sd_mod", "crc_t10dif")


def module_path(name: str, suffix: str = ".ko") -> str:
    """Where a module is below /lib/modules/<version>."""
    return f"kernel/{PATHS[name]}{suffix}"


def modules(
    version: str = K, *, loadable: Iterable[str] = EVERY, builtin: Iterable[str] = (), base: str = "/usr/lib/modules"
) -> dict[str, str | bytes]:
    """depmod's lists of a kernel."""
    names = [name for name in loadable if name not in set(builtin)]
    needs = {name: " ".join(module_path(item) for item in NEEDS.get(name, ())) for name in names}
    aliases = [f"alias {PCI_ALIASES[name]} {name}" for name in names if name in PCI_ALIASES]
    return {
        f"{base}/{version}/modules.dep": "".join(f"{module_path(name)}: {needs[name]}\n" for name in names),
        f"{base}/{version}/modules.alias": "# Aliases extracted from modules themselves.\n" + "\n".join(aliases) + "\n",
        f"{base}/{version}/modules.builtin": "".join(f"{module_path(name)}\n" for name in builtin),
    }


def newc(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive as the kernel unpacks it."""
    parts = []
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        path = name.encode() + b"\0"
        fields = (number + 1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + path
        parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
    return b"".join(parts)


def initramfs(
    names: Iterable[str] = EVERY, version: str = K, *, lists: bool = False, extra: Mapping[str, bytes] | None = None
) -> bytes:
    """An uncompressed image with modules; ``lists`` puts depmod's lists beside them."""
    base = f"usr/lib/modules/{version}"
    files = {"init": b"#!/bin/sh\n", **{f"{base}/{module_path(name)}": b"\x7fELF" for name in names}}
    if lists:
        files |= {path.lstrip("/"): str(text).encode() for path, text in modules(version, loadable=names).items()}
    return newc({**files, **(extra or {})})


def bzimage(version: str, *, bits: int = 64) -> bytes:
    """The header of an x86 kernel, with nothing behind it."""
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<H", head, 0x20E, 0x400)
    struct.pack_into("<H", head, 0x236, 1 if bits == 64 else 0)
    text = f"{version} (builder@host) #1 SMP\0".encode()
    head[0x600 : 0x600 + len(text)] = text
    return bytes(head)


def elf(machine: int = 62) -> bytes:
    """The beginning of an ELF program."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(44)


def pe(sections: Mapping[str, bytes]) -> bytes:
    """A PE file with sections, as objcopy or ukify leave it: enough for a reader of its headers."""
    head = bytearray(b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40))
    head += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 0x70, 0x22) + bytes(0x70)
    at = 0x1000
    body = b""
    for name, content in sections.items():
        padded = content + bytes(-len(content) % 512)
        head += struct.pack("<8s6I2HI", name.encode(), len(content), at, len(padded), at, 0, 0, 0, 0, 0)
        body += padded
        at += len(padded)
    return bytes(head).ljust(0x1000, b"\0") + body


def os_release(identity: str, version: str, name: str, more: str = "") -> str:
    """An os-release."""
    return f'ID={identity}\nVERSION_ID="{version}"\nPRETTY_NAME="{name}"\n{more}'


DEBIAN = os_release("debian", "12", "Debian GNU/Linux 12 (bookworm)")


def debian_root(root_uuid: str = "r00t", **more: str | bytes) -> dict[str, str | bytes]:
    """A merged-/usr Debian without its /boot."""
    return {
        "/etc/os-release": "->../usr/lib/os-release",
        "/usr/lib/os-release": DEBIAN,
        "/etc/debian_version": "12.7\n",
        "/etc/hostname": "erp-db-01\n",
        "/etc/fstab": f"UUID={root_uuid} / ext4 defaults 0 1\n",
        "/usr/bin/": "",
        "/bin": "->usr/bin",
        "/sbin": "->usr/sbin",
        "/lib": "->usr/lib",
        "/usr/lib/systemd/systemd": elf(),
        "/usr/sbin/init": "->/lib/systemd/systemd",
        **modules(),
        **more,
    }


def grub_entry(title: str, kernel: str, initrd: str, options: str, *, identity: str = "", search: str = "") -> str:
    """A menu entry as update-grub writes it."""
    looked = f"\tsearch --no-floppy --fs-uuid --set=root {search}\n" if search else ""
    return (
        f"menuentry '{title}' --class gnu-linux --class os $menuentry_id_option '{identity or title}' {{\n"
        f"\tload_video\n\tinsmod gzio\n{looked}\techo\t'Loading Linux ...'\n"
        f"\tlinux\t{kernel} {options}\n\tinitrd\t{initrd}\n}}\n"
    )


GRUB_HEAD = """
set have_grubenv=false
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="%s"
fi
function load_video {
  insmod all_video
}
"""


def debian_boot(base: str = "/boot", root_uuid: str = "r00t", names: Iterable[str] = EVERY) -> dict[str, str | bytes]:
    """Debian's /boot with GRUB for BIOS; ``base`` empty for a partition of its own."""
    entry = grub_entry(
        "Debian GNU/Linux", f"{base}/vmlinuz-{K}", f"{base}/initrd.img-{K}", f"root=UUID={root_uuid} ro quiet"
    )
    return {
        f"{base}/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        f"{base}/grub/i386-pc/normal.mod": b"",
        f"{base}/vmlinuz-{K}": bzimage(K),
        f"{base}/initrd.img-{K}": initramfs(names),
    }


@dataclass
class Lab:
    """A machine that is put together volume by volume."""

    path: Path
    volumes: list[InspectedFacts] = field(default_factory=list)

    def add(
        self,
        key: str,
        files: Files | None,
        *,
        fstype: str = "ext4",
        uuid: str = "",
        label: str = "",
        names: tuple[str, ...] = (),
        default_subvolume: str = "",
    ) -> VolumeFacts | None:
        """A volume with a tree in it, or (``files`` None) one that cannot be read; its facts, once over the pipe."""
        facts = None
        if files is not None:
            tree = write_tree(self.path / key.replace("/", "_"), files)
            tree.mkdir(exist_ok=True, parents=True)
            with GuestRoot.at(tree) as root:
                read = read_volume(root, fstype, default_subvolume=default_subvolume)
            facts = records.from_json(VolumeFacts, records.to_json(read))
        disk = int(key[4 : key.find("/") if "/" in key else None]) if key.startswith("disk") else None
        self.volumes.append(InspectedFacts(f"volume {key}", key, disk, fstype, label, uuid, facts, "", names))
        return facts

    def look(self, firmware: str = "bios") -> Assembly:
        """What all volumes together are."""
        return assemble(self.volumes, firmware)


def verdicts(guest: Guest) -> dict[str, str]:
    """Device → verdict."""
    return {item.device: item.verdict for item in guest.readiness}


def evidence(guest: Guest, device: str) -> str:
    """The evidence for a device in one line."""
    return "; ".join(next(item.evidence for item in guest.readiness if item.device == device))


def codes(assembly: Assembly) -> list[str]:
    """Codes of the notices."""
    return [item.code for item in assembly.notices]
