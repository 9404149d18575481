# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP connections that begin with a line of the PROXY protocol, version 1.

The front relays connections byte for byte and says in this line who is at the other end. Format: HAProxy's
``proxy-protocol.txt``, section 2.1: ``PROXY TCP4|TCP6 <source> <destination> <source port> <destination port>`` or
``PROXY UNKNOWN …``, ended by CRLF, at most 107 bytes with it.
"""

from __future__ import annotations

import asyncio
import ipaddress

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_LINE = 107


class ProxyLineError(ValueError):
    """The connection does not begin with a PROXY line."""


def parse_proxy_line(line: bytes) -> tuple[str, int] | None:
    """Source address and port from a line without its CRLF; None when the front did not know them."""
    words = line.split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return None
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyLineError("not a PROXY line")
    try:
        address = ipaddress.ip_address(words[2].decode("ascii"))
        port = int(words[4])
    except ValueError:
        raise ProxyLineError("the PROXY line holds no address") from None
    return str(address), port


class ProxiedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, behind the PROXY line."""

    _head: bytearray | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the line."""
        super().connection_made(transport)
        self._head = bytearray()
        self.client = None
        self.scheme = "https"  # the front speaks nothing else

    def data_received(self, data: bytes) -> None:
        """Take the line off the beginning of the stream."""
        if self._head is None:
            super().data_received(data)
            return
        self._head += data
        end = self._head.find(b"\r\n", 0, MAX_LINE)
        if end < 0:
            if len(self._head) >= MAX_LINE:
                self.transport.abort()
            return
        try:
            self.client = parse_proxy_line(bytes(self._head[:end]))
        except ProxyLineError:
            self.transport.abort()
            return
        rest = bytes(self._head[end + 2 :])
        self._head = None
        if rest:
            super().data_received(rest)
