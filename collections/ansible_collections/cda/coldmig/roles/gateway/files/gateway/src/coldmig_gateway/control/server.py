# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the API on a listening socket until told to stop."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn

from coldmig_gateway.api.app import create_app
from coldmig_gateway.api.context import Context
from coldmig_gateway.config import Settings
from coldmig_gateway.control.proxy_protocol import ProxiedHttpProtocol
from coldmig_gateway.store.database import Database


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT, or the end of standard input, which means that the parent process is gone."""
    database = Database(settings.database)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Context(settings, database)),
            http=ProxiedHttpProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            proxy_headers=False,  # the PROXY line says it, clients may not
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
        )
    )

    async def serve() -> None:
        watch = asyncio.create_task(_stop_with_parent(server))
        try:
            await server.serve(sockets=[listener])
        finally:
            watch.cancel()

    try:
        asyncio.run(serve())
    finally:
        database.close()


async def _stop_with_parent(server: uvicorn.Server) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    server.should_exit = True
