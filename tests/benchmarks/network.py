# SPDX-License-Identifier: GPL-3.0-or-later
"""The links: two network namespaces of the benchmark's own, the site's and the source's, and what lies between them.

The benchmark itself runs in the site's (``enter``), so nothing of it can be seen or reached from outside. A link is the
loopback interface, a veth pair with a token bucket at both ends, or two TUN devices with token buckets and a process
that passes packets on after a delay (:mod:`tests.benchmarks.delay`): then both TCP stacks meet the round-trip time, as
they would not with a relay that ends connections.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MARK = "COLDMIG_BENCHMARK_NAMESPACE"
_SITE, _SOURCE = "10.77.0.1", "10.77.0.2"
#: A router's buffer: what may wait at the rate of the link.
_QUEUE = "50ms"


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between the source and the site. ``rate_mbit`` None: as fast as this machine is."""

    name: str
    rate_mbit: int | None = None
    rtt_ms: int = 0


LINKS = {
    link.name: link
    for link in (
        Link("loopback"),
        Link("1gbit", 1000),
        Link("1gbit+50ms", 1000, 50),
        Link("100mbit", 100),
        Link("100mbit+50ms", 100, 50),
    )
}


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the site listens, what comes before commands of the source, and the site's interface."""

    address: str
    prefix: Sequence[str]
    interface: str

    def wire_bytes(self) -> int:
        """Bytes that have crossed the link so far, both directions, with their packets' headers."""
        for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
            name, _, fields = line.partition(":")
            if name.strip() == self.interface:
                received, sent = int(fields.split()[0]), int(fields.split()[8])
                return sent if self.interface == "lo" else received + sent
        raise RuntimeError(f"there is no interface {self.interface}")


def enter() -> None:
    """Start this program again in a network namespace of its own, unless that was done. Needs root."""
    if os.environ.get(_MARK) == "1":
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    os.environ[_MARK] = "1"
    os.execvp("unshare", ["unshare", "--net", "--", sys.executable, *words, *sys.argv[1:]])  # noqa: S606 - no shell wanted


def _run(*command: str, prefix: Sequence[str] = ()) -> None:
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL)


def _shape(link: Link, interface: str, prefix: Sequence[str] = ()) -> None:
    if link.rate_mbit is not None:
        # A burst below the size of a segmentation-offload packet would have the kernel cut it up.
        bucket = ["rate", f"{link.rate_mbit}mbit", "burst", "128kb", "latency", _QUEUE]
        _run("tc", "qdisc", "add", "dev", interface, "root", "tbf", *bucket, prefix=prefix)


@contextmanager
def connect(link: Link) -> Iterator[Ends]:
    """Set the link up; take it down afterwards."""
    _run("ip", "link", "set", "lo", "up")
    if link.rate_mbit is None and not link.rtt_ms:
        yield Ends("127.0.0.1", (), "lo")
        return
    # The namespace lives as long as this process, which ends with its standard input.
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    delayer: subprocess.Popen[bytes] | None = None
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"there\n")
        holder.stdin.flush()
        holder.stdout.readline()
        inside = ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")
        if link.rtt_ms:
            argv = [sys.executable, "-m", "tests.benchmarks.delay", str(holder.pid), str(link.rtt_ms / 2)]
            delayer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert delayer.stdout is not None
            if not delayer.stdout.readline():
                raise RuntimeError("the delaying relay has not started")
        else:
            _run("ip", "link", "add", "site", "type", "veth", "peer", "name", "source", "netns", str(holder.pid))
        for name, address, peer, prefix in (("site", _SITE, _SOURCE, ()), ("source", _SOURCE, _SITE, inside)):
            _run("ip", "address", "add", address, "peer", f"{peer}/32", "dev", name, prefix=prefix)
            _run("ip", "link", "set", name, "up", prefix=prefix)
            _run("ip", "link", "set", "lo", "up", prefix=prefix)
            _shape(link, name, prefix)
        yield Ends(_SITE, inside, "site")
    finally:
        for process in (delayer, holder):
            if process is not None:
                process.kill()
                process.communicate()
        subprocess.run(["ip", "link", "delete", "site"], check=False, stderr=subprocess.DEVNULL)
