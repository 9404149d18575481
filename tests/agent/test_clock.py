# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock of the live system is set once by a time server: real packets over a real socket, and what is wrong."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from coldmig_agent import clock
from coldmig_agent.clock import Offset, TimeServerError

UNIX_TO_NTP = 2_208_988_800
Answer = Callable[[bytes], bytes | None]


def stamp(unix: float) -> bytes:
    return struct.pack(">II", int(unix + UNIX_TO_NTP) & 0xFFFFFFFF, int(unix % 1 * (1 << 32)))


def answer(question: bytes, unix: float, first: int = 0x24, stratum: int = 2) -> bytes:
    return bytes([first, stratum, 6, 0xEC]) + b"\0" * 8 + b"RATE" + stamp(unix) + question[40:48] + 2 * stamp(unix)


class Server:
    """A time server; ``reply`` makes an answer of a question, or None."""

    def __init__(self, reply: Answer) -> None:
        self.questions: list[bytes] = []
        self._reply = reply
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self._sock.recvfrom(1024)
            except OSError:
                return
            self.questions.append(question)
            said = self._reply(question)
            if said is not None:
                self._sock.sendto(said, client)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def start(reply: Answer) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("ahead", [3600.0 * 24 * 365 * 5, -90.0, 3600.0 * 24 * 365 * 15])
def test_the_offset_of_a_server_is_found(serve: Callable[[Answer], Server], ahead: float) -> None:
    server = serve(lambda question: answer(question, time.time() + ahead))
    offset = clock.ask("127.0.0.1", port=server.port)
    assert abs(offset.seconds - ahead) <= 1 + offset.delay
    (question,) = server.questions
    assert (len(question), question[0]) == (48, 0x23)  # version 4, client
    assert any(question[40:48])
    # Nothing but random bits: what the source's clock says is nobody's business.
    assert not any(question[1:40])


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda _question: b"\x24", "no time server"),
        (lambda question: answer(question, 2e9, first=0x23), "no time server"),
        (lambda question: answer(bytes(48), 2e9), "another question"),
        (lambda question: answer(question, 2e9, stratum=0), "gives no time (RATE)"),
        (lambda question: answer(question, 2e9, first=0xE4), "not synchronised"),
        (lambda question: answer(question, 2e9, stratum=16), "not synchronised"),
        (lambda question: answer(question, 2e9)[:40] + bytes(8), "holds no time"),
        (lambda _question: None, "UDP port 123"),
    ],
)
def test_an_answer_that_gives_no_time_is_explained(
    serve: Callable[[Answer], Server], reply: Answer, words: str
) -> None:
    with pytest.raises(TimeServerError) as caught:
        clock.ask("127.0.0.1", port=serve(reply).port, timeout=0.3)
    assert words in str(caught.value)


def test_a_name_that_nobody_knows_is_explained() -> None:
    with pytest.raises(TimeServerError, match=r"the name time\.invalid cannot be resolved"):
        clock.ask("time.invalid")


def test_the_clock_is_stepped_once_by_the_first_server_that_answers() -> None:
    asked, steps = [], []

    def query(server: str) -> Offset:
        asked.append(server)
        if server == "dead":
            raise TimeServerError("no answer")
        return Offset(86400.0, 0.01)

    said = clock.set_once(["dead", "good", "better"], query=query, change=steps.append)
    assert (asked, steps) == (["dead"] * clock.TRIES + ["good"], [86400.0])
    assert said == "the clock of the live system was set forward by 86400.0 s (good)"


def test_a_clock_that_is_right_is_left_alone() -> None:
    steps: list[float] = []
    assert "agrees" in clock.set_once(["good"], query=lambda _server: Offset(-0.3, 0.0), change=steps.append)
    assert steps == []


def test_without_an_answer_every_server_is_named() -> None:
    def query(server: str) -> Offset:
        raise TimeServerError(f"no answer of {server}")

    with pytest.raises(TimeServerError, match="a: no answer of a; b: no answer of b"):
        clock.set_once(["a", "b"], query=query)


def test_the_background_thread_tries_until_a_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([TimeServerError("x"), TimeServerError("x"), TimeServerError("x"), "done"])

    def set_once(_servers: object) -> str:
        result = next(tries)
        if isinstance(result, TimeServerError):
            raise result
        return result

    monkeypatch.setattr(clock, "set_once", set_once)
    monkeypatch.setattr(clock, "RETRY_SECONDS", (0.0, 0.0))
    said: list[str] = []
    thread = clock.start(["a"], threading.Event(), said.append)
    assert thread is not None
    thread.join(60)
    assert said == ["no time server answers: x", "done"]
    assert clock.start([], threading.Event(), said.append) is None
