# SPDX-License-Identifier: GPL-3.0-or-later
"""Client for the simulators' control endpoints. Used by tests, by the demo, and by the simulated VCD itself."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class ControlError(RuntimeError):
    """A control call was refused; the text is the simulator's reason."""


class Control:
    """JSON calls to `<url>/__sim/<path>` on one kept connection; safe to share between threads."""

    def __init__(self, url: str, token: str, ca: Path | str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 443)
        self._token = token
        self._context = ssl.create_default_context(cafile=str(ca))
        self._lock = threading.Lock()
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Give the decoded answer.

        Raises:
            ControlError: the simulator refused.
            OSError: it is not there.
        """
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"X-Sim-Token": self._token, "Content-Type": "application/json"}
        with self._lock:
            for last in (False, True):
                if self._connection is None:
                    self._connection = http.client.HTTPSConnection(*self._address, context=self._context, timeout=60)
                try:
                    self._connection.request(method, f"/__sim/{path}", data, headers)
                    answer = self._connection.getresponse()
                    text = answer.read()
                    break
                except (OSError, http.client.HTTPException):
                    self._connection.close()
                    self._connection = None
                    if last:
                        raise
        if answer.status != http.HTTPStatus.OK:
            raise ControlError(f"{method} {path}: {answer.status} {text.decode(errors='replace').strip()}")
        return json.loads(text)

    def faults(self, **faults: object) -> None:
        """Replace the injected faults; without arguments there are none."""
        self.call("PUT", "faults", faults)

    def settings(self, **settings: object) -> None:
        """Change settings; those not named stay."""
        self.call("PUT", "settings", settings)

    def events(self, kind: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """Give the record of what happened, all of it or one kind."""
        found: list[dict[str, Any]] = self.call("GET", f"events?after={after}")
        return [event for event in found if kind in (None, event["kind"])]

    def wait_for_event(self, kind: str, timeout: float = 30.0, after: int = 0) -> dict[str, Any]:
        """Wait until an event of this kind has happened.

        Raises:
            TimeoutError: it did not happen.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := self.events(kind, after):
                return found[0]
            time.sleep(0.05)
        raise TimeoutError(f"no {kind} within {timeout} s")


class VcenterControl(Control):
    """The simulated vCenter."""

    def vms(self) -> list[dict[str, Any]]:
        """Give all VMs, each with its hardware and the disks that were received for it."""
        found: list[dict[str, Any]] = self.call("GET", "vms")
        return found

    def vm(self, name_or_id: str) -> dict[str, Any]:
        """Give the VM with this id, or this name.

        Raises:
            LookupError: there is none.
        """
        for vm in self.vms():
            if name_or_id in (vm["id"], vm["name"]):
                return vm
        raise LookupError(f"no VM {name_or_id!r}; there are {[vm['name'] for vm in self.vms()]}")

    def disks_of(self, name_or_id: str) -> list[dict[str, Any]]:
        """Give the disks of a complete VM in their order (by controller, then unit).

        Each has `path` (the VMDK as it was received), `size`, `sha1`, `sha256` of that file, and of the VM's disk
        `controller` (vSphere class), `bus`, `unit`, `key`, `capacity_bytes`.

        Raises:
            LookupError: there is no such VM, or a disk was not received.
        """
        disks = []
        for disk in self.vm(name_or_id)["disks"]:
            received = disk["received"]
            if received is None:
                raise LookupError(f"{name_or_id}: disk {disk['key']} ({disk['label']}) was not received")
            disks.append({**received, **{key: disk[key] for key in disk if key != "received"}})
        return disks
