# SPDX-License-Identifier: GPL-3.0-or-later
"""The front: accepts TLS connections within limits and gives them to the application."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coldmig_gateway.dataplane.app import Application
from coldmig_gateway.dataplane.buffers import Buffers
from coldmig_gateway.dataplane.connection import RECEIVE_BYTES, Connection
from coldmig_gateway.dataplane.context import Context
from coldmig_gateway.dataplane.open_disks import OpenDisks
from coldmig_gateway.dataplane.relay import Address
from coldmig_gateway.dataplane.room import Room
from coldmig_gateway.dataplane.sessions import RecentSessions
from coldmig_gateway.dataplane.settings import FrontSettings
from coldmig_gateway.dataplane.shaping import Shaper
from coldmig_gateway.dataplane.site import Site
from coldmig_gateway.dataplane.tls import ServerCertificate
from coldmig_gateway.dataplane.turns import Bounded, Turns
from coldmig_gateway.dataplane.verifier import Verifier

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_HOUSEKEEPING_SECONDS = 5.0
_IO_THREADS = 32
_RATES_SECONDS = 2.0
_STILL_SECONDS = 2.0


async def serve(settings: FrontSettings, site: Site, *, ready: Callable[[int], None] | None = None) -> None:
    """Serves until it is cancelled. ``ready`` is called with the port once connections are accepted.

    Raises OSError if the address or the certificate cannot be used.
    """
    limits = settings.limits
    _raise_descriptor_limit()
    certificate = ServerCertificate(settings.certificate, settings.key)
    with (
        _listen(settings.host, settings.port) as listener,
        ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="data-io") as io,
        ThreadPoolExecutor(limits.verify_threads, thread_name_prefix="data-verify") as workers,
    ):
        disks = OpenDisks(io)
        recent = RecentSessions()

        def copied(migration_id: str) -> None:
            recent.forget(migration_id)
            disks.let_go(migration_id)

        verifier = Verifier(site, disks, io, copied)
        shaper = Shaper()
        context = Context(
            site, disks, verifier, limits, io, workers,
            recent=recent,
            buffers=Buffers(limits.spare_buffers),
            batches=Turns(limits.batches),
            posts=Bounded(limits.posts_per_migration),
            shaper=shaper,
            room=Room(settings.staging_reserve_bytes),
        )  # fmt: skip
        front = _Front(settings, Application(context, settings.control_socket), certificate)
        chores = [
            asyncio.create_task(front.keep_house(disks, verifier)),
            asyncio.create_task(_follow_rates(site, shaper, io)),
        ]
        await verifier.resume()
        try:
            if ready is not None:
                ready(listener.getsockname()[1])
            await front.accept(listener)
        finally:
            for chore in chores:
                chore.cancel()
            await front.stop()
            await verifier.stop()
            await disks.close_all()


async def _follow_rates(site: Site, shaper: Shaper, io: ThreadPoolExecutor) -> None:
    """Limits may be changed while copies run."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            shaper.set_rates(await loop.run_in_executor(io, site.rates))
        except Exception:
            _log.exception("the bandwidth limits could not be read; the former ones stay")
        await asyncio.sleep(_RATES_SECONDS)


def _raise_descriptor_limit() -> None:
    """Each connection takes a descriptor, a waiting agent's two; each open disk up to twenty."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int) -> socket.socket:
    version = ipaddress.ip_address(host).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    listener = socket.create_server(
        (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
    )
    listener.setblocking(False)
    return listener


class _Front:
    """The accepted connections."""

    def __init__(self, settings: FrontSettings, application: Application, certificate: ServerCertificate) -> None:
        self._limits = settings.limits
        self._application = application
        self._certificate = certificate
        self._free = asyncio.Semaphore(settings.limits.connections)
        self._by_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._scratch = bytearray(RECEIVE_BYTES)

    async def accept(self, listener: socket.socket) -> None:
        """Accepts connections; where there are too many, the one that has stood still for longest goes."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer_socket, peer = await loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors, or the peer has gone already: not a reason to stop.
                _log.warning("accept: %s", error)
                await asyncio.sleep(0.2)
                continue
            try:
                await self._find_place()
            except BaseException:
                peer_socket.close()
                raise
            task = asyncio.create_task(self._serve(peer_socket, (peer[0], peer[1])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _find_place(self) -> None:
        while self._free.locked():
            stillest = max(self._connections, key=lambda connection: connection.still_for, default=None)
            if stillest is not None and stillest.still_for > _STILL_SECONDS:
                stillest.abort()
            await asyncio.sleep(0.05)
        await self._free.acquire()

    async def _serve(self, peer_socket: socket.socket, peer: Address) -> None:
        self._by_address[peer[0]] += 1
        try:
            if self._by_address[peer[0]] > self._limits.connections_per_address:
                _log.warning("%s: more than %d connections", peer[0], self._limits.connections_per_address)
                peer_socket.close()
                return
            await self._serve_tls(peer_socket, peer)
        finally:
            self._by_address[peer[0]] -= 1
            if not self._by_address[peer[0]]:
                del self._by_address[peer[0]]
            self._free.release()

    async def _serve_tls(self, peer_socket: socket.socket, peer: Address) -> None:
        local = peer_socket.getsockname()
        peer_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(peer_socket, self._certificate.context(), self._scratch)
        self._connections.add(connection)
        try:
            try:
                async with asyncio.timeout(self._limits.head_seconds):
                    await connection.handshake()
            except OSError as error:
                # Scanners and clients that do not trust the certificate end here.
                _log.info("%s: no TLS connection: %s", peer[0], error or type(error).__name__)
                return
            await self._application.handle(connection, peer, (local[0], local[1]))
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def keep_house(self, disks: OpenDisks, verifier: Verifier) -> None:
        """Ends connections whose peer stands still, and closes staging that nobody uses."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            for connection in tuple(self._connections):
                if connection.still_for > self._limits.stalled_seconds:
                    connection.abort()
            await disks.close_idle(self._limits.staging_idle_seconds)
            verifier.retry()

    async def stop(self) -> None:
        """Ends all connections; what they have appended stays."""
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
