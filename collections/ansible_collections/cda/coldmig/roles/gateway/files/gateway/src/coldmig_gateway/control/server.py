# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the API on a listening socket until told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import uvicorn

from coldmig_gateway.api.app import create_app
from coldmig_gateway.api.context import Context
from coldmig_gateway.config import Settings
from coldmig_gateway.control.proxy_protocol import ProxiedHttpProtocol
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.janitor import Janitor

_log = logging.getLogger(__name__)

_PRESENCE_SECONDS = 10.0
#: A thread that computes keeps the event loop waiting for so long whenever that wants to go on; Python's own is 5 ms.
_SWITCH_SECONDS = 0.0005
_GC_THRESHOLDS = (20_000, 20, 20)


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT, or the end of standard input, which means that the parent process is gone."""
    database = Database(settings.database)
    context = Context(settings, database)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(context),
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
        tasks = [
            asyncio.create_task(_stop_with_parent(server)),
            asyncio.create_task(_every(_PRESENCE_SECONDS, partial(_write_presence, context))),
            asyncio.create_task(_every(settings.janitor_seconds, partial(_keep_order, context))),
        ]
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()

    sys.setswitchinterval(_SWITCH_SECONDS)
    # What is there now stays: to look through it again and again would hold up every request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        asyncio.run(serve())
    finally:
        database.close()


async def _every(seconds: float, function: Callable[[], None]) -> None:
    """Call something that may take its time, again and again; what goes wrong once may go well the next time."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(function)
        except Exception:
            _log.exception("%s failed", getattr(function, "func", function).__name__)


def _write_presence(context: Context) -> None:
    context.presence.flush(context.database, context.silent_after)


def _keep_order(context: Context) -> None:
    _write_presence(context)
    keep = timedelta(hours=context.settings.keep_ended_hours)
    Janitor(context.database, context.settings.staging, keep).run(context.heard_since)


async def _stop_with_parent(server: uvicorn.Server) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    server.should_exit = True
