# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person at the machine can do: commands with a key and a word, allowed or not by what goes on.

Pure but for :class:`Hands`, which does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from coldmig_agent.console.forms import Field, Form, Reply
from coldmig_agent.console.words import ENDED
from coldmig_agent.machine import Disk, LeftOut
from coldmig_agent.status import Phase, Snapshot
from coldmig_agent.text import human_bytes

#: What a settings form knows of an interface and of now.
NETWORK_KEYS = ("interface", "ip", "gateway", "dns", "vlan", "proxy", "proxy_user", "proxy_password")
_NOT_COPYING = frozenset(
    {
        Phase.STARTING, Phase.NETWORK, Phase.DISCOVERING, Phase.ENROLLING, Phase.WAITING, Phase.QUEUED, Phase.FAILED,
        Phase.CANCELED,
    }
)  # fmt: skip
COPY, LEAVE_OUT = "copy", "leave out"


class Hands(Protocol):
    """Does what was decided here. The sentences it returns are for the person."""

    def test(self) -> str:
        """Start the tests of the way to the site."""

    def retry(self, ended: bool) -> str:
        """Try again at once; ``ended``: begin a new migration."""

    def network_values(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """The interfaces' names to choose from, and the present values of NETWORK_KEYS (no password)."""

    def correct_network(self, values: Mapping[str, str]) -> Reply:
        """Put these settings into force for this boot."""

    def disks(self) -> tuple[Sequence[Disk], Sequence[LeftOut], frozenset[str]] | None:
        """Disks to be copied, disks left out by the settings or here, and paths left out here; None: not known yet."""

    def hold(self, wanted: bool) -> None:
        """Have the registration wait while the disks are being chosen."""

    def leave_out(self, paths: frozenset[str]) -> str:
        """Leave these disks out."""

    def cancel(self) -> str:
        """Give the migration up."""

    def shell_wants(self) -> str:
        """``password``, ``nothing``, or ``no`` where there is no shell."""

    def shell(self, password: str) -> Reply:
        """Start a shell on this person's terminal, if the password is right; returns when it has ended."""

    def reboot(self) -> str:
        """Reboot the machine."""

    def poweroff(self) -> str:
        """Power the machine off."""


@dataclass(frozen=True, slots=True)
class Command:
    """``open`` gives a form to fill in, or the sentence that says what was done or why not."""

    key: str
    word: str
    title: str
    what: str
    open: Callable[[Snapshot], Form | Reply]


class Desk:
    """The commands of one terminal."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self.commands: tuple[Command, ...] = (
            Command("n", "network", "network", "correct address, VLAN, name servers or proxy for this boot",
                    self._network),
            Command("d", "disks", "disks", "choose which disks are copied", self._disks),
            Command("t", "test", "test", "test the way to the site step by step", self._test),
            Command("a", "again", "again", "try again now; after an end: begin a new migration", self._again),
            Command("c", "cancel", "cancel", "give this migration up", self._cancel),
            Command("s", "shell", "shell", "a root shell, with its password", self._shell),
            Command("r", "reboot", "reboot", "reboot this machine", self._reboot),
            Command("p", "poweroff", "power off", "power this machine off", self._poweroff),
        )  # fmt: skip

    def by_key(self, key: str) -> Command | None:
        """The command of a key."""
        return next((one for one in self.commands if one.key == key), None)

    def by_word(self, word: str) -> Command | None:
        """The command of a word, or of its beginning where only one begins so."""
        exact = [one for one in self.commands if word in {one.word, one.key}]
        begun = [one for one in self.commands if one.word.startswith(word)] if len(word) > 1 else []
        found = exact or begun
        return found[0] if len(found) == 1 else None

    def _test(self, _snapshot: Snapshot) -> Reply:
        return Reply(self._hands.test())

    def _again(self, snapshot: Snapshot) -> Form | Reply:
        if snapshot.phase in {Phase.DONE, Phase.ASSESSED}:
            return Reply("This machine's part is complete; there is nothing to try again.")
        return Reply(self._hands.retry(snapshot.phase in ENDED))

    def _network(self, _snapshot: Snapshot) -> Form | Reply:
        names, now = self._hands.network_values()
        fields = (
            Field("interface", "Interface", now.get("interface", ""), "which one leads to the site",
                  choices=tuple(dict.fromkeys([now.get("interface", ""), *names]))),
            Field("ip", "Address", now.get("ip", ""), "such as 192.0.2.10/24 or 2001:db8::10/64; dhcp: from a DHCP "
                  "server"),
            Field("gateway", "Gateway", now.get("gateway", ""), "such as 192.0.2.1; empty: none, or that of DHCP"),
            Field("dns", "Name servers", now.get("dns", ""), "with commas between; empty: those of DHCP"),
            Field("vlan", "VLAN", now.get("vlan", ""), "1 to 4094; empty: none"),
            Field("proxy", "Proxy", now.get("proxy", ""), "http://HOST:PORT; empty: none"),
            Field("proxy_user", "Proxy user", now.get("proxy_user", ""), "empty: none"),
            Field("proxy_password", "Proxy password", "", "empty: as it is", secret=True),
        )  # fmt: skip
        text = ("These settings hold for this boot; nothing is stored. Connections that are under way are cut.",)
        return Form("Network of this machine", text, self._hands.correct_network, fields)

    def _disks(self, snapshot: Snapshot) -> Form | Reply:
        if snapshot.phase not in _NOT_COPYING:
            return Reply("The disks are being copied: cancel the migration first, then choose and start again.")
        known = self._hands.disks()
        self._hands.hold(True)
        if known is None:
            return Reply(
                "The disks are not known yet. Nothing is registered before you have chosen: ask again in a moment."
            )
        disks, left_out, here = known
        by_settings = [disk for disk in left_out if disk.path not in here]
        fields = [
            Field(disk.path, f"{disk.path} {human_bytes(disk.size_bytes)} {disk.model}".rstrip()[:44], COPY,
                  f"serial number {disk.serial or 'unknown'}", choices=(COPY, LEAVE_OUT))
            for disk in disks
        ] + [
            Field(disk.path, f"{disk.path} {human_bytes(disk.size_bytes)} {disk.model}".rstrip()[:44], LEAVE_OUT,
                  f"serial number {disk.serial or 'unknown'}", choices=(COPY, LEAVE_OUT))
            for disk in left_out if disk.path in here
        ]  # fmt: skip
        text = ["Choose with Left and Right, or by typing it. The machine is then looked at and registered anew."]
        text += [f"{disk.path} {human_bytes(disk.size_bytes)}: {disk.reason}" for disk in by_settings]

        def accept(values: Mapping[str, str]) -> Reply:
            wrong = next((value for value in values.values() if value not in {COPY, LEAVE_OUT}), None)
            if wrong is not None:
                return Reply(f"{wrong!r} is neither '{COPY}' nor '{LEAVE_OUT}'", again=True)
            if all(value == LEAVE_OUT for value in values.values()):
                return Reply("At least one disk has to be copied.", again=True)
            return Reply(self._hands.leave_out(frozenset(k for k, value in values.items() if value == LEAVE_OUT)))

        return Form("Disks of this machine", tuple(text), accept, tuple(fields), close=lambda: self._hands.hold(False))

    def _cancel(self, snapshot: Snapshot) -> Form | Reply:
        if snapshot.phase in ENDED:
            return Reply("The migration has ended already.")
        text = ("Give this machine's migration up? The site is told. Nothing on this machine is changed.",)
        return Form("Cancel the migration", text, lambda _values: Reply(self._hands.cancel()))

    def _shell(self, _snapshot: Snapshot) -> Form | Reply:
        wants = self._hands.shell_wants()
        if wants == "no":
            return Reply("This ISO allows no shell: neither a root password nor console.shell is among its settings.")
        if wants == "nothing":
            text = ("Start a root shell? The disks are behind a write fence: leave it up. 'exit' brings you back.",)
            return Form("Shell", text, lambda _values: self._hands.shell(""))
        fields = (Field("password", "Root password", secret=True),)
        text = ("The disks are behind a write fence: leave it up. 'exit' brings you back.",)
        return Form("Shell", text, lambda values: self._hands.shell(values["password"]), fields, button="Start")

    @staticmethod
    def _unfinished(snapshot: Snapshot) -> str:
        if snapshot.phase in ENDED:
            return ""
        if snapshot.phase in {Phase.COPYING, Phase.VERIFYING}:
            return " The copy is not complete; what the site has is not copied again after the next start."
        return " Its migration has not ended."

    def _reboot(self, snapshot: Snapshot) -> Form | Reply:
        text = (f"Reboot this machine?{self._unfinished(snapshot)}",)
        return Form("Reboot", text, lambda _values: Reply(self._hands.reboot()))

    def _poweroff(self, snapshot: Snapshot) -> Form | Reply:
        text = (f"Power this machine off?{self._unfinished(snapshot)}",)
        return Form("Power off", text, lambda _values: Reply(self._hands.poweroff()))
