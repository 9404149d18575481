# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the module ``ova`` does: a copied migration as one OVA file.

An OVA is a tar archive that begins with the descriptor and the manifest (DSP0243 §5.3). The manifest holds the digests
of disks that come after it, but its length is known before: its place is left free and filled in the end. So every disk
is fetched once and nothing is stored twice. The file gets its name only when all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
import tempfile
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.cda.coldmig.plugins.module_utils._destination import (
    Outcome,
    get_migration,
    require_id,
    require_staged,
    staged_image,
)
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, InputError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import Hardware, Host
from ansible_collections.cda.coldmig.plugins.module_utils._migration import guest_of, mac_of
from ansible_collections.cda.coldmig.plugins.module_utils._ovf import OvfDisk, OvfMachine, OvfNic, descriptor, manifest
from ansible_collections.cda.coldmig.plugins.module_utils._vm_hardware import check_sizes, plan_for

BLOCK = 1 << 20
RECORD = tarfile.BLOCKSIZE
#: The greatest length that a plain ustar header can say.
USTAR_LIMIT = 8 << 30
MAX_DESCRIPTOR = 1 << 20
# Not the keys of vcenter_vm: it would take a VM that was made from the file for one that it left behind itself.
ID_KEY = "guestinfo.coldmig.ova.migration"
ROOT_KEY = "guestinfo.coldmig.ova.disk{index}.merkle_root"

Options = Mapping[str, t.Any]


class OvaError(ColdmigError):
    """The file cannot be written; the text says what is in the way."""


@dataclass(frozen=True)
class Package:
    """What is going to be written: file names, the descriptor, and the length of each disk's file."""

    base: str
    descriptor: bytes
    disks: tuple[OvfDisk, ...]

    @property
    def manifest_length(self) -> int:
        """Length of the manifest, whatever the digests are."""
        return len(manifest([(name, "0" * 64) for name in self.digested]))

    @property
    def digested(self) -> tuple[str, ...]:
        """Files that the manifest names, in the order of the archive."""
        return (f"{self.base}.ovf", *(disk.file_name for disk in self.disks))

    @property
    def size_bytes(self) -> int:
        """Length of the archive: a header and whole records for each file, two empty records at the end."""
        lengths = [len(self.descriptor), self.manifest_length, *(disk.size_bytes for disk in self.disks)]
        return sum(RECORD + _padded(length) for length in lengths) + 2 * RECORD


def _padded(length: int) -> int:
    return -(-length // RECORD) * RECORD


def ensure_present(options: Options, *, check_mode: bool) -> Outcome:
    """The file with exactly this migration's disks. Values: ``ova``, ``migration``."""
    migration_id = require_id(options["migration"])
    check_sizes(options)
    path = Path(options["path"])
    if not path.parent.is_dir():
        raise InputError("path", str(path), "a file in a folder that exists")
    if path.is_dir():
        raise InputError("path", str(path), "the name of a file, not of a folder")
    with GatewayClient.from_options(options) as gateway:
        migration = get_migration(gateway, migration_id)
        require_staged(migration)
        package, hardware = plan_package(options, migration)
        outcome = Outcome(notes=list(hardware.notes))
        there = read_descriptor(path)
        outcome.before = {"path": str(path)} if path.exists() else {}
        outcome.after = {"path": str(path), "size_bytes": package.size_bytes, "descriptor": f"{package.base}.ovf"}
        outcome.values = {"ova": outcome.after, "migration": migration}
        if there == package.descriptor and path.stat().st_size == package.size_bytes:
            outcome.before = outcome.after
            return outcome
        outcome.changed = True
        _require_room(path, package)
        if not check_mode:
            with _replacing(path) as file:
                digests = _write(file, package, options, migration)
            outcome.after["sha256"] = digests
    return outcome


def plan_package(options: Options, migration: Migration) -> tuple[Package, Hardware]:
    """Descriptor and file names. Raises HardwareChoiceError when no VM can hold the machine."""
    hardware = plan_for(migration, Host(hardware_version=options["hardware_version"]), options)
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", options["name"] or migration["name"]).strip("-.")[:60] or "vm"
    disks = tuple(
        OvfDisk(f"{base}-disk{disk['index']}.vmdk", disk["vmdk_bytes"] or 0, _populated(disk["data_chunks"]))
        for disk in migration["disks"]
    )
    guest = guest_of(migration)
    roots = ((ROOT_KEY.format(index=disk["index"]), disk["merkle_root"] or "") for disk in migration["disks"])
    machine = OvfMachine(
        name=options["name"] or migration["name"],
        annotation=f"Cold migration {migration['id']} of {migration['name']} ({migration['organization']})",
        os_description=str(guest.get("pretty_name") or guest.get("os_type") or "unknown"),
        is_linux=guest.get("os_type") == "linux",
        hardware=hardware,
        hardware_version=options["hardware_version"],
        disks=disks,
        nics=_nics(migration),
        extra_config=((ID_KEY, migration["id"]), *roots),
    )
    return Package(base, descriptor(machine), disks), hardware


def _populated(chunks: int | None) -> int | None:
    return None if chunks is None else chunks << 20


def _nics(migration: Migration) -> tuple[OvfNic, ...]:
    """Those that the destination connects: an OVF cannot hold one without a network."""
    entries = zip(migration["destination"]["networks"], migration["machine"]["nics"], strict=False)
    return tuple(
        OvfNic(entry["network"], mac_of(nic) if entry["keep_mac"] else None)
        for entry, nic in entries
        if entry["network"] != "none"
    )


def read_descriptor(path: Path) -> bytes | None:
    """The descriptor of an OVA that is there; None if there is none, or something else."""
    try:
        with path.open("rb") as file:
            header = file.read(RECORD)
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            if not entry.name.endswith(".ovf") or not 0 < entry.size <= MAX_DESCRIPTOR:
                return None
            text = file.read(entry.size)
            return text if len(text) == entry.size else None
    except (OSError, tarfile.HeaderError, UnicodeError):
        return None


def _require_room(path: Path, package: Package) -> None:
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if package.size_bytes > free:
        raise OvaError(f"path: {path.parent} has {free} bytes free, the file needs {package.size_bytes}")


@contextlib.contextmanager
def _replacing(path: Path) -> t.Iterator[t.BinaryIO]:
    """A file that gets its name when it is complete and on the disk, and vanishes otherwise."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        raise OvaError(f"path: writing {path}: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _write(file: t.BinaryIO, package: Package, options: Options, migration: Migration) -> dict[str, str]:
    """The whole archive. Returns the SHA-256 of each file in it."""
    digests = {f"{package.base}.ovf": hashlib.sha256(package.descriptor).hexdigest()}
    _add(file, f"{package.base}.ovf", package.descriptor)
    place = file.tell() + RECORD
    _add(file, f"{package.base}.mf", bytes(package.manifest_length))
    for disk, source in zip(package.disks, migration["disks"], strict=True):
        file.write(_header(disk.file_name, disk.size_bytes))
        digests[disk.file_name] = _copy(file, options, migration["id"], source["index"], disk)
        file.write(bytes(_padded(disk.size_bytes) - disk.size_bytes))
    file.write(bytes(2 * RECORD))
    file.seek(place)
    file.write(manifest([(name, digests[name]) for name in package.digested]))
    return digests


def _copy(file: t.BinaryIO, options: Options, migration_id: str, index: int, disk: OvfDisk) -> str:
    digest = hashlib.sha256()
    sent = 0
    with staged_image(options, migration_id, index) as image:
        if image.length != disk.size_bytes:
            raise OvaError(f"disk {index}: its image has {image.length} bytes, {disk.size_bytes} were announced")
        for block in image.blocks(BLOCK):
            file.write(block)
            digest.update(block)
            sent += len(block)
    if sent != disk.size_bytes:
        raise OvaError(f"disk {index}: only {sent} of {disk.size_bytes} bytes of its image came")
    return digest.hexdigest()


def _add(file: t.BinaryIO, name: str, content: bytes) -> None:
    file.write(_header(name, len(content)))
    file.write(content + bytes(_padded(len(content)) - len(content)))


def _header(name: str, length: int) -> bytes:
    """One record. What a plain ustar header cannot say is written as GNU tar does, which importers read."""
    entry = tarfile.TarInfo(name)
    entry.size = length
    entry.mode = 0o644
    if length < USTAR_LIMIT:
        header = entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    else:
        header = entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    if len(header) != RECORD:
        raise OvaError(f"name: {name!r} is too long for an archive")
    return header
