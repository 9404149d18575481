# SPDX-License-Identifier: GPL-3.0-or-later
"""A man in the middle who has the site's CA: ends TLS towards the agent and changes the frames that pass.

What no network can do below TLS, a bad memory module in a proxy or in the gateway could.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coldmig_gateway import pki
from coldmig_wire.frames import HEADER, Frame

from .relay import LoopThread, reset

_HEAD = 64 << 10


@dataclass(frozen=True)
class Sent:
    """A frame as it was sent: its header (with the bytes) and its payload."""

    frame: Frame
    header: bytes
    payload: bytes

    @property
    def bytes(self) -> bytes:
        """As on the wire."""
        return self.header + self.payload


#: What becomes of the frames of one request.
Change = Callable[[Sequence[Sent]], Sequence[Sent]]


def unchanged(frames: Sequence[Sent]) -> Sequence[Sent]:
    """Everything as it came."""
    return frames


def flipped(sent: Sent, chance: random.Random) -> Sent:
    """The frame with one bit of its payload turned."""
    payload = bytearray(sent.payload)
    place = chance.randrange(len(payload))
    payload[place] ^= 1 << chance.randrange(8)
    return Sent(sent.frame, sent.header, bytes(payload))


def split(body: bytes) -> list[Sent]:
    """The frames of a request's body. Raises FrameError."""
    found = []
    offset = 0
    while offset < len(body):
        header = body[offset : offset + HEADER]
        frame = Frame.unpack(header)
        found.append(Sent(frame, header, body[offset + HEADER : offset + HEADER + frame.length]))
        offset += HEADER + frame.length
    return found


class Middle:
    """Listens on ``port`` with a certificate of the site's CA and passes all requests on, frames by way of ``change``.

    ``seen`` are the headers of all frames that agents sent, in order of arrival; ``requests`` counts requests with
    frames.
    """

    def __init__(self, pki_dir: Path, work: Path, target: int, change: Change = unchanged) -> None:
        self.change = change
        self.seen: list[Frame] = []
        self.requests = 0
        work.mkdir(parents=True, exist_ok=True)
        for name in ("ca.pem", "ca.key"):
            shutil.copyfile(pki_dir / name, work / name)
        pki.ensure_server(work, ["127.0.0.1", "localhost"])
        self._show = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._show.load_cert_chain(work / "server.pem", work / "server.key")
        self._trust = ssl.create_default_context(cafile=work / "ca.pem")
        self._target = target
        self._thread = LoopThread()
        self._through = asyncio.Event()
        self._through.set()
        self._server: asyncio.Server = self._thread.do(self._start())
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Middle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold(self) -> None:
        """Keep requests with frames, whole, instead of passing them on."""
        self._thread.loop.call_soon_threadsafe(self._through.clear)

    def release(self) -> None:
        """Pass on what was kept, whether or not its sender is still there."""
        self._thread.loop.call_soon_threadsafe(self._through.set)

    def close(self) -> None:
        """Stop."""
        if not self._thread.loop.is_closed():
            self._thread.loop.call_soon_threadsafe(self._server.close)
            self._thread.end()

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._show, limit=_HEAD)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            back, server = await asyncio.open_connection("127.0.0.1", self._target, ssl=self._trust)
        except OSError:
            reset(client)
            return
        answers = asyncio.create_task(_copy(back, client))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                head, body = await self._request(head, reader, client)
                server.write(head + body)
                await server.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two has gone, or this is the end
        finally:
            answers.cancel()
            for writer in (client, server):
                writer.close()

    async def _request(
        self, head: bytes, reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> tuple[bytes, bytes]:
        lines = head[:-4].split(b"\r\n")
        fields = {line.split(b":", 1)[0].lower(): line.split(b":", 1)[1].strip() for line in lines[1:]}
        if fields.get(b"expect", b"").lower() == b"100-continue":
            client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = [line for line in lines if not line.lower().startswith(b"expect:")]
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        if lines[0].startswith(b"POST /data/v1/frames "):
            frames = split(body)
            self.seen += [sent.frame for sent in frames]
            self.requests += 1
            body = b"".join(sent.bytes for sent in self.change(frames))
            lines = [line for line in lines if not line.lower().startswith(b"content-length:")]
            lines.append(b"Content-Length: %d" % len(body))
            await self._through.wait()
        return b"\r\n".join(lines) + b"\r\n\r\n", body


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(64 << 10):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
