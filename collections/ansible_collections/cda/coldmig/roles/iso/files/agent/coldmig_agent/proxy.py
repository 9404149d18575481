# SPDX-License-Identifier: GPL-3.0-or-later
"""The way through an HTTP proxy: CONNECT (RFC 9110, 9.3.6) with a user name and a password (RFC 7617).

Control plane and data plane both go this way. What a proxy answers is hostile input: bounded, and cleaned before shown.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl

from coldmig_agent.config import Endpoint
from coldmig_agent.text import clean

MAX_ANSWER = 16 << 10
_STATUS = re.compile(rb"^HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_SCHEME = re.compile(rb"^proxy-authenticate:[ \t]*([A-Za-z0-9_-]{1,40})", re.IGNORECASE | re.MULTILINE)
_GATEWAY_ERRORS = frozenset({500, 502, 503, 504})


class ProxyError(OSError):
    """The proxy does not let this machine through; the text says why and what to try."""


def authority(endpoint: Endpoint) -> str:
    """``host:port``, with brackets for an IPv6 address."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def request(proxy: Endpoint, site: Endpoint) -> bytes:
    """The request that asks the proxy for a way to the site."""
    target = authority(site)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user is not None:
        pair = f"{proxy.user}:{proxy.password or ''}".encode()
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(pair).decode())
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def refusal(status: int, schemes: tuple[str, ...], proxy: Endpoint, site: Endpoint) -> str:
    """The sentence for an answer that is not 2xx."""
    name = f"the proxy {authority(proxy)}"
    if status == 407:
        if schemes and "basic" not in schemes:
            kinds = ", ".join(schemes)
            return f"{name} wants a login by {kinds}, and only Basic is possible; have it let this machine through"
        if proxy.user is None:
            return f"{name} wants a user name and a password; set them for the proxy"
        return f"{name} refuses the user name {clean(proxy.user, 80)!r} or its password; check both"
    if status == 403:
        return f"{name} forbids connections to {authority(site)}; ask who runs it to allow them"
    if status in _GATEWAY_ERRORS:
        return f"{name} cannot reach {authority(site)} (HTTP {status}); is the site's address right?"
    return f"{name} answers with HTTP {status}; does it allow CONNECT to port {site.port}?"


def open_way(sock: socket.socket, proxy: Endpoint, site: Endpoint) -> None:
    """Ask the proxy on ``sock`` for a way to the site; then the socket leads there. Raises ProxyError and OSError."""
    sock.sendall(request(proxy, site))
    answer = bytearray()
    while b"\r\n\r\n" not in answer and b"\n\n" not in answer:
        # The site says nothing before it is spoken to, so that nothing of it can be read here.
        part = sock.recv(MAX_ANSWER)
        answer += part
        if not part or len(answer) > MAX_ANSWER:
            break
    found = _STATUS.match(answer)
    if found is None:
        what = "closes the connection" if not answer else "does not answer like an HTTP proxy"
        raise ProxyError(f"the proxy {authority(proxy)} {what}; are its address and port right?")
    status = int(found[1])
    if not 200 <= status < 300:
        schemes = tuple(scheme.decode().lower() for scheme in _SCHEME.findall(bytes(answer)))
        raise ProxyError(refusal(status, schemes, proxy, site))


class ProxiedConnection(http.client.HTTPSConnection):
    """HTTPS to the site by way of a proxy; TLS is with the site."""

    def __init__(self, site: Endpoint, proxy: Endpoint, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(site.host, site.port, context=context, timeout=timeout)
        self._site, self._proxy, self._tls, self._seconds = site, proxy, context, timeout

    def connect(self) -> None:
        """Open the connection. Raises OSError (ProxyError, ssl.SSLError)."""
        sock = socket.create_connection((self._proxy.host, self._proxy.port), self._seconds)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_way(sock, self._proxy, self._site)
            self.sock = self._tls.wrap_socket(sock, server_hostname=self._site.host)
        except BaseException:
            sock.close()
            raise
