# SPDX-License-Identifier: GPL-3.0-or-later
"""A site in a temporary directory, for tests of the control plane: real database, real application, no network."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from coldmig_gateway import initialise
from coldmig_gateway.api.app import PREFIX, create_app
from coldmig_gateway.api.context import Context
from coldmig_gateway.config import Settings
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.site import DatabaseSite

GIB = 1 << 30

DEBIAN: dict[str, Any] = {
    "os_type": "linux",
    "id": "debian",
    "version": "12",
    "pretty_name": "Debian GNU/Linux 12 (bookworm)",
    "hostname": "erp-db-01",
    "computer_name": None,
    "kernel": "6.1.0-18-amd64",
    "drivers": ["vmw_pvscsi", "vmxnet3"],
    "key": "disk0/1",
    "place": "disk 0, partition 1",
    "arch": "x86_64",
    "id_like": [],
    "platform_id": None,
    "release": "12.5",
    "edition": None,
    "build": None,
    "ubr": None,
    "product_type": None,
    "domain": None,
    "firmware": "efi",
    "boot_entry": "Debian GNU/Linux",
    "bootable": True,
    "readiness": [
        {"device": "pvscsi", "kind": "storage", "verdict": "ready", "evidence": ["vmw_pvscsi is in the initramfs"]},
        {"device": "vmxnet3", "kind": "network", "verdict": "likely", "evidence": []},
    ],
}

WINDOWS: dict[str, Any] = DEBIAN | {
    "os_type": "windows",
    "id": "windows",
    "version": "10.0.20348",
    "pretty_name": "Windows Server 2022 Standard",
    "hostname": "erp-app.acme.example",
    "computer_name": "ERP-APP",
    "kernel": None,
    "drivers": [],
    "key": "disk0/3",
    "place": "disk 0, partition 3",
    "release": "10.0.20348.2113",
    "edition": "ServerStandard",
    "build": 20348,
    "ubr": 2113,
    "product_type": "ServerNT",
    "domain": "acme.example",
    "boot_entry": None,
    "bootable": False,
    "readiness": [{"device": "ahci", "kind": "storage", "verdict": "ready", "evidence": ["storahci starts at boot"]}],
}

MACHINE: dict[str, Any] = {
    "left_out": [],
    "agent_version": "0.1.0",
    "smbios_uuid": "4c4c4544-0042-3510-8051-b4c04f4a4e31",
    "vendor": "Dell Inc.",
    "product": "PowerEdge R640",
    "serial": "B5QJNJ1",
    "firmware": "efi",
    "secure_boot": True,
    "live_boot_firmware": "efi",
    "cpu": {"sockets": 2, "cores_per_socket": 8, "threads": 32, "model": "Intel(R) Xeon(R) Gold 6134"},
    "memory_bytes": 64 * GIB,
    "nics": [
        {
            "name": "enp1s0",
            "mac": "52:54:00:12:34:56",
            "permanent_mac": "52:54:00:12:34:56",
            "driver": "virtio_net",
            "speed_mbps": None,
            "carrier": True,
            "pci_id": "1af4:1041",
            "virtual_function": False,
            "management": False,
        }
    ],
    "disks": [
        {
            "index": 0,
            "path": "/dev/sda",
            "size_bytes": 3 * GIB // 2 + 512,
            "logical_sector": 512,
            "physical_sector": 4096,
            "serial": "S1",
            "model": "DISK",
            "wwn": None,
            "rotational": False,
            "table": "gpt",
            "partitions": [
                {
                    "number": 1,
                    "start_bytes": 1 << 20,
                    "size_bytes": GIB,
                    "type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
                    "fstype": "vfat",
                    "label": None,
                }
            ],
            "used_bytes": GIB,
            "free_map": {
                "digest": "fe" * 32,
                "areas": [
                    {
                        "start_bytes": 1 << 20,
                        "size_bytes": GIB,
                        "partition": 1,
                        "fstype": "ext4",
                        "decision": "mapped",
                        "reason": "clean",
                        "free_bytes": GIB // 2 + 512,
                    }
                ],
            },
            "transport": "sas",
            "paths": ["/dev/sdc"],
        },
        {
            "index": 1,
            "path": "/dev/sdb",
            "size_bytes": 4096,
            "logical_sector": 4096,
            "physical_sector": None,
            "serial": None,
            "model": None,
            "wwn": None,
            "rotational": True,
            "table": None,
            "partitions": [],
            "used_bytes": None,
            "free_map": None,
            "transport": None,
            "paths": [],
        },
    ],
    "guest": DEBIAN,
    "addresses": ["10.0.2.15", "fe80::5054:ff:fe12:3456"],
    "name": "erp-db-01",
    "warnings": [
        {
            "code": "several-systems",
            "message": "There are 2 systems on the disks.",
            "severity": "warning",
            "action": "Say which one with system.",
        }
    ],
    "guests": [copy.deepcopy(DEBIAN), WINDOWS],
    "tpm": {"version": "2.0"},
    "inspection": {
        "seconds": 4.2,
        "overlay_bytes": 1 << 20,
        "volumes": [
            {"place": "disk 0, partition 1", "fstype": "ext4", "label": None, "role": "root", "problem": None},
            {"place": "disk 1", "fstype": "zfs_member", "label": "tank", "role": None, "problem": "not readable here"},
        ],
        "writes": [{"index": 0, "ios": 0, "sectors": 0}],
        "problems": [],
    },
}

TEMPLATE: dict[str, Any] = {
    "name": "linux",
    "destination": {"vdc": "vdc-1", "networks": [{"network": "backbone", "ip_mode": "POOL"}]},
}


def machine(**changes: Any) -> dict[str, Any]:
    """The machine with other values in some of its fields."""
    return copy.deepcopy(MACHINE) | changes


class Caller:
    """Somebody with a token (or none)."""

    def __init__(self, client: TestClient, token: str | None) -> None:
        self._client = client
        self.token = token

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The answer to one request below the API's prefix."""
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        return self._client.request(method, PREFIX + path, json=body, headers=sent)

    def ok(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON of an answer that must be a success."""
        answer = self.request(method, path, body, headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def problem(self, status: int, slug: str, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        """The problem document of an answer that must be this error."""
        answer = self.request(method, path, body, **more)
        assert (answer.status_code, answer.json().get("type")) == (status, f"urn:coldmig:problem:{slug}"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = answer.json()
        assert document["status"] == status
        assert document["detail"]
        return document


class SiteKit:
    """One running site."""

    def __init__(self, context: Context, client: TestClient, provider_token: str) -> None:
        self.context = context
        self._client = client
        self.provider = self.caller(provider_token)
        self.nobody = self.caller(None)
        self.data_plane = DatabaseSite(context.database, context.settings.staging)

    def caller(self, token: str | None) -> Caller:
        """Somebody who holds this token."""
        return Caller(self._client, token)

    def activate(self, *organizations: str) -> None:
        """Let these organizations, and no others, register machines."""
        self.provider.ok("PUT", "/activation", {"active": True, "organizations": list(organizations)})

    def tenant(self, organization: str) -> Caller:
        """A new token of an organization."""
        return self.caller(self.provider.ok("POST", "/tokens", {"organization": organization})["token"])

    def iso(self, tenant: Caller, template_id: str, **options: Any) -> Caller:
        """A new ISO of a template."""
        return self.caller(tenant.ok("POST", f"/templates/{template_id}/iso-credentials", options)["credential"])

    def enrol(self, iso: Caller, **changes: Any) -> tuple[str, Caller]:
        """Boot an ISO: the id of the migration and its agent."""
        answer = iso.ok("POST", "/enrolments", machine(**changes))
        return answer["migration_id"], self.caller(answer["session_token"])

    def copy(self, migration_id: str) -> None:
        """What the data plane reports of a copy, from its beginning to its end."""
        self.data_plane.begin_copying(migration_id)
        for disk in self.data_plane.copy_plan(migration_id).disks:
            self.data_plane.disk_verified(migration_id, disk.index, "ab" * 32, 70_000, disk.chunks - 1, 123_456, 0)
        self.data_plane.copied(migration_id)


@cache
def _application() -> FastAPI:
    """One application for all tests of a process, for it takes long to make."""
    nowhere = Settings(state_dir=Path("/nonexistent"), names=["localhost"])
    return create_app(Context(nowhere, Database("sqlite://")))


class _AtSite:
    """The application at one of several sites."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = _application()
        app.state.context = self._context
        await app(scope, receive, send)


@cache
def _new_state() -> Path:
    """What ``init`` makes; made once and copied, for tests that do not look at ``init`` itself."""
    directory = Path(tempfile.mkdtemp(prefix="coldmig-test-"))
    atexit.register(shutil.rmtree, directory)
    options: dict[str, object] = {"state_dir": str(directory / "state"), "names": ["site.example"]}
    initialise.initialise(
        directory / "gateway.toml", options, token_file=directory / "state" / "provider.token", new_token=False
    )
    return directory / "state"


@contextmanager
def running_site(directory: Path) -> Iterator[SiteKit]:
    """A site in this directory, made when it is not there."""
    state = directory / "state"
    if not state.exists():
        shutil.copytree(_new_state(), state)
    settings = Settings(state_dir=state, names=["site.example"], staging_reserve_bytes=0)
    database = Database(settings.database)
    try:
        context = Context(settings, database)
        with TestClient(_AtSite(context), raise_server_exceptions=False) as client:
            yield SiteKit(context, client, (state / "provider.token").read_text().strip())
    finally:
        database.close()
