# SPDX-License-Identifier: GPL-3.0-or-later
"""A real agent: a process on image files, as ISO and machine would start it, with its consoles in a file."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .processes import AGENT_SOURCE, GATEWAY_SOURCE, PATIENCE, Service, SupportError, python_path, tail, wait_until

_ENTRY_POINT = b"_SM3_\x00\x18\x03\x03\x00" + bytes(14)
# A file system of its own in the place of the firmware's, seen by this process only.
_WITH_FIRMWARE = """
set -e
mount -t tmpfs tmpfs /sys/firmware
mkdir -p /sys/firmware/dmi/tables
cp "$1"/DMI "$1"/smbios_entry_point /sys/firmware/dmi/tables/
shift
exec "$@"
"""


def iso_settings(url: str, ca_pem: str, credential: str = "cm1_iso_" + "x" * 43, **more: object) -> dict[str, Any]:
    """The settings that an ISO carries. ``more`` replaces or adds top-level members."""
    return {
        "format": 2,
        "site": {"url": url, "ca_pem": ca_pem, "proxy": None},
        "credential": credential,
        "template": {"id": "t-1", "name": "standard", "organization": "acme"},
        "network": {"interfaces": [], "dns": [], "mtu": None},
        "console": {"serial": "ttyS0,115200", "shell": False},
        "poweroff_when_done": False,
        **more,
    }


def build_zipapp(output: Path) -> Path:
    """The agent as the ISO carries it, in one file."""
    argv = [sys.executable, str(AGENT_SOURCE / "build.py"), str(output)]
    subprocess.run(argv, check=True, capture_output=True)
    return output


def write_smbios(directory: Path, identity: uuid.UUID, serial: str = "S-1") -> Path:
    """SMBIOS tables (DMTF DSP0134) with one system structure, as the kernel shows them."""
    directory.mkdir(parents=True, exist_ok=True)
    strings = b"".join(text.encode() + b"\0" for text in ("Acme", "Laboratory", serial)) + b"\0"
    body = bytes([1, 2, 0, 3]) + identity.bytes_le + bytes(3)
    system = struct.pack("<BBH", 1, 4 + len(body), 1) + body + strings
    (directory / "DMI").write_bytes(system + struct.pack("<BBH", 127, 4, 2) + b"\0\0")
    (directory / "smbios_entry_point").write_bytes(_ENTRY_POINT)
    return directory


class Agent:
    """One boot of a machine whose disks are image files. A context manager: leaving it kills what still runs."""

    def __init__(
        self,
        directory: Path,
        iso: Mapping[str, Any] | None,
        images: Sequence[Path],
        *,
        identity: uuid.UUID | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        zipapp: Path | None = None,
        source: Sequence[Path] = (AGENT_SOURCE, GATEWAY_SOURCE),
        options: Sequence[str] = (),
    ) -> None:
        """Starts it. ``iso`` are its settings (None: an ISO without any).

        ``identity`` is the machine's SMBIOS UUID (root only); without it the machine is the one that the test runs on.
        The disks' serial numbers are ``image-0``, ``image-1`` and so on. ``env`` is added to the environment,
        ``prefix`` comes before the command (to enter a network namespace).
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.console = directory / "console.txt"
        self.log = directory / "agent.log"
        self.console.touch()
        config = directory / "config.json"
        config.unlink(missing_ok=True)
        if iso is not None:
            config.write_text(json.dumps(iso))
        argv = [sys.executable, *([str(zipapp)] if zipapp else ["-m", "coldmig_agent"])]
        argv += ["--config", str(config), "--console", str(self.console), "--once", *options]
        argv += [word for path in images for word in ("--source", str(path))]
        if identity is not None:
            tables = write_smbios(directory / "dmi", identity)
            private = ["unshare", "--mount", "--propagation", "private"]
            argv = [*private, "sh", "-c", _WITH_FIRMWARE, "sh", str(tables), *argv]
        full = python_path(*source) | dict(env or {})
        self._service = Service("the agent", [*prefix, *argv], self.log, full)
        self.peak_kib = 0

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def text(self) -> str:
        """What a person at the console has seen."""
        return self.console.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._service.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._service.alive

    @property
    def migration_id(self) -> str:
        """The migration that this boot has become; waits for the registration."""
        self.wait_for("registered as migration ")
        found = re.search(r"registered as migration ([0-9a-f-]{36})", self.text)
        if found is None:
            raise SupportError(f"no migration in the console's text:\n{self.text}")
        return found[1]

    def wait_for(self, *words: str, seconds: float = PATIENCE) -> None:
        """Wait until one of these stands on the console. Raises SupportError when the agent ends without it."""

        def seen() -> bool:
            return any(word in self.text for word in words)

        try:
            self._service.wait_until(seen, seconds)
        except SupportError as error:
            if not seen():
                raise SupportError(f"{words} not on the console:\n{self.text}\n{error}") from None

    def finish(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, looking at its greatest resident size until then; the exit status."""

        def ended() -> bool:
            self.look_at_memory()
            return not self._service.alive

        wait_until(ended, lambda: f"the agent's end:\n{self.text}\n{tail(self.log)}", seconds)
        return self._service.wait()

    def look_at_memory(self) -> None:
        """Bring ``peak_kib`` up to date (the usage that ``wait`` tells counts the parent's memory too)."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE):
            self.peak_kib = max(self.peak_kib, int(found[1]))

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._service.signal(number)

    def kill(self) -> None:
        """Cut its power."""
        self._service.kill()
