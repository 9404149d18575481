# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Turn the base ISO into the ISO of one template, by patching two reserved slots of a copy.

The base image (roles/iso/files/iso-build) reserves

* ``/live/config.img`` (256 KiB): a newc cpio archive padded with NUL bytes. GRUB loads it as a second initrd, so the
  configuration is there before anything else of the live system runs. All NUL: the image is not configured.
* ``/boot/grub/custom.cfg`` (8 KiB): GRUB script, padded with newlines, read by the image's grub.cfg.

Only the bytes of these two files change, with the same length, so boot sectors, partition tables and the signed boot
chain stay as they are. pycdlib only *finds* the slots: its ``write()`` would zero the first 32 KiB of a GRUB hybrid.

Nothing here needs Ansible; the module ``iso`` and the tests use the same functions.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.cda.coldmig.plugins.module_utils._iso_config import (
    FORMAT,
    ConfigError,
    FieldProblem,
    IsoImageError,
    validate_config,
    validate_kernel_args,
)

__all__ = [
    "FORMAT",
    "ConfigError",
    "FieldProblem",
    "IsoImageError",
    "IsoInfo",
    "MissingLibraryError",
    "NotABaseImageError",
    "SlotError",
    "inspect_iso",
    "iso_sha256",
    "read_slot",
    "validate_config",
    "validate_kernel_args",
    "write_iso",
]

try:
    import fcntl
except ImportError:  # not a POSIX controller: copy without reflink
    fcntl = None  # type: ignore[assignment]

try:
    from pycdlib import PyCdlib
    from pycdlib.pycdlibexception import PyCdlibException
except ImportError as exc:
    PYCDLIB_IMPORT_ERROR: ImportError | None = exc
else:
    PYCDLIB_IMPORT_ERROR = None

VOLUME_PATTERN = re.compile(r"COLDMIG_([0-9]{1,3})_([0-9A-F]{16})")
MODE = 0o600
"""Of every file with a credential in it."""
CONFIG_SLOT = "/live/config.img"
ARGS_SLOT = "/boot/grub/custom.cfg"
CONFIG_MEMBER = "config/coldmig.json"
SHELL_ARGUMENT = "coldmig.shell=1"

_FICLONE = 0x40049409
_SECTOR = 2048
# A system or file system cannot copy this way, and another one has to do.
_NO_COPY = (
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSOCK,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EXDEV,
)
_CPIO_ALIGN = 4
_CPIO_MAGIC = b"070701"
_CPIO_TRAILER = "TRAILER!!!"
_COPY_STEP = 8 << 20
# GRUB's menu on 80 columns, less the product's name, version and build id.
_TITLE_CHARACTERS = 32


class MissingLibraryError(IsoImageError):
    """pycdlib is not installed on the machine that makes the ISO."""


class NotABaseImageError(IsoImageError):
    """The file is no base ISO of this product, or one of another format version."""


class SlotError(IsoImageError):
    """A slot is missing, damaged, or too small for what has to go in."""


@dataclass(frozen=True)
class IsoInfo:
    """What a (base or customised) image says about itself. ``kernel_args`` are the extra ones of custom.cfg."""

    path: str
    size_bytes: int
    volume_id: str
    format: int
    build_id: str
    config: dict[str, Any] | None
    kernel_args: list[str]


@dataclass(frozen=True)
class Slot:
    """A file of an image: its place in it, in bytes."""

    offset: int
    length: int


@dataclass
class _Layout:
    volume_id: str
    format: int
    build_id: str
    slots: dict[str, Slot] = field(default_factory=dict)


# -- public operations ------------------------------------------------------------------------------------------------


def inspect_iso(path: str | os.PathLike[str]) -> IsoInfo:
    """Read what an image is and what its slots hold.

    :raises NotABaseImageError: no image of this product or of another format version.
    :raises SlotError: a slot holds something that this product did not write.
    """
    return _inspect(path, _read_layout(path))


def _inspect(path: str | os.PathLike[str], layout: _Layout) -> IsoInfo:
    with Path(path).open("rb") as image:
        config = _parse_config_slot(_read_slot_bytes(image, layout.slots[CONFIG_SLOT]))
        args = _parse_args_slot(_read_slot_bytes(image, layout.slots[ARGS_SLOT]))
    return IsoInfo(
        path=os.fspath(path),
        size_bytes=Path(path).stat().st_size,
        volume_id=layout.volume_id,
        format=layout.format,
        build_id=layout.build_id,
        config=config,
        kernel_args=args,
    )


def read_slot(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the configuration in an image, or None when it is a base image without one."""
    return inspect_iso(path).config


def write_iso(
    base: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    config: Mapping[str, Any],
    grub_args: Sequence[str] = (),
) -> IsoInfo:
    """Make the image of a template: copy ``base`` to ``dest`` and fill the slots; ``dest`` appears whole or not at all.

    :param base: base image, as the role ``iso`` builds it; is only read.
    :param dest: file to make or replace, mode 0600 (it holds a credential).
    :param config: see :func:`validate_config`.
    :param grub_args: extra kernel arguments, see :func:`validate_kernel_args`.
    :returns: what was read back from the finished file.
    :raises ConfigError: a field is wrong (nothing was written).
    :raises IsoImageError: the base cannot be used, or the result does not read back as written.
    """
    checked = validate_config(config)
    args = validate_kernel_args(grub_args)
    layout = _read_layout(base)
    contents = {
        CONFIG_SLOT: build_config_slot(checked, layout.slots[CONFIG_SLOT].length),
        ARGS_SLOT: build_args_slot(checked, args, layout.slots[ARGS_SLOT].length),
    }
    target = Path(dest)
    if target.exists() and target.samefile(base):
        raise IsoImageError(f"destination {target} is the base ISO itself; choose another file")
    with _replacing(target) as (image, part):
        with Path(base).open("rb") as source:
            _copy(source, image)
        for name, data in contents.items():
            image.seek(layout.slots[name].offset)
            image.write(data)
        image.flush()
        os.fsync(image.fileno())
        # Where everything lies is known from the base: the copy has the same directory.
        written = _inspect(part, replace(_identify(part), slots=layout.slots))
        if written.config != checked or written.kernel_args != args or written.volume_id != layout.volume_id:
            raise IsoImageError(f"{target}: what was read back is not what was written; the storage may be faulty")
    return replace(written, path=os.fspath(target))


def iso_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal (about half a second per 100 MB)."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as image:
        while block := image.read(_COPY_STEP):
            digest.update(block)
    return digest.hexdigest()


# -- slots ------------------------------------------------------------------------------------------------------------


def build_config_slot(config: Mapping[str, Any], length: int) -> bytes:
    """Return the bytes of the configuration slot: a newc archive with one 0600 file, padded with NUL to ``length``.

    :raises SlotError: the archive is larger than the slot; the text names both sizes.
    """
    archive = build_config_archive(config)
    if len(archive) > length:
        sizes = {name: len(json.dumps(value)) for name, value in config.items()}
        largest = max(sizes, key=lambda name: sizes[name])
        advice = {
            "site": "shorten site.ca_pem to the CA certificate alone",
            "machines": "give the machines to several ISOs, or what they have in common to all",
        }.get(largest, f"shorten {largest}")
        raise SlotError(
            f"the configuration needs {len(archive)} bytes and the image reserves {length}; {advice}"
            f" ({largest} takes {sizes[largest]} of them)"
        )
    return archive.ljust(length, b"\0")


def build_config_archive(config: Mapping[str, Any]) -> bytes:
    """The configuration as a newc archive; the same configuration gives the same bytes."""
    data = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    return newc_archive([("config", 0o040700, b""), (CONFIG_MEMBER, 0o100600, data)])


def build_args_slot(config: Mapping[str, Any], args: Sequence[str], length: int) -> bytes:
    """Return the bytes of custom.cfg: GRUB variables for the consoles and the kernel arguments, padded to ``length``.

    :raises SlotError: the script is larger than the slot.
    """
    console = config["console"]
    lines = ["# Written for one template; the variables are used in grub.cfg."]
    if console["serial"]:
        port, speed = console["serial"].split(",")
        lines.append(f"set coldmig_serial_unit={port.removeprefix('ttyS')}")
        lines.append(f"set coldmig_serial_speed={speed}")
    else:
        lines.append("set coldmig_serial_unit=")
    lines.append(f'set coldmig_console="{" ".join(console_arguments(config))}"')
    if console["shell"]:
        lines.append(f"set coldmig_shell={SHELL_ARGUMENT}")
    lines.append(f'set coldmig_template="{describe_template(config)}"')
    lines.append(f'set coldmig_args="{" ".join(args)}"')
    script = ("\n".join(lines) + "\n").encode("ascii")
    if len(script) > length:
        raise SlotError(f"the kernel arguments need {len(script)} bytes and the image reserves {length}")
    return script.ljust(length, b"\n")


def console_arguments(config: Mapping[str, Any]) -> list[str]:
    """Kernel arguments for the consoles; the screen comes last, as the one that /dev/console means."""
    if not config["console"]["serial"]:
        return ["console=tty0"]
    port, speed = config["console"]["serial"].split(",")
    return [f"console={port},{speed}n8", "console=tty0"]


def describe_template(config: Mapping[str, Any]) -> str:
    """The template in plain ASCII that no boot loader's script language can misread, cut to the width of a menu."""
    text = f"{config['template']['name']} of {config['template']['organization']}"
    return re.sub(r"[^A-Za-z0-9 ._,:+-]", "?", text)[:_TITLE_CHARACTERS]


def newc_archive(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return a cpio archive in the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).

    :param entries: (path, mode with type bits, content) with every directory before what is in it. Owner is root and
        the modification time 0, so the same content gives the same bytes.
    """
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, (_CPIO_TRAILER, 0, b"")], start=1):
        raw = name.encode() + b"\0"
        links = 2 if mode & 0o040000 else 1
        numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out += _CPIO_MAGIC + b"".join(b"%08X" % number for number in numbers) + raw
        out += bytes(-len(out) % _CPIO_ALIGN) + data
        out += bytes(-len(out) % _CPIO_ALIGN)
    return bytes(out)


def newc_members(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield (path, mode, content) of a newc archive up to its trailer.

    :raises SlotError: the bytes are no such archive.
    """
    position = 0
    while True:
        header = archive[position : position + 110]
        if len(header) != 110 or header[:6] != _CPIO_MAGIC:
            raise SlotError(f"no newc header at byte {position} of the configuration slot")
        try:
            numbers = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        except ValueError as exc:
            raise SlotError(f"damaged newc header at byte {position} of the configuration slot") from exc
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name_end = position + 110 + name_size
        start = name_end + -name_end % _CPIO_ALIGN
        if start + size > len(archive):
            raise SlotError(f"the configuration slot ends inside a member of {size} bytes")
        name = archive[position + 110 : name_end].rstrip(b"\0").decode(errors="replace")
        if name == _CPIO_TRAILER:
            return
        yield name, mode, archive[start : start + size]
        position = start + size + -(start + size) % _CPIO_ALIGN


def _parse_config_slot(data: bytes) -> dict[str, Any] | None:
    if not data.strip(b"\0"):
        return None
    for name, _mode, content in newc_members(data):
        if name == CONFIG_MEMBER:
            try:
                config = json.loads(content)
            except ValueError as exc:
                raise SlotError(f"{CONFIG_MEMBER} in the image is no JSON: {exc}") from exc
            if isinstance(config, dict):
                return config
            raise SlotError(f"{CONFIG_MEMBER} in the image is no JSON object")
    raise SlotError(f"the configuration slot holds no {CONFIG_MEMBER}")


def _parse_args_slot(data: bytes) -> list[str]:
    found = re.search(rb'^set coldmig_args="([^"\n]*)"$', data, re.MULTILINE)
    return found.group(1).decode(errors="replace").split() if found else []


# -- the image file ---------------------------------------------------------------------------------------------------


def _read_layout(path: str | os.PathLike[str]) -> _Layout:
    layout = _identify(path)
    layout.slots = locate(path, (CONFIG_SLOT, ARGS_SLOT))
    return layout


def locate(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, Slot]:
    """Where files of an image lie in it.

    :raises NotABaseImageError: the image is damaged, or a file is missing or not in one piece.
    """
    if PYCDLIB_IMPORT_ERROR is not None:
        raise MissingLibraryError("the Python library pycdlib (>= 1.20) is needed to make an ISO: pip install pycdlib")
    iso = PyCdlib()
    try:
        iso.open(os.fspath(path))
    except PyCdlibException as exc:
        raise NotABaseImageError(f"{path}: damaged ISO 9660 file system: {exc}") from exc
    found = {}
    try:
        for name in names:
            try:
                runs = iso.get_file_byte_extents(rr_path=name)
            except PyCdlibException as exc:
                raise NotABaseImageError(f"{path}: has no file {name}: {exc}") from exc
            if len(runs) != 1:
                raise NotABaseImageError(f"{path}: file {name} lies in {len(runs)} pieces; rebuild the base ISO")
            found[name] = Slot(*runs[0])
    finally:
        iso.close()
    return found


def read_volume_id(path: str | os.PathLike[str]) -> str:
    """The volume id of an image of this product and format.

    :raises NotABaseImageError: it is none.
    """
    return _identify(path).volume_id


def _identify(path: str | os.PathLike[str]) -> _Layout:
    """Check the volume id in the primary volume descriptor (ECMA-119 8.4: sector 16, bytes 40..71)."""
    try:
        with Path(path).open("rb") as image:
            image.seek(16 * _SECTOR)
            descriptor = image.read(_SECTOR)
    except OSError as exc:
        raise IsoImageError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if descriptor[:6] != b"\x01CD001":
        raise NotABaseImageError(f"{path}: is no ISO 9660 image; the role cda.coldmig.iso builds the base ISO")
    volume_id = descriptor[40:72].decode("ascii", "replace").rstrip()
    found = VOLUME_PATTERN.fullmatch(volume_id)
    if not found:
        raise NotABaseImageError(
            f"{path}: volume id {volume_id!r} is not that of a base ISO of cda.coldmig (COLDMIG_{FORMAT}_...);"
            " the role cda.coldmig.iso builds one"
        )
    if int(found[1]) != FORMAT:
        raise NotABaseImageError(
            f"{path}: base ISO of format {found[1]}, this version patches format {FORMAT}; rebuild it"
        )
    return _Layout(volume_id, int(found[1]), found[2])


def _read_slot_bytes(image: BinaryIO, slot: Slot) -> bytes:
    image.seek(slot.offset)
    data = image.read(slot.length)
    if len(data) != slot.length:
        raise SlotError("the image is shorter than its directory says: copy it again")
    return data


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a temporary file (mode 0600) beside ``target`` that takes its place when the block ends well."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as exc:
        raise IsoImageError(f"{target.parent}: cannot make a file there: {exc.strerror}") from exc
    part = Path(name)
    try:
        with os.fdopen(descriptor, "r+b") as image:
            yield image, part
        part.replace(target)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise IsoImageError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename too survives a loss of power
    finally:
        os.close(directory)


def _copy(source: BinaryIO, dest: BinaryIO) -> None:
    """Copy a whole file; shares the blocks where the file system can (XFS, Btrfs)."""
    if fcntl is not None:
        try:
            fcntl.ioctl(dest.fileno(), _FICLONE, source.fileno())
        except OSError as exc:
            if exc.errno not in _NO_COPY:
                raise
        else:
            return
    try:
        # Inside the kernel, which saves a third of the time.
        while done := os.sendfile(dest.fileno(), source.fileno(), source.tell(), _COPY_STEP):
            source.seek(done, os.SEEK_CUR)
    except OSError as exc:
        if source.tell() or exc.errno not in _NO_COPY:
            raise
        while block := source.read(_COPY_STEP):
            dest.write(block)
