# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of faults look at: where a copy stands, what lies in staging, what has arrived."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldmig_gateway.staging.pack import PACK_HEADER, body_length
from coldmig_wire.frames import HEADER, Frame, FrameError, FrameType
from support.agent import Agent
from support.gateway import Gateway
from support.images import sha256
from support.processes import wait_until


class Lab:
    """A gateway, and the machines that a test boots. A context manager: leaving it cuts the machines' power."""

    def __init__(self, gateway: Gateway, work: Path, template: str) -> None:
        """``template`` is a name that is not in use; ``work`` a directory of the test's own."""
        self.gateway = gateway
        self.work = work
        self.template = template
        self._agents: list[Agent] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents:
            agent.kill()

    def iso(self, **more: Any) -> dict[str, Any]:
        """The settings of an ISO of a template of the test's own; see Gateway.iso."""
        return self.gateway.iso(self.template, **more)

    def boot(self, iso: dict[str, Any], *images: Path, **more: Any) -> Agent:
        """Start a machine from its ISO; see support.agent.Agent."""
        self._agents.append(Agent(self.work / f"boot-{len(self._agents)}", iso, images, **more))
        return self._agents[-1]

    def migration(self, agent: Agent) -> Any:
        """What the site says of an agent's migration."""
        return self.gateway.migration(agent.migration_id)

    def stored(self, agent: Agent) -> int:
        """How many chunks of a migration's first disk are in staging."""
        return len(chunks_in(self.pack(agent)))

    def wait_stored(self, agent: Agent, chunks: int) -> int:
        """Wait until so many chunks of the first disk are in staging; how many then are."""
        wait_until(lambda: self.stored(agent) >= chunks, lambda: f"{chunks} stored chunks:\n{agent.text}")
        return self.stored(agent)

    def pack(self, agent: Agent) -> Path:
        """The pack of a migration's first disk."""
        return self.gateway.staging / agent.migration_id / "disk-0.pack"

    def verify(self, agent: Agent) -> tuple[int, str]:
        """``coldmig-gateway verify`` of a migration: exit status and what it says. The service is stopped for it."""
        # It would wait a minute for the service to let go of the disks.
        self.gateway.stop()
        done = self.gateway.run("verify", agent.migration_id)
        self.gateway.start()
        return done.returncode, done.stdout + done.stderr

    def assert_arrived(self, agent: Agent, *images: Path) -> None:
        """The migration is ``copied`` and what would go to vCenter is what lies on the disks, byte by byte."""
        self.gateway.wait_for(agent.migration_id, "copied")
        for index, image in enumerate(images):
            target = self.work / f"arrived-{index}.raw"
            arrived = self.gateway.image(agent.migration_id, index, target, image.stat().st_size)
            assert sha256(arrived) == sha256(image), f"disk {index} is not what was sent"
            arrived.unlink()

    def assert_copied(self, agent: Agent, *images: Path) -> None:
        """The agent ends by itself with everything copied, and it arrived."""
        assert agent.finish() == 0, agent.text
        self.assert_arrived(agent, *images)


@dataclass(frozen=True)
class Record:
    """A record of a pack: its frame and where its payload lies in the file."""

    frame: Frame
    payload: int


def records(pack: Path) -> list[Record]:
    """The records of a pack, as far as they are whole."""
    found: list[Record] = []
    with pack.open("rb") as file:
        offset = PACK_HEADER
        size = os.fstat(file.fileno()).st_size
        while offset + HEADER <= size:
            file.seek(offset)
            try:
                frame = Frame.unpack(file.read(HEADER))
            except FrameError:
                break
            if offset + HEADER + body_length(frame) > size:
                break
            found.append(Record(frame, offset + HEADER))
            offset += HEADER + body_length(frame)
    return found


def chunks_in(pack: Path) -> set[int]:
    """The chunks of which a pack has a record."""
    found: set[int] = set()
    for record in records(pack) if pack.exists() else []:
        found.update(range(record.frame.chunk, record.frame.end_chunk))
    return found


def damage(pack: Path, chunk: int) -> None:
    """Turn one bit in the middle of the payload that a pack holds of a chunk."""
    found = [record for record in records(pack) if record.frame.chunk == chunk and record.frame.type is FrameType.DATA]
    assert found, f"{pack} has no data of chunk {chunk}"
    place = found[-1].payload + found[-1].frame.length // 2
    with pack.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
