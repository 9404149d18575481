# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS to the site: one target, known by the certificate authority on the ISO and nothing else.

Every failure becomes a :class:`SiteError` whose text is a sentence for the person at the console.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import cast

from coldmig_agent import __version__
from coldmig_agent.config import Endpoint, SiteConfig
from coldmig_agent.text import clean

CONTROL_TIMEOUT = 20.0
DATA_TIMEOUT = 120.0
#: A control answer describes one migration; anything longer is not from a site.
MAX_ANSWER = 4 << 20
#: Idle connections are closed by gateways and by firewalls on the way; a fresh one costs a round trip or two.
IDLE_SECONDS = 20.0

# OpenSSL's x509_vfy.h; the ssl module has no name for it. A source machine's clock is often years off, and the trust
# anchor is the one certificate on the ISO, so a date proves nothing here.
_X509_V_FLAG_NO_CHECK_TIME = 0x200000
_HOST_MISMATCH = frozenset({62, 63, 64})  # X509_V_ERR_{HOSTNAME,EMAIL,IP_ADDRESS}_MISMATCH


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


def _authority(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def explain(error: Exception, config: SiteConfig) -> UnreachableError:  # noqa: PLR0911 - one sentence per cause
    """The sentence for a failed connection."""
    start = f"cannot reach {config.url}: "
    proxy = f" (through the proxy {_authority(config.proxy)})" if config.proxy else ""
    who = f"the proxy {_authority(config.proxy)}" if config.proxy else "the site"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOST_MISMATCH:
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


class Connection:
    """One reusable connection to the site. Not for use by two threads at once."""

    def __init__(self, config: SiteConfig, context: ssl.SSLContext, timeout: float) -> None:
        self._config = config
        self._context = context
        self._timeout = timeout
        self._http: http.client.HTTPSConnection | None = None
        self._used_at = 0.0

    def close(self) -> None:
        """Close it; the next request opens a new one."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _open(self) -> http.client.HTTPSConnection:
        if self._http is not None and time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
        if self._http is None:
            site, proxy = self._config.endpoint, self._config.proxy
            first = proxy or site
            connection = http.client.HTTPSConnection(
                first.host, first.port, context=self._context, timeout=self._timeout
            )
            if proxy is not None:
                headers = {}
                if proxy.user is not None:
                    pair = f"{proxy.user}:{proxy.password or ''}".encode()
                    headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair).decode()
                connection.set_tunnel(site.host, site.port, headers)
            self._http = connection
        return self._http

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: Sequence[bytes] = (),
        content_type: str | None = None,
        extra: Mapping[str, str] | None = None,
        limit: int = MAX_ANSWER,
    ) -> bytes:
        """Send one request and return the answer's body, at most ``limit`` bytes of it.

        ``body`` is sent part by part with its exact length stated before. Raises :class:`SiteError`; the connection is
        then closed and may be used again.
        """
        headers = {"Authorization": f"Bearer {token}", "User-Agent": f"coldmig-agent/{__version__}"}
        headers |= extra or {}
        if content_type is not None:
            headers["Content-Type"] = content_type
            headers["Content-Length"] = str(sum(len(part) for part in body))
        connection = self._open()
        try:
            try:
                connection.request(method, path, body=iter(body) if content_type else None, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # The site may have refused early and closed: its answer, if it arrived, says more than the broken pipe.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            status, will_close = response.status, response.will_close
            accepted = 200 <= status < 300
            most = limit if accepted else MAX_ANSWER
            data = response.read(most + 1)
            too_long = len(data) > most
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
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
        self._context = tls_context(config.ca_pem)

    def connection(self, timeout: float = CONTROL_TIMEOUT) -> Connection:
        """A new connection object; nothing is opened before the first request."""
        return Connection(self.config, self._context, timeout)
