# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at a real terminal (a pseudo-terminal with an emulator behind it), and hands that only note what they do."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

from coldmig_agent.console.forms import Reply
from coldmig_agent.copying.progress import DiskView
from coldmig_agent.machine import Disk, LeftOut
from coldmig_agent.status import Phase, Snapshot
from coldmig_agent.warnings import notice

PATIENCE = 40.0
MIB, GIB = 1 << 20, 1 << 30
VIEW = DiskView(0, 3 * GIB, 3072, 1229, 2 * GIB, GIB, 0, 35.0 * MIB, 52.0)
SNAPSHOT = Snapshot(
    phase=Phase.COPYING,
    site="https://site.example:8443",
    template="standard (acme)",
    migration="c4654531-6493-44d5-bdb8-850531dc3df8",
    name="erp-db-01",
    network=("ens3 52:54:00:12:34:56 link up 10.0.2.15",),
    machine=("erp-db-01: Debian GNU/Linux 12 (bookworm)",),
    systems=("Debian GNU/Linux 12 (bookworm) on disk 0, partition 1: boots from PVSCSI, network VMXNET3: ready",),
    readiness=("disks: PVSCSI ready, NVMe no", "network: VMXNET3 ready"),
    notices=(notice("tpm-present", version="2.0"),),
    disks=(VIEW,),
)


class Person:
    """A terminal of so many columns and rows, what is on it, and somebody who types."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, self._slave = pty.openpty()
        self.path = Path(os.ttyname(self._slave))
        os.set_blocking(self._master, False)
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        """Make the window larger or smaller; zeros: the kernel does not know its size, as on a serial line."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if columns:
            self.screen.resize(rows, columns)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def look(self) -> list[str]:
        """The lines on the screen now."""
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except BlockingIOError:
                break
            self.raw += data
            self._stream.feed(data)
        return list(self.screen.display)

    @property
    def text(self) -> str:
        """The whole screen."""
        return "\n".join(self.look())

    @property
    def said(self) -> str:
        """Everything that came, as bytes."""
        self.look()
        return self.raw.decode("latin-1")

    def wait_for(self, words: str, what: Callable[[], str] | None = None) -> str:
        """Wait until this stands on the screen."""
        look = what or (lambda: self.text)
        deadline = time.monotonic() + PATIENCE
        while words not in (text := look()):
            assert time.monotonic() < deadline, f"{words!r} never came; there is:\n{text}"
            time.sleep(0.05)
        return text

    @property
    def settings(self) -> object:
        """The terminal's settings."""
        return termios.tcgetattr(self._slave)

    def hang_up(self) -> None:
        """Go away."""
        os.close(self._master)

    def close(self) -> None:
        """Free it."""
        for fd in (self._master, self._slave):
            try:
                os.close(fd)
            except OSError:
                continue


class Noted:
    """Hands that note what they are told."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.wants = "no"
        self.reply = Reply("Done.")
        self.known: tuple[Sequence[Disk], Sequence[LeftOut], frozenset[str]] | None = None

    def test(self) -> str:
        self.done.append("test")
        return "Testing."

    def retry(self, ended: bool) -> str:
        self.done.append(("retry", ended))
        return "Trying."

    def network_values(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        return ("eth0", "eth1"), {"interface": "eth0", "ip": "dhcp"}

    def correct_network(self, values: Mapping[str, str]) -> Reply:
        self.done.append(dict(values))
        return self.reply

    def disks(self) -> tuple[Sequence[Disk], Sequence[LeftOut], frozenset[str]] | None:
        return self.known

    def hold(self, wanted: bool) -> None:
        self.done.append(("hold", wanted))

    def leave_out(self, paths: frozenset[str]) -> str:
        self.done.append(("leave out", sorted(paths)))
        return "Chosen."

    def cancel(self) -> str:
        self.done.append("cancel")
        return "Canceled."

    def shell_wants(self) -> str:
        return self.wants

    def shell(self, password: str) -> Reply:
        self.done.append(("shell", password))
        return self.reply

    def reboot(self) -> str:
        self.done.append("reboot")
        return "Rebooting."

    def poweroff(self) -> str:
        self.done.append("poweroff")
        return "Powering off."
