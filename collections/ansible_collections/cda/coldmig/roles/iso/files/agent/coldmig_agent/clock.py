# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets the live system's clock once, from a time server (RFC 4330, the simple form of NTP).

The source's hardware clock must stay as it is: a Windows of its owner would boot with a shifted time. Setting the
kernel's clock by itself does not touch it; only a clock that a daemon keeps synchronised is written to it by the kernel
every eleven minutes (drivers/rtc, kernel/time/ntp.c). So there is one step, and nothing that says "synchronised".
"""

from __future__ import annotations

import itertools
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coldmig_agent.text import clean

PORT = 123
TIMEOUT = 3.0
TRIES = 3
#: Soon again while the network comes up, seldom later.
RETRY_SECONDS = (5.0, 5.0, 5.0, 10.0, 20.0, 60.0)
#: Differences below this are not worth a step.
LEAST_SECONDS = 0.5
_PACKET = 48
#: From the beginning of 1900 to that of 1970.
_EPOCH = 2_208_988_800
_ERA = 1 << 32
#: Nothing before the first release of this agent is the time of day.
_NOT_BEFORE = 1_767_225_600  # 2026-01-01


class TimeServerError(RuntimeError):
    """A server gave no usable time; the text says why."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How many seconds the server is ahead, and how long the answer took."""

    seconds: float
    delay: float


def _seconds(data: bytes, at: int) -> float:
    """A 64-bit timestamp as Unix time; of its eras (2036!) the one that is not in the past."""
    whole, fraction = struct.unpack_from(">II", data, at)
    unix: int = whole - _EPOCH
    while unix < _NOT_BEFORE:
        unix += _ERA
    return unix + int(fraction) / _ERA


def read_answer(data: bytes, cookie: bytes, sent: float, received: float) -> Offset:
    """The offset that an answer gives; ``sent`` and ``received`` are our own clock's. Raises TimeServerError."""
    if len(data) < _PACKET or data[0] & 7 != 4:
        raise TimeServerError("what answers is no time server")
    if data[24:32] != cookie:
        raise TimeServerError("the answer is to another question")
    if data[0] >> 6 == 3 or not 1 <= data[1] <= 15:
        reason = clean(data[12:16].decode("ascii", "replace"), 4) if data[1] == 0 else "it is not synchronised itself"
        raise TimeServerError(f"the server gives no time ({reason})")
    if not any(data[40:48]):
        raise TimeServerError("the answer holds no time")
    arrived, left = _seconds(data, 32), _seconds(data, 40)
    return Offset(((arrived - sent) + (left - received)) / 2, max(0.0, (received - sent) - (left - arrived)))


def ask(server: str, *, port: int = PORT, timeout: float = TIMEOUT) -> Offset:
    """Ask one server. Raises TimeServerError."""
    try:
        found = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise TimeServerError(f"the name {server} cannot be resolved ({error.strerror})") from error
    family, kind, protocol, _name, address = found[0]
    cookie = secrets.token_bytes(8)
    question = bytes([4 << 3 | 3]) + bytes(39) + cookie
    try:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(timeout)
            sock.connect(address)
            started, sent = time.monotonic(), time.time()
            sock.send(question)
            data = sock.recv(1024)
            # By the clock that nobody sets meanwhile.
            return read_answer(data, cookie, sent, sent + (time.monotonic() - started))
    except TimeoutError as error:
        raise TimeServerError("no answer; is UDP port 123 open on the way?") from error
    except OSError as error:
        raise TimeServerError(error.strerror or str(error)) from error


def step(seconds: float) -> None:
    """Set the kernel's clock forward or back. Raises OSError without the right to."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def set_once(
    servers: Sequence[str], *, query: Callable[[str], Offset] = ask, change: Callable[[float], None] = step
) -> str:
    """Ask the servers in turn and set the clock by the first that answers. The sentence says what was done.

    Raises TimeServerError when none answers.
    """
    problems = []
    for server in servers:
        problem = ""
        for _attempt in range(TRIES):
            try:
                offset = query(server)
            except TimeServerError as error:
                problem = f"{server}: {error}"
                continue
            if abs(offset.seconds) < LEAST_SECONDS:
                return f"the clock agrees with {server}"
            try:
                change(offset.seconds)
            except OSError as error:
                raise TimeServerError(f"the clock cannot be set: {error.strerror}") from error
            way = "forward" if offset.seconds > 0 else "back"
            return f"the clock of the live system was set {way} by {abs(offset.seconds):.1f} s ({server})"
        problems.append(problem)
    raise TimeServerError("; ".join(problems))


def start(servers: Sequence[str], stop: threading.Event, say: Callable[[str], None]) -> threading.Thread | None:
    """Set the clock in the background, as soon as a server answers; None where there are no servers."""
    if not servers:
        return None

    def work() -> None:
        told = ""
        for attempt in itertools.count():
            try:
                say(set_once(servers))
                return
            except TimeServerError as error:
                problem = str(error)
            last = attempt >= len(RETRY_SECONDS) - 1
            if last and problem != told:
                told = problem
                say(f"no time server answers: {problem}")
            if stop.wait(RETRY_SECONDS[-1] if last else RETRY_SECONDS[attempt]):
                return

    thread = threading.Thread(target=work, name="clock", daemon=True)
    thread.start()
    return thread
