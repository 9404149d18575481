# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole service: the front with the data plane in this process, the control plane in a child process.

They are two processes so that a busy copy cannot keep the API waiting, nor the API the copy. They live and die
together.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from coldmig_gateway.config import ConfigError, Settings
from coldmig_gateway.dataplane.server import serve
from coldmig_gateway.dataplane.settings import FrontSettings
from coldmig_gateway.errors import GatewayError
from coldmig_gateway.initialise import ensure_certificates
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.site import DatabaseSite

_log = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 107  # bytes: sockaddr_un
_STOP_SECONDS = 15.0
_RENEWAL_SECONDS = 24 * 3600.0


class ServiceError(GatewayError):
    """A part of the service ended by itself."""


def control_socket(settings: Settings) -> Path:
    """Where the control plane listens: in a directory that nobody else may enter.

    Raises:
        ConfigError: the path is longer than the name of a socket may be.
    """
    path = settings.state_dir / "run" / "control.sock"
    if len(bytes(path)) > _MAX_SOCKET_PATH:
        raise ConfigError(f"state_dir = {settings.state_dir}: too long, at most {_MAX_SOCKET_PATH - 17} bytes")
    return path


def listen_privately(path: Path) -> socket.socket:
    """A listening Unix socket that replaces what an earlier process left behind."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


def run(settings: Settings, config: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ServiceError: one of the two parts ended by itself; the other was stopped.
    """
    database = Database(settings.database)
    try:
        asyncio.run(_run(settings, config, _site(settings, database)))
    finally:
        database.close()


def _site(settings: Settings, database: Database) -> DatabaseSite:
    return DatabaseSite(database, settings.staging, silent_after=timedelta(seconds=settings.silent_seconds))


async def _run(settings: Settings, config: Path, site: DatabaseSite) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    path = control_socket(settings)
    with listen_privately(path) as listener:
        child = await _start_control_plane(config, listener)
    parts: set[asyncio.Task[Any]] = {
        asyncio.create_task(_front(settings, site, path), name="the front"),
        asyncio.create_task(child.wait(), name="the control plane"),
    }
    stopped = asyncio.create_task(stop.wait())
    renewal = asyncio.create_task(_renew_certificate(settings))
    try:
        await asyncio.wait({*parts, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            if part.done():
                raise ServiceError(f"{part.get_name()} has ended by itself: {_why(part)}")
        _log.info("stopping")
    finally:
        stopped.cancel()
        renewal.cancel()
        await _stop_child(child)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        path.unlink(missing_ok=True)


async def _start_control_plane(config: Path, listener: socket.socket) -> asyncio.subprocess.Process:
    # The child gets the listening socket itself, so it can be connected to from this moment on; its standard input ends
    # when this process does, however that happens.
    descriptor = listener.fileno()
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coldmig_gateway", "--config", str(config), "control-plane", str(descriptor)),
        stdin=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
    )


async def _front(settings: Settings, site: DatabaseSite, control: Path) -> None:
    front = FrontSettings(
        host=settings.listen,
        port=settings.port,
        certificate=settings.certificate_path,
        key=settings.certificate_key_path,
        control_socket=control,
        staging_reserve_bytes=settings.staging_reserve_bytes,
    )
    await serve(front, site, ready=lambda port: _log.info("listening on %s port %d", settings.listen, port))


async def _renew_certificate(settings: Settings) -> None:
    """Look every day; the front notices a new certificate by itself."""
    while True:
        await asyncio.sleep(_RENEWAL_SECONDS)
        try:
            await asyncio.to_thread(ensure_certificates, settings)
        except OSError:
            _log.exception("the certificate could not be renewed")


async def _stop_child(child: asyncio.subprocess.Process) -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), _STOP_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()


def _why(part: asyncio.Task[Any]) -> str:
    error = part.exception()
    return str(error) or type(error).__name__ if error else f"exit code {part.result()}"
