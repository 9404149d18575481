# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""One disk of an import: a streamOptimized VMDK that is POSTed, with its exact length, to a URL of the lease."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from ansible_collections.cda.coldmig.plugins.module_utils._http import root_cause
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import VcenterError

BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same upload may be taken."""
VMDK_MEDIA = "application/x-vnd.vmware-streamVmdk"


class UploadError(VcenterError):
    """A disk did not arrive; the lease was aborted and nothing of the VM is left.

    ``in_place``: the disk may be sent again in the same lease.
    """

    def __init__(self, message: str, *, transient: bool = False, in_place: bool = False) -> None:
        super().__init__(message, transient=transient or in_place)
        self.in_place = in_place


class StoppedError(UploadError):
    """This disk was given up because something else failed; never the error that a person has to see."""


class ByteSource(t.Protocol):
    """An open disk image: its exact length in bytes, and its bytes in order."""

    @property
    def length(self) -> int: ...

    def blocks(self) -> Iterator[bytes]: ...


OpenDisk = Callable[[int], contextlib.AbstractContextManager[ByteSource]]
"""Opens the image of the disk with this index, from its beginning."""


@dataclass(frozen=True)
class DeviceUrl:
    """Where one disk goes."""

    key: str
    url: str
    thumbprint: str


@dataclass(frozen=True)
class Sent:
    """What was sent for one disk."""

    length: int
    digest: str


def open_connection(target: DeviceUrl, vcenter_host: str, tls: ssl.SSLContext, timeout: float) -> HTTPSConnection:
    """A TLS connection to the URL's host, which is trusted by now or the connection is closed.

    Hosts have certificates of their own, often self-signed; the lease names the thumbprint to expect, which came over
    the verified connection to vCenter. Without one, and for vCenter itself, the certificate is verified like vCenter's.
    """
    parts = urlsplit(target.url)
    if parts.scheme != "https" or not parts.hostname:
        raise UploadError(f"the lease names {target.url!r}, which is no https URL")
    pinned = bool(target.thumbprint) and parts.hostname != vcenter_host and tls.verify_mode != ssl.CERT_NONE
    context = tls
    if pinned:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection = HTTPSConnection(parts.hostname, parts.port or 443, timeout=timeout, context=context)
    try:
        connection.connect()
        if pinned:
            certificate = t.cast(ssl.SSLSocket, connection.sock).getpeercert(binary_form=True) or b""
            expected = target.thumbprint.replace(":", "").lower()
            algorithm = {40: "sha1", 64: "sha256"}.get(len(expected))
            actual = hashlib.new(algorithm, certificate).hexdigest() if algorithm else None
            if actual != expected:
                raise UploadError(
                    f"{parts.hostname}: its certificate has the thumbprint {actual}, the lease promises {expected}"
                )
    except BaseException:
        connection.close()
        raise
    return connection


def send_disk(
    connection: HTTPSConnection,
    url: str,
    source: ByteSource,
    *,
    algorithm: str,
    report: Callable[[int], None],
    stop: threading.Event,
) -> Sent:
    """POST one image. *report* gets the number of bytes of each block; *stop* ends the upload.

    *algorithm* (sha1, sha256) is that of the digest of what was sent.

    Raises UploadError when the host refuses or the source has another length than it said.
    """
    parts = urlsplit(url)
    connection.putrequest("POST", parts.path + (f"?{parts.query}" if parts.query else ""), skip_accept_encoding=True)
    connection.putheader("Content-Type", VMDK_MEDIA)
    connection.putheader("Content-Length", str(source.length))
    connection.endheaders()
    digest, sent = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        for block in source.blocks():
            if stop.is_set():
                raise StoppedError("stopped")
            if sent + len(block) > source.length:
                raise UploadError(f"the image has more than the {source.length} bytes that were announced")
            connection.send(block)
            sent += len(block)
            digest.update(block)
            report(len(block))
    except OSError as error:
        status, reason = _refusal(connection)
        raise UploadError(
            f"the upload broke off after {sent} of {source.length} bytes: {reason or root_cause(error)}",
            in_place=status is None or status in BUSY,
        ) from error
    if sent != source.length:
        raise UploadError(f"the image has only {sent} of the {source.length} bytes that were announced")
    try:
        answer = connection.getresponse()
        text = answer.read(300)
    except (OSError, HTTPException) as error:
        raise UploadError(f"no answer after all {sent} bytes: {root_cause(error)}", in_place=True) from error
    if answer.status not in (200, 201):
        raise UploadError(
            f"refused with {answer.status} {answer.reason}: {_plain(text)}", in_place=answer.status in BUSY
        )
    return Sent(sent, digest.hexdigest())


def _refusal(connection: HTTPSConnection) -> tuple[int | None, str]:
    """Status and text that the host sent before it closed the connection, if it sent anything."""
    try:
        if connection.sock is not None:
            connection.sock.settimeout(2)
        answer = connection.getresponse()
        return answer.status, f"{answer.status} {answer.reason}: {_plain(answer.read(300))}"
    except (OSError, HTTPException):
        return None, ""


def _plain(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split()) or "no text"
