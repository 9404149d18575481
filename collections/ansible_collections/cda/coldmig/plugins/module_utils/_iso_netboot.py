# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Files to boot the live system from the network instead of from an ISO (iPXE over HTTP or TFTP).

In the directory that a web server serves::

    COLDMIG_2_0123456789ABCDEF/    kernel, initrd and live system of one base image, shared by all its templates (0644)
    erp.ipxe                       what iPXE loads and runs for the template's ISO erp.iso; no secret in it (0644)
    erp.img                        the configuration with the credential, as one more initrd (0600)

iPXE takes the script's names relative to where the script came from, so the files serve at any address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image as image
from ansible_collections.cda.coldmig.plugins.module_utils._iso_config import IsoImageError

try:
    import fcntl
except ImportError:  # not a POSIX controller: nothing to lock with
    fcntl = None  # type: ignore[assignment]

__all__ = ["Netboot", "plan", "remove"]

KERNEL = "vmlinuz"
INITRDS = ("initrd.img", "layer.cpio", "system.cpio")
_ARGUMENTS = "/live/kernel-arguments.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOCK = ".coldmig.lock"
_STEP = 8 << 20


@dataclass(frozen=True)
class Netboot:
    """What shall be in the directory for one template's ISO."""

    source: Path
    """The image (base or template's) whose files are served."""
    directory: Path
    name: str
    volume_id: str
    script_text: str
    config_data: bytes

    @property
    def base(self) -> Path:
        """Directory of the files that all templates of a base image share."""
        return self.directory / self.volume_id

    @property
    def script(self) -> Path:
        """The iPXE script."""
        return self.directory / f"{self.name}.ipxe"

    @property
    def config(self) -> Path:
        """The initrd with the configuration."""
        return self.directory / f"{self.name}.img"

    def paths(self) -> dict[str, str]:
        """What a module returns."""
        return {"script": str(self.script), "config": str(self.config), "base": str(self.base)}

    def is_there(self) -> bool:
        """True if all files are as they shall be (the shared ones appear whole or not at all)."""
        try:
            return (
                self.base.is_dir()
                and self.script.read_bytes() == self.script_text.encode()
                and self.config.read_bytes() == self.config_data
                and self.config.stat().st_mode & 0o777 == image.MODE
            )
        except FileNotFoundError:
            return False

    def write(self) -> None:
        """Write what is missing or differs; each file appears whole.

        :raises IsoImageError: the image lacks a file, or the directory cannot be written.
        """
        with _locked(self.directory):
            if not self.base.is_dir():
                self._publish_base()
            # The script comes last: whoever reads it finds everything it names.
            _replace(self.config, self.config_data, image.MODE)
            _replace(self.script, self.script_text.encode(), 0o644)

    def _publish_base(self) -> None:
        places = image.locate(self.source, [f"/live/{name}" for name in (KERNEL, *INITRDS)])
        work = Path(tempfile.mkdtemp(prefix=f".{self.volume_id}.", dir=self.directory))
        try:
            with self.source.open("rb") as source:
                for name, place in places.items():
                    with (work / Path(name).name).open("wb") as target:
                        source.seek(place.offset)
                        left = place.length
                        while left:
                            block = source.read(min(left, _STEP))
                            if not block:
                                raise IsoImageError(f"{self.source}: is shorter than its directory says")
                            target.write(block)
                            left -= len(block)
                        target.flush()
                        os.fsync(target.fileno())
                        os.fchmod(target.fileno(), 0o644)
            work.chmod(0o755)
            work.rename(self.base)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def plan(source: Path, directory: Path, name: str, config: Mapping[str, Any], args: Sequence[str]) -> Netboot:
    """Work out the files of a template's ISO; writes nothing.

    :param source: base image or template's ISO.
    :param directory: where they go; must exist.
    :param name: start of the files' names; becomes a part of addresses.
    :param config: a valid configuration with its credential.
    :param args: more kernel arguments.
    :raises IsoImageError: the name or the image cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise IsoImageError(
            f"{name!r} cannot name files for booting from the network: use letters, digits and . _ - in the ISO's name"
        )
    if not directory.is_dir():
        raise IsoImageError(f"{directory}: is no directory; make it before, with the web server's owner and rights")
    volume_id = image.read_volume_id(source)
    place = image.locate(source, [_ARGUMENTS])[_ARGUMENTS]
    with source.open("rb") as file:
        file.seek(place.offset)
        words = file.read(place.length).decode("ascii").split()
    words += image.console_arguments(config)
    if config["console"]["shell"]:
        words.append(image.SHELL_ARGUMENT)
    return Netboot(
        source=source,
        directory=directory,
        name=name,
        volume_id=volume_id,
        script_text=script(name, volume_id, [*words, *args], image.describe_template(config)),
        config_data=image.build_config_archive(config),
    )


def script(name: str, volume_id: str, kernel_args: Sequence[str], title: str) -> str:
    """The iPXE script.

    With BIOS the kernel gets all initrds as one; with UEFI it asks the firmware for those that its own arguments name.
    So they are named twice, and in the same order.
    """
    files = {**{file: f"{volume_id}/{file}" for file in INITRDS}, f"{name}.img": f"{name}.img"}
    words = [*kernel_args, *(f"initrd={file}" for file in files)]
    return "\n".join(
        [
            "#!ipxe",
            f"echo Cold migration, image {volume_id}, {title}",
            f"kernel {volume_id}/{KERNEL} {' '.join(words)}",
            *(f"initrd --name {file} {path}" for file, path in files.items()),
            "boot",
            "",
        ]
    )


def remove(directory: Path, name: str, *, check_mode: bool = False) -> bool:
    """Remove a template's files, and the shared ones that no script names any more. False if there was nothing."""
    if not directory.is_dir():
        return False
    mine = [path for path in (directory / f"{name}.ipxe", directory / f"{name}.img") if path.is_file()]
    if check_mode or not mine:
        return bool(mine)
    with _locked(directory):
        for path in mine:
            path.unlink(missing_ok=True)
        scripts = "".join(path.read_text(encoding="utf-8", errors="replace") for path in directory.glob("*.ipxe"))
        for path in directory.iterdir():
            if image.VOLUME_PATTERN.fullmatch(path.name) and path.is_dir() and path.name not in scripts:
                shutil.rmtree(path)
    return True


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file that takes the old one's place, with its mode from the first byte on."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep out others who write here, so that no shared directory goes while a script for it comes."""
    try:
        with (directory / _LOCK).open("a") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise IsoImageError(f"{directory}: cannot be written: {exc.strerror}") from exc
        raise
