# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS to the site: one target, known by the certificate authority on the ISO and nothing else.

Every failure becomes a :class:`SiteError` whose text is a sentence for the person at the console.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from coldmig_agent import __version__
from coldmig_agent.config import Endpoint, SiteConfig
from coldmig_agent.proxy import ProxiedConnection, ProxyError, authority
from coldmig_agent.text import clean

CONTROL_TIMEOUT = 20.0
DATA_TIMEOUT = 120.0
#: For the way to the site and TLS: whoever does not answer then is tried again from the beginning.
CONNECT_TIMEOUT = 20.0
#: A control answer describes one migration; anything longer is not from a site.
MAX_ANSWER = 4 << 20
#: Idle connections are closed by gateways and by firewalls on the way; a fresh one costs a round trip or two.
IDLE_SECONDS = 60.0
#: What one write to the connection may hold: the timeout covers a whole write, and a slow link must not run into it.
_PIECE = 256 << 10
#: Smaller parts of a body are sent together with their neighbours.
_SMALL = 16 << 10
#: A peer that does not answer while nothing is under way is given up after 15 + 3 x 5 seconds.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))

# OpenSSL's x509_vfy.h; the ssl module has no name for it. A source machine's clock is often years off, and the trust
# anchor is the one certificate on the ISO, so a date proves nothing here.
_X509_V_FLAG_NO_CHECK_TIME = 0x200000
HOST_MISMATCH = frozenset({62, 63, 64})  # X509_V_ERR_{HOSTNAME,EMAIL,IP_ADDRESS}_MISMATCH


class SiteError(Exception):
    """The site could not do what was asked. The text says why, for the operator."""


class UnreachableError(SiteError):
    """No answer came: name, route, port, TLS or proxy. Worth another try."""


class CertificateError(UnreachableError):
    """Somebody answered who is not the site that this ISO was made for."""


class NotASiteError(SiteError):
    """Something answered over the right TLS, but not as a site does."""


class ProblemError(SiteError):
    """The site refused: an RFC 9457 problem document. ``slug`` is the last part of its type."""

    def __init__(self, status: int, slug: str, text: str, document: Mapping[str, object]) -> None:
        super().__init__(text)
        self.status = status
        self.slug = slug
        self.document = document


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Trusts ``ca_pem`` only, checks the host name, ignores dates. Raises ssl.SSLError when it holds no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    context.verify_flags |= ssl.VerifyFlags(_X509_V_FLAG_NO_CHECK_TIME) | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def explain(error: Exception, config: SiteConfig) -> UnreachableError:  # noqa: PLR0911 - one sentence per cause
    """The sentence for a failed connection."""
    start = f"cannot reach {config.url}: "
    proxy = f" (through the proxy {authority(config.proxy)})" if config.proxy else ""
    who = f"the proxy {authority(config.proxy)}" if config.proxy else "the site"
    if isinstance(error, ProxyError):
        return UnreachableError(start + str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in HOST_MISMATCH:
            reason = f"the certificate is not for {config.site_host}; the ISO's address and the site's must agree"
            return CertificateError(start + reason)
        return CertificateError(start + "certificate is not the one on this ISO" + proxy)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return UnreachableError(start + "the connection was closed during TLS" + proxy)
    if isinstance(error, ssl.SSLError):
        reason = clean(error.reason or "unknown", 80)
        return UnreachableError(start + f"TLS failed ({reason}); is this the site's port?" + proxy)
    if isinstance(error, socket.gaierror):
        host = config.proxy.host if config.proxy else config.site_host
        return UnreachableError(start + f"the name {host} cannot be resolved; check DNS on this network")
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(start + f"connection refused by {who}; is it running, and is the port right?")
    if isinstance(error, TimeoutError):
        return UnreachableError(start + f"no answer from {who}; check the route and the firewalls on the way")
    if isinstance(error, ConnectionError | http.client.HTTPException):
        return UnreachableError(start + "the connection was cut" + proxy)
    if isinstance(error, OSError):
        return UnreachableError(start + clean(error.strerror or str(error), 120) + proxy)
    return UnreachableError(start + clean(str(error), 120))


def problem_from(status: int, body: bytes) -> SiteError:
    """A typed error from an answer that is not 2xx."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return NotASiteError(f"the address answers with HTTP {status} but not as a site does; check the site's URL")
    slug = clean(str(document.get("type", "")), 120).rpartition(":")[2]
    title = clean(str(document.get("title", "")), 200)
    detail = clean(str(document.get("detail") or ""), 500)
    text = detail or title or f"HTTP {status}"
    errors = document.get("errors")
    if isinstance(errors, list) and errors:
        fields = [
            f"{clean(str(item.get('field', '?')), 80)}: {clean(str(item.get('message', '')), 160)}"
            for item in errors[:3]
            if isinstance(item, dict)
        ]
        text = f"{text} ({'; '.join(fields)})"
    return ProblemError(status, slug, text, cast(Mapping[str, object], document))


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """What the kernel knows of a connection (struct tcp_info in linux/tcp.h). Times only grow while it is open."""

    socket: int
    unacknowledged: bool
    acknowledged_bytes: int
    silent_seconds: float
    #: With unsent or unacknowledged data, and of that: because the peer's window was closed.
    busy_seconds: float
    unread_seconds: float
    rtt_seconds: float


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """Ask the kernel; None where it does not say or the connection has gone."""
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        number = sock.fileno()
    except OSError:
        return None
    if len(data) < 192 or number < 0:
        return None
    (unacked,) = struct.unpack_from("I", data, 24)
    (last_ack_ms,) = struct.unpack_from("I", data, 56)
    (rtt_us,) = struct.unpack_from("I", data, 68)
    (unsent,) = struct.unpack_from("I", data, 144)
    busy_us, unread_us = struct.unpack_from("QQ", data, 168)
    (acked,) = struct.unpack_from("Q", data, 120)
    return TcpInfo(
        number, bool(unacked or unsent), acked, last_ack_ms / 1e3, busy_us / 1e6, unread_us / 1e6, rtt_us / 1e6
    )


def _pieces(body: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The body in pieces that are worth a write each and none of which is large."""
    small: list[bytes | memoryview] = []
    for part in body:
        if len(part) < _SMALL:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small.clear()
        view = memoryview(part)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
    if small:
        yield b"".join(small)


class Connection:
    """One reusable connection to the site. Not for use by two threads at once, but for :meth:`cut` and :meth:`info`."""

    def __init__(self, site: Site, timeout: float) -> None:
        self._site = site
        self._timeout = timeout
        self._opened_for: SiteConfig | None = None
        self._http: http.client.HTTPSConnection | None = None
        self._used_at = 0.0

    @property
    def _config(self) -> SiteConfig:
        return self._site.config

    def close(self) -> None:
        """Close it; the next request opens a new one."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _open(self) -> http.client.HTTPSConnection:
        config = self._config
        stale = self._opened_for is not config or time.monotonic() - self._used_at > IDLE_SECONDS
        if self._http is not None and stale:
            self.close()
        if self._http is None:
            site, proxy = config.endpoint, config.proxy
            seconds = min(CONNECT_TIMEOUT, self._timeout)
            connection = (
                http.client.HTTPSConnection(site.host, site.port, context=self._site.context, timeout=seconds)
                if proxy is None
                else ProxiedConnection(site, proxy, self._site.context, seconds)
            )
            connection.connect()
            connection.sock.settimeout(self._timeout)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
            self._http, self._opened_for = connection, config
        return self._http

    def open(self) -> None:
        """Open it before it is needed. Raises SiteError."""
        try:
            self._open()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise explain(error, self._config) from error
        self._used_at = time.monotonic()

    def info(self) -> TcpInfo | None:
        """What the kernel knows of the connection that is open now, if one is."""
        sock = getattr(self._http, "sock", None)
        return tcp_info(sock) if sock is not None else None

    def cut(self) -> None:
        """End what is open now, from another thread: whoever waits for it gets an error."""
        sock = getattr(self._http, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own method, which would take the TLS state away under the other thread's feet.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: Sequence[bytes | memoryview] = (),
        content_type: str | None = None,
        extra: Mapping[str, str] | None = None,
        limit: int = MAX_ANSWER,
        on_sent: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Send one request and return the answer's body, at most ``limit`` bytes of it.

        ``body`` is sent in pieces with its exact length stated before; ``on_sent`` is called behind it. Raises
        :class:`SiteError`; the connection is then closed and may be used again.
        """
        headers = {"Authorization": f"Bearer {token}", "User-Agent": f"coldmig-agent/{__version__}"}
        headers |= extra or {}
        reused = self._http is not None
        if content_type is not None:
            headers["Content-Type"] = content_type
            headers["Content-Length"] = str(sum(len(part) for part in body))
        try:
            connection = self._open()
            try:
                connection.request(method, path, body=_pieces(body) if content_type else None, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # The site may have refused early and closed: its answer, if it arrived, says more than the broken pipe.
                if connection.sock is None:
                    raise
            on_sent()
            response = connection.getresponse()
            status, will_close = response.status, response.will_close
            accepted = 200 <= status < 300
            most = limit if accepted else MAX_ANSWER
            data = response.read(most + 1)
            too_long = len(data) > most
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if reused and isinstance(error, ConnectionError | ssl.SSLEOFError) and sum(map(len, body)) <= _SMALL:
                # The other end, or a firewall, had closed what was idle: that says nothing about the site.
                return self.request(
                    method, path, token=token, body=body, content_type=content_type, extra=extra, limit=limit
                )
            raise explain(error, self._config) from error
        if too_long or will_close or not accepted:
            self.close()
        self._used_at = time.monotonic()
        if too_long:
            raise NotASiteError(f"the answer to {method} {path} is longer than {most} bytes; check the site's URL")
        if not accepted:
            raise problem_from(status, data)
        return data


class Site:
    """The site of this ISO: makes connections to it."""

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.context = tls_context(config.ca_pem)

    def use_proxy(self, proxy: Endpoint | None) -> None:
        """Go through this proxy from now on (None: directly). What is under way ends first."""
        self.config = replace(self.config, proxy=proxy)

    def connection(self, timeout: float = CONTROL_TIMEOUT) -> Connection:
        """A new connection object; nothing is opened before the first request."""
        return Connection(self, timeout)
