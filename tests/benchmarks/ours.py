# SPDX-License-Identifier: GPL-3.0-or-later
"""The product: a real agent on the source's side, a real gateway on the site's, until the site says ``copied``.

The gateway is running before, as the peers' servers are. Its time counts from the agent's start until every chunk is
durable and was read again and verified; the agent's from its start (discovery and survey of the file systems included)
until it has told its console that the machine may be powered off.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.disks import Disk, difference
from tests.benchmarks.meter import Measured, PeakMemory, cpu_of, cpu_of_ended_children
from tests.benchmarks.network import Ends
from tests.support.agent import Agent
from tests.support.gateway import Gateway
from tests.support.processes import AGENT_SOURCE, COLLECTION, GATEWAY_SOURCE, ROOT, python_path, tail

NAME = "cda.coldmig"
_AGENT, _GATEWAY = AGENT_SOURCE.relative_to(ROOT), GATEWAY_SOURCE.relative_to(ROOT)
_LIVE = COLLECTION.relative_to(ROOT) / "roles/iso/files/iso-build/live"
_PATIENCE_SECONDS = 600.0


class Ours:
    """A site at one end of a link."""

    name = NAME
    missing: tuple[str, ...] = ()

    def __init__(self, gateway: Gateway, ends: Ends, directory: Path, checkout: Path) -> None:
        self.gateway = gateway
        self._ends = ends
        self._directory = directory
        self._checkout = checkout
        self._env = _with_bytecode(directory)
        self._source = [checkout / part for part in (_AGENT, _GATEWAY)]
        self._boots = 0

    def copy(self, disk: Disk) -> Measured:
        """Copy a disk of a machine that the site has never seen, and verify what arrived. Raises RuntimeError."""
        measured, migration = self.copy_and_keep(disk)
        self.remove(migration)
        return measured

    def remove(self, migration: str) -> None:
        """Free the room that a copy takes at the site: all of a run together would need hundreds of gigabytes."""
        self.gateway.call("POST", f"/migrations/{migration}/cancel", {"reason": "it was measured"})
        self.gateway.call("DELETE", f"/migrations/{migration}")

    def copy_and_keep(self, disk: Disk) -> tuple[Measured, str]:
        """The same, with the migration that it has become."""
        measured, migration = self._boot(self._iso(), uuid.uuid4(), disk)
        self._verify(disk, migration)
        return measured, migration

    def copy_after_reboot(self, disk: Disk, expected_bytes: int, share: float = 0.9) -> tuple[Measured, Measured]:
        """Cut the source's power when ``share`` of the expected bytes is on the wire, and boot it again.

        Gives what was measured until the cut (of the source nothing but bytes and time), and of the second boot.
        """
        iso = self._iso()
        machine = uuid.uuid4()
        first, _ = self._boot(iso, machine, disk, cut_after=int(expected_bytes * share))
        second, migration = self._boot(iso, machine, disk)
        self._verify(disk, migration)
        self.remove(migration)
        return first, second

    def _iso(self) -> dict[str, object]:
        url = f"https://{self._ends.address}:{self.gateway.port}"
        return self.gateway.iso(f"run-{uuid.uuid4()}", url=url)

    def _boot(
        self, iso: dict[str, object], machine: uuid.UUID, disk: Disk, cut_after: int | None = None
    ) -> tuple[Measured, str]:
        self._boots += 1
        disk.forget()
        gateway, ends = self.gateway, self._ends
        source, site, wire = cpu_of_ended_children(), cpu_of(gateway.service.pid), ends.wire_bytes()
        begun = time.monotonic()
        place = self._directory / f"boot-{self._boots}"
        agent = Agent(
            place, iso, [disk.image], identity=machine, prefix=ends.prefix, source=self._source, env=self._live_system()
        )
        with agent, PeakMemory({"source": agent.pid, "site": gateway.service.pid}) as memory:
            self._wait(agent, lambda: bool(_migration(agent)))
            boot = time.monotonic() - begun, cpu_of(agent.pid)
            migration = _migration(agent)
            if cut_after is None:
                # The log and not the API: asking would cost the gateway what is measured here.
                self._wait(agent, lambda: f"{migration}: copied and verified" in gateway.log_text())
                wall, site = time.monotonic() - begun, cpu_of(gateway.service.pid) - site
                if agent.finish() != 0:
                    raise RuntimeError(f"the agent has failed:\n{agent.text}{tail(agent.log)}")
            else:
                self._wait(agent, lambda: ends.wire_bytes() - wire >= cut_after)
                agent.kill()
                wall, site = time.monotonic() - begun, cpu_of(gateway.service.pid) - site
        source, wire = cpu_of_ended_children() - source, ends.wire_bytes() - wire
        return Measured(wall, source, site, wire, memory.peaks["source"], memory.peaks["site"], *boot), migration

    def _live_system(self) -> dict[str, str]:
        """What the ISO's live system gives the agent: the kernel's settings of its network, and OpenSSL's."""
        live = self._checkout / _LIVE
        if self._ends.prefix:
            for path in sorted((live / "etc/sysctl.d").glob("*.conf")):
                for key, value in re.findall(r"^(net\.ipv4\.\S+)\s*=\s*(.+)$", path.read_text(), re.MULTILINE):
                    subprocess.run([*self._ends.prefix, "sysctl", "-q", f"{key}={value}"], check=True)
        choose = live / "usr/lib/coldmig/choose-ciphers"
        if not choose.exists():
            return self._env
        settings = self._directory / "openssl.cnf"
        subprocess.run(["sh", choose, settings], check=True)
        return self._env | {"OPENSSL_CONF": str(settings)}

    def warm_up(self) -> None:
        """Have Python compile the agent: that belongs to a boot, not to a copy."""
        words = [sys.executable, "-m", "coldmig_agent", "--version"]
        subprocess.run(words, env=python_path(*self._source) | self._env, check=True, stdout=subprocess.DEVNULL)

    @staticmethod
    def _wait(agent: Agent, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not reached():
            if not agent.alive or time.monotonic() > deadline:
                raise RuntimeError(f"the copy was not made:\n{agent.text}{tail(agent.log)}")
            time.sleep(0.02)

    def _verify(self, disk: Disk, migration: str) -> None:
        arrived = self.gateway.image(migration, 0, self._directory / "arrived.raw", disk.size)
        wrong = difference(disk, arrived)
        arrived.unlink()
        if wrong is not None:
            raise RuntimeError(f"{NAME}, {disk.name}: {wrong}")


def _with_bytecode(directory: Path) -> dict[str, str]:
    """Python keeps what it compiles, in the benchmark's directory and not in the checkout."""
    return {"PYTHONPYCACHEPREFIX": str(directory / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}


def _migration(agent: Agent) -> str:
    """The migration that a boot has become; empty before that. The console shows it up to a second after the log."""
    found = re.search(r"registered as migration ([0-9a-f-]{36})", agent.log.read_text(errors="replace"))
    return found[1] if found else ""


@contextmanager
def site(ends: Ends, directory: Path, checkout: Path = ROOT) -> Iterator[Ours]:
    """A gateway that listens at the site's end of a link; ``checkout`` is where the product is taken from."""
    source = checkout / _GATEWAY
    gateway = Gateway(
        directory / "site",
        names=("127.0.0.1", ends.address),
        listen="0.0.0.0",  # noqa: S104 - in a namespace of its own
        source=source,
        env=_with_bytecode(directory),
    )
    with gateway.init().start():
        gateway.activate()
        ours = Ours(gateway, ends, directory, checkout)
        ours.warm_up()
        yield ours
