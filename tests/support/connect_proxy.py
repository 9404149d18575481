# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP proxy that knows CONNECT (RFC 9110, 9.3.6), with a user name and a password (RFC 7617), as its own process.

``ConnectProxy`` starts it; run as a program it serves until it is ended, with a line on its output for each connection:
``USER TARGET STATUS``, and ``bytes TARGET SENT RECEIVED`` when one ends.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from .processes import ROOT, Service, free_port, python_path

_BLOCK = 64 << 10
_MOST = 16 << 10


class ConnectProxy:
    """The process. A context manager; leaving it ends it.

    ``hosts``: names that only the proxy can resolve, with their addresses. ``scheme``: the kind of login it wants.
    """

    def __init__(
        self, log: Path, user: str, password: str, hosts: Mapping[str, str] | None = None, scheme: str = "Basic"
    ) -> None:
        self.port = free_port()
        self.log = log
        names = [f"{name}={address}" for name, address in (hosts or {}).items()]
        argv = [sys.executable, "-m", "support.connect_proxy", str(self.port), scheme, *names]
        env = python_path(ROOT / "tests") | {"PROXY_LOGIN": f"{user}:{password}", "PYTHONUNBUFFERED": "1"}
        self._service = Service("the proxy", argv, log, env)
        self._service.wait_until(lambda: "listening" in self.text)

    def __enter__(self) -> ConnectProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.kill()

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def answers(self, status: int) -> list[str]:
        """The targets that were asked for and got this answer."""
        words = [line.split() for line in self.text.splitlines()]
        return [word[1] for word in words if len(word) == 3 and word[2] == str(status)]

    def sent(self) -> int:
        """Bytes that clients sent through connections that have ended."""
        words = [line.split() for line in self.text.splitlines() if line.startswith("bytes ")]
        return sum(int(word[2]) for word in words)


class _Server:
    def __init__(self, login: str, scheme: str, hosts: Mapping[str, str]) -> None:
        self._login, self._scheme, self._hosts = login, scheme, hosts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _version = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        login = _login(headers.get("proxy-authorization", ""))
        user = login.partition(":")[0] or "-"
        if method != "CONNECT":
            return await self._refuse(writer, user, target, "405 Method Not Allowed")
        if self._scheme != "Basic" or login != self._login:
            extra = f'Proxy-Authenticate: {self._scheme} realm="laboratory"\r\n'
            return await self._refuse(writer, user, target, "407 Proxy Authentication Required", extra)
        host, _, port = target.rpartition(":")
        try:
            back, server = await asyncio.open_connection(self._hosts.get(host, host), int(port))
        except OSError:
            return await self._refuse(writer, user, target, "502 Bad Gateway")
        print(user, target, 200)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ways = await asyncio.gather(_pump(reader, server), _pump(back, writer))
        print("bytes", target, *ways)
        return None

    @staticmethod
    async def _refuse(writer: asyncio.StreamWriter, user: str, target: str, status: str, extra: str = "") -> None:
        print(user, target, status.split(" ", maxsplit=1)[0])
        writer.write(f"HTTP/1.1 {status}\r\n{extra}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()


def _login(header: str) -> str:
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> int:
    """One direction until its end; how many bytes."""
    count = 0
    with contextlib.suppress(OSError):
        while data := await source.read(_BLOCK):
            sink.write(data)
            await sink.drain()
            count += len(data)
    with contextlib.suppress(OSError):
        sink.write_eof()
    return count


async def _main(port: int, scheme: str, names: list[str]) -> None:
    hosts = dict(name.split("=", 1) for name in names)
    server = _Server(os.environ["PROXY_LOGIN"], scheme, hosts)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", port, limit=_MOST)
    print("listening")
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
