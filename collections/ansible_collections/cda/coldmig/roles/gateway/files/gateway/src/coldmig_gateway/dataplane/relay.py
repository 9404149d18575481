# SPDX-License-Identifier: GPL-3.0-or-later
"""Passing a connection on to the control plane, byte for byte, with the peer's address in a PROXY line (version 1)."""

from __future__ import annotations

import asyncio
import ipaddress
from http import HTTPStatus
from pathlib import Path

from coldmig_gateway.dataplane.connection import Connection, ConnectionLostError
from coldmig_gateway.dataplane.problem import Problem

_PIECE = 64 << 10

Address = tuple[str, int]


def proxy_line(peer: Address, local: Address) -> bytes:
    """The line that says who is at the other end (HAProxy, proxy-protocol.txt, section 2.1)."""
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for address, _port in (peer, local)]
    if any(address.version == 6 for address in addresses):
        mapped = [address.ipv4_mapped if address.version == 6 else None for address in addresses]
        if all(mapped):
            addresses = [address for address in mapped if address is not None]
    source, destination = addresses
    if source.version != destination.version:
        return b"PROXY UNKNOWN\r\n"
    return f"PROXY TCP{source.version} {source} {destination} {peer[1]} {local[1]}\r\n".encode()


async def relay(connection: Connection, control_socket: Path, first: bytes) -> None:
    """Passes on ``first`` (PROXY line and head) and then everything in both directions until one side ends.

    Raises Problem 502 if the control plane does not answer.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(control_socket), limit=_PIECE)
    except OSError:
        raise Problem(HTTPStatus.BAD_GATEWAY, "control-plane-down", "the control plane does not answer") from None
    try:
        writer.write(first)
        pumps = {
            asyncio.create_task(_upstream(connection, writer)),
            asyncio.create_task(_downstream(reader, connection)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
    finally:
        writer.close()


async def _upstream(connection: Connection, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(await connection.read_some())
            await writer.drain()
    except (ConnectionLostError, OSError):
        return


async def _downstream(reader: asyncio.StreamReader, connection: Connection) -> None:
    try:
        while data := await reader.read(_PIECE):
            await connection.write(data)
    except (ConnectionLostError, OSError):
        return
