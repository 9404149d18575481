# SPDX-License-Identifier: GPL-3.0-or-later
"""A registered machine whose disks are image files, and its copy, in the test's own process."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coldmig_agent.api import ControlClient, Enrolment, SessionState
from coldmig_agent.config import Config, parse_config
from coldmig_agent.copying.engine import Copier
from coldmig_agent.discovery.disks import Source, read_image_files
from coldmig_agent.freespace.maps import FreeMap
from coldmig_agent.machine import Cpu, Guest, Machine
from coldmig_agent.site import Site
from support.gateway import Gateway


def machine_of(sources: Sequence[Source]) -> Machine:
    return Machine(
        agent_version="0", smbios_uuid=None, vendor="", product="", serial="", firmware="bios", secure_boot=None,
        live_boot_firmware="bios", cpu=Cpu(1, 1, 1, ""), memory_bytes=1 << 30, nics=(),
        disks=tuple(source.disk for source in sources), guest=Guest(), addresses=(), name="source",
    )  # fmt: skip


class Session:
    """A registered machine with image files as disks.

    ``identity``: its SMBIOS UUID; ``serials``: of its disks. Both are what the site knows it by when it comes again.
    ``free``: for each disk the ranges (start, stop) that no file system uses.
    """

    def __init__(
        self,
        gateway: Gateway,
        name: str,
        images: Sequence[Path],
        *,
        url: str | None = None,
        iso: Mapping[str, Any] | None = None,
        identity: str | None = None,
        serials: Sequence[str] = (),
        free: Sequence[Sequence[tuple[int, int]]] = (),
    ) -> None:
        self.gateway = gateway
        self.iso = dict(iso or gateway.iso(name, url=url))
        self.config: Config = parse_config(json.dumps(self.iso).encode())
        self.site = Site(self.config.site)
        self.sources = read_image_files(images)
        for index, serial in enumerate(serials):
            self.sources[index] = with_disk(self.sources[index], serial=serial)
        for index, ranges in enumerate(free):
            found = FreeMap(index, self.sources[index].disk.size_bytes, ranges)
            self.sources[index] = replace(self.sources[index], free_map=found)
        self.control = ControlClient(self.site)
        machine = replace(machine_of(self.sources), smbios_uuid=identity)
        self.enrolment: Enrolment = self.control.enrol(self.config.credential, machine, secrets.token_urlsafe(16))
        self.stop = threading.Event()
        self.problems: list[str | None] = []
        self.notes: list[str] = []
        self.copier = self.again()

    def again(self) -> Copier:
        """Another copier of the same migration, as after a restart of the agent's copy."""
        return Copier(
            self.site,
            self.enrolment.session_token,
            self.sources,
            self.stop,
            self.problems.append,
            note=self.notes.append,
        )

    def session(self) -> SessionState:
        """What the site says of this session now."""
        return self.control.session(self.enrolment.session_token)

    def copy(self, connections: int = 4) -> None:
        """Take over the session's settings and copy everything."""
        self.copier.check_session(self.session())
        self.copier.run(connections)

    def wait_for(self, state: str) -> Any:
        """The migration once it is in a state."""
        return self.gateway.wait_for(self.enrolment.migration_id, state)


def with_disk(source: Source, **fields: Any) -> Source:
    """The source with other facts about its disk."""
    return replace(source, disk=replace(source.disk, **fields))
