# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent says to the site, with every answer checked before it is used."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coldmig_agent.ending import LEFT_OPEN, Act, AtEnd
from coldmig_agent.machine import Machine
from coldmig_agent.site import CONTROL_TIMEOUT, DATA_TIMEOUT, Connection, NotASiteError, Site, TcpInfo
from coldmig_agent.text import clean

STATES = frozenset(
    {"waiting", "confirmed", "copying", "copied", "importing", "finished", "failed", "canceled", "assessed"}
)
MAX_CODES = 200
MAX_DISKS = 256
MAX_CONNECTIONS = 8
FRAMES_TYPE = "application/vnd.coldmig.frames"
_JSON = "application/json"
_ID = re.compile(r"^[A-Za-z0-9-]{1,64}$")
_TOKEN = re.compile(r"^cm1_ses_[A-Za-z0-9_-]{43}$")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The answer to a registration. The token is the session's only secret and stays in memory."""

    migration_id: str
    session_token: str
    state: str
    poll_seconds: int
    name: str
    #: The machine is only looked at: there will be no copy.
    assess: bool = False


@dataclass(frozen=True, slots=True)
class DiskState:
    """One disk as the site has it; chunks of 1 MiB."""

    index: int
    size_bytes: int
    chunks: int
    have_chunks: int


@dataclass(frozen=True, slots=True)
class Queue:
    """This machine's turn when the site copies as many machines as it may: ``place`` of ``waiting``."""

    place: int
    waiting: int


@dataclass(frozen=True, slots=True)
class SessionState:
    """What the site says about this migration now. ``codecs``: in which forms it takes chunks."""

    state: str
    reason: str
    message: str
    poll_seconds: int
    disks: tuple[DiskState, ...]
    connections: int
    skip_free: bool = True
    codecs: tuple[str, ...] = ("grains",)
    queue: Queue | None = None
    #: Codes of the warnings that hold it back until somebody accepts them.
    blocked: tuple[str, ...] = ()
    at_end: AtEnd = LEFT_OPEN
    #: The template asks for the logs.
    collect_logs: bool = False


@dataclass(frozen=True, slots=True)
class FramesAnswer:
    """How many chunks of a request are durable at the site, and which it refused: (disk, chunk, reason)."""

    durable: int
    rejected: tuple[tuple[int, int, str], ...]


class _Answer:
    """A JSON object from the site; every getter raises NotASiteError for a value of another kind."""

    def __init__(self, data: object, what: str) -> None:
        if not isinstance(data, dict):
            raise NotASiteError(
                f"the site's answer ({what}) is not an object; are agent and gateway of the same release?"
            )
        self._data: Mapping[str, object] = data
        self._what = what

    def _wrong(self, key: str) -> NotASiteError:
        return NotASiteError(f"the site's answer ({self._what}.{key}) is not valid; are the releases the same?")

    def text(self, key: str, limit: int = 500) -> str:
        value = self._data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(key)
        return clean(value, limit)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or not pattern.match(value):
            raise self._wrong(key)
        return value

    def state(self) -> str:
        value = self._data.get("state")
        if not isinstance(value, str) or value not in STATES:
            raise self._wrong("state")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key)
        return value

    def clipped(self, key: str, low: int, high: int, default: int) -> int:
        value = self._data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key)
        return int(max(low, min(high, value)))

    def texts(self, key: str, most: int) -> Sequence[str]:
        value = self._data.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
            raise self._wrong(key)
        return [clean(item, 40) for item in value]

    def inner(self, key: str) -> _Answer | None:
        value = self._data.get(key)
        return None if value is None else _Answer(value, f"{self._what}.{key}")

    def flag(self, key: str) -> bool:
        value = self._data.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key)
        return value

    def items(self, key: str, most: int) -> Sequence[_Answer]:
        value = self._data.get(key)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(key)
        return [_Answer(item, f"{self._what}.{key}") for item in value]


def _parse(body: bytes, what: str) -> _Answer:
    try:
        return _Answer(json.loads(body), what)
    except (ValueError, RecursionError):
        raise NotASiteError(f"the site's answer ({what}) is not JSON; check the site's URL") from None


def parse_enrolment(body: bytes) -> Enrolment:
    """Check the answer to POST /enrolments."""
    answer = _parse(body, "enrolment")
    return Enrolment(
        migration_id=answer.matching("migration_id", _ID),
        session_token=answer.matching("session_token", _TOKEN),
        state=answer.state(),
        poll_seconds=answer.clipped("poll_seconds", 1, 300, 5),
        name=answer.text("name"),
        assess=answer.text("mode", 20) == "assess",
    )


def parse_session(body: bytes) -> SessionState:
    """Check the answer to GET /session."""
    answer = _parse(body, "session")
    disks = tuple(
        DiskState(
            index=item.whole("index", 0, 0xFFFF),
            size_bytes=item.whole("size_bytes", 1, 1 << 62),
            chunks=item.whole("chunks", 1, 1 << 42),
            have_chunks=item.whole("have_chunks", 0, 1 << 42, 0),
        )
        for item in answer.items("disks", MAX_DISKS)
    )
    return SessionState(
        state=answer.state(),
        reason=answer.text("reason"),
        message=answer.text("message"),
        poll_seconds=answer.clipped("poll_seconds", 1, 300, 5),
        disks=disks,
        connections=answer.clipped("connections", 1, MAX_CONNECTIONS, 4),
        skip_free=answer.text("skip_free", 20) != "never",
        codecs=tuple(answer.texts("codecs", 16)) or ("grains",),
        queue=_queue(answer),
        blocked=tuple(answer.texts("blocked", MAX_CODES)),
        at_end=_at_end(answer.inner("at_end")),
        collect_logs=answer.flag("collect_logs"),
    )


def _at_end(answer: _Answer | None) -> AtEnd:
    if answer is None:
        return LEFT_OPEN
    return AtEnd(_act(answer.text("success", 20)), _act(answer.text("failure", 20)))


def _act(word: str) -> Act | None:
    """What a newer site may ask for and we do not know is left open: to stay is always safe."""
    return Act(word) if word in set(Act) else None


def _queue(answer: _Answer) -> Queue | None:
    found = answer.inner("queue")
    return None if found is None else Queue(found.whole("place", 1, 1 << 31), found.whole("waiting", 1, 1 << 31))


def parse_frames_answer(body: bytes) -> FramesAnswer:
    """Check the answer to POST /data/v1/frames."""
    answer = _parse(body, "frames")
    rejected = tuple(
        (item.whole("disk", 0, 0xFFFF), item.whole("chunk", 0, 1 << 62), item.text("reason", 80))
        for item in answer.items("rejected", 4096)
    )
    return FramesAnswer(answer.whole("durable", 0, 1 << 42), rejected)


class ControlClient:
    """The control plane as one ISO and, after :meth:`enrol`, one session may use it."""

    def __init__(self, site: Site) -> None:
        self._connection: Connection = site.connection(CONTROL_TIMEOUT)

    def _post(self, path: str, token: str, document: object, extra: Mapping[str, str] | None = None) -> bytes:
        body = json.dumps(document, separators=(",", ":")).encode()
        return self._connection.request(
            "POST", "/api/v1" + path, token=token, body=[body], content_type=_JSON, extra=extra
        )

    def enrol(self, credential: str, machine: Machine, boot_key: str) -> Enrolment:
        """Register this boot of this machine as a new migration.

        ``boot_key`` is the same for all tries of one boot: a lost answer does not make a second migration.
        """
        extra = {"Idempotency-Key": boot_key}
        return parse_enrolment(self._post("/enrolments", credential, machine.to_json(), extra))

    def session(self, token: str) -> SessionState:
        """State of the migration."""
        return parse_session(self._connection.request("GET", "/api/v1/session", token=token))

    def progress(self, token: str, report: Mapping[str, object]) -> None:
        """Tell the site how far the copy is."""
        self._post("/session/progress", token, report)

    def unreadable(self, token: str, disks: Sequence[Mapping[str, object]]) -> None:
        """Tell the site which places of which disks could not be read; replaces what was said of these disks."""
        self._post("/session/unreadable", token, {"disks": disks})

    def failure(self, token: str, reason: str, detail: str) -> None:
        """Give up: the migration becomes ``failed`` with this reason."""
        self._post("/session/failure", token, {"reason": reason, "detail": detail})

    def logs(self, token: str, packed: bytes) -> None:
        """Send what :func:`coldmig_agent.logs.pack` gave."""
        body = json.dumps({"gzip": base64.b64encode(packed).decode()}).encode()
        self._connection.request("PUT", "/api/v1/session/logs", token=token, body=[body], content_type=_JSON)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class DataClient:
    """The data plane over one connection, for one session."""

    def __init__(self, site: Site, token: str) -> None:
        self._connection = site.connection(DATA_TIMEOUT)
        self._token = token

    def open(self) -> None:
        """Open the connection before it is needed. Raises SiteError."""
        self._connection.open()

    def have(self, disk: int, chunks: int) -> bytes:
        """Bitmap of the chunks that are durable at the site: bit ``i % 8`` of byte ``i // 8`` is chunk ``i``."""
        size = (chunks + 7) // 8
        body = self._connection.request("GET", f"/data/v1/disks/{disk}/have", token=self._token, limit=size)
        if len(body) != size:
            raise NotASiteError(f"the site's bitmap of disk {disk} has {len(body)} bytes instead of {size}")
        return body

    def known(self, disk: int, first: int, count: int) -> bytes | None:
        """8 bytes of digest for each of ``count`` chunks from ``first`` on that earlier attempts hold, else 8 zeros.

        None when there is no earlier attempt.
        """
        size = count * 8
        path = f"/data/v1/disks/{disk}/known?first={first}&count={count}"
        body = self._connection.request("GET", path, token=self._token, limit=size)
        if not body:
            return None
        if len(body) != size:
            raise NotASiteError(f"the site knows {len(body)} bytes of disk {disk} instead of {size}")
        return body

    def send(self, parts: Sequence[bytes | memoryview], on_sent: Callable[[], None] = lambda: None) -> FramesAnswer:
        """Send frames; the answer comes when what it counts is on the site's disk. ``on_sent``: now it is awaited."""
        body = self._connection.request(
            "POST",
            "/data/v1/frames",
            token=self._token,
            body=parts,
            content_type=FRAMES_TYPE,
            limit=1 << 20,
            on_sent=on_sent,
        )
        return parse_frames_answer(body)

    def tcp_info(self) -> TcpInfo | None:
        """What the kernel knows of the connection; for any thread."""
        return self._connection.info()

    def cut(self) -> None:
        """End the request that is under way; for any thread."""
        self._connection.cut()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
