# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's certificate, taken up again when its files change."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

_log = logging.getLogger(__name__)

#: SSL_OP_PRIORITIZE_CHACHA, which Python has no name for: a client without AES instructions gets what is fast there.
_PRIORITIZE_CHACHA = 0x200000

_Stamp = tuple[tuple[int, int, int], ...]


class ServerCertificate:
    """Gives the TLS context for the next connection. Existing connections keep theirs."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Loads both PEM files. Raises OSError (ssl.SSLError is one) if they cannot be used."""
        self._certificate = certificate
        self._key = key
        self._stamp = self._files()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """The current context; a renewed certificate that cannot be used is reported and the old one kept."""
        try:
            stamp = self._files()
            if stamp != self._stamp:
                self._stamp = stamp
                self._context = self._load()
                _log.info("%s: the renewed certificate is in use", self._certificate)
        except OSError as error:
            _log.error("%s: cannot be used, the former certificate stays: %s", self._certificate, error)
        return self._context

    def _files(self) -> _Stamp:
        stats = [os.stat(path) for path in (self._certificate, self._key)]  # noqa: PTH116 - once per connection
        return tuple((status.st_mtime_ns, status.st_ino, status.st_size) for status in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= _PRIORITIZE_CHACHA
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key)
        return context
