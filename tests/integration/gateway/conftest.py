# SPDX-License-Identifier: GPL-3.0-or-later
"""A real gateway in the foreground (TLS, SQLite), and the modules as the processes that Ansible would start."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from support.gateway import Gateway
from support.processes import ROOT

COLLECTION = ROOT / "collections/ansible_collections/cda/coldmig"

_serial = itertools.count(1)


def unique(kind: str) -> str:
    """A name that no other test uses, as the gateway lives for all tests of a run."""
    return f"{kind}-{os.getpid()}-{next(_serial)}"


def machine(name: str, disk_bytes: int = 64 << 20, **changes: Any) -> dict[str, Any]:
    """A small source machine as an agent describes it, with *changes* of its fields."""
    return {
        "agent_version": "0.1.0",
        "smbios_uuid": None,
        "vendor": "QEMU",
        "product": "Standard PC",
        "serial": "S-1",
        "firmware": "bios",
        "secure_boot": None,
        "live_boot_firmware": "bios",
        "cpu": {"sockets": 1, "cores_per_socket": 2, "threads": 2, "model": "test"},
        "memory_bytes": 1 << 30,
        "nics": [],
        "disks": [
            {"index": 0, "path": "/dev/vda", "size_bytes": disk_bytes, "logical_sector": 512, "rotational": False}
        ],
        "guest": {"os_type": "linux", "id": "debian", "version": "12", "pretty_name": "Debian 12", "hostname": name},
        "addresses": ["192.0.2.7"],
        "name": name,
        "warnings": [{"code": "test-warning", "message": "this is {{ 'not' }} a template"}],
        **changes,
    }


class Site(Gateway):
    """The running gateway; asked beside the modules it is asked as the provider."""

    @property
    def token(self) -> str:
        """The provider's token."""
        return self.provider

    def enrol(self, credential: str, name: str, **changes: Any) -> str:
        """Register a machine; the id of its migration."""
        return str(self.call("POST", "/enrolments", machine(name, **changes), token=credential)["migration_id"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """``coldmig-gateway init`` and ``serve``, stopped at the end of the tests."""
    with Site(tmp_path_factory.mktemp("gateway")) as made:
        made.init()
        made.start()
        yield made


@dataclass
class Modules:
    """Runs modules of the collection, each in a process of its own with its arguments as JSON, as Ansible does."""

    site: Site

    def __call__(
        self, name: str, /, *, token: str | None = None, check: bool = False, ca: Path | None = None, **options: Any
    ) -> dict[str, Any]:
        """The module's result. ``failed`` is in it when it failed."""
        arguments = {
            "gateway_url": self.site.url,
            "gateway_token": token or self.site.token,
            "gateway_ca_path": str(ca or self.site.ca),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **options,
        }
        done = subprocess.run(
            [sys.executable, "-m", f"ansible_collections.cda.coldmig.plugins.modules.{name}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.stdout.strip(), f"{name} gave no result:\n{done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture
def modules(site: Site) -> Modules:
    return Modules(site)


@dataclass
class Organization:
    """An organization that may use cold migration, with its token."""

    name: str
    token: str


@pytest.fixture
def organization(site: Site) -> Organization:
    name = unique("org")
    site.activate(name)
    return Organization(name, site.organization_token(name))


@pytest.fixture
def other_organization(site: Site) -> Organization:
    name = unique("other")
    site.activate(name)
    return Organization(name, site.organization_token(name))


@pytest.fixture
def template(site: Site, organization: Organization) -> dict[str, Any]:
    """A template of the organization whose migrations wait for a confirmation."""
    body = {"name": unique("erp"), "destination": {"vdc": "vdc-1"}}
    made: dict[str, Any] = site.call("POST", "/templates", body, token=organization.token)
    return made


@pytest.fixture
def enrol(site: Site, organization: Organization, template: dict[str, Any]) -> Callable[..., str]:
    """Registers a machine under the template; gives the id of its migration."""
    path = f"/templates/{template['id']}/iso-credentials"
    issued = site.call("POST", path, {"ttl_hours": 1, "description": "test"}, token=organization.token)

    def register(name: str, **changes: Any) -> str:
        return site.enrol(issued["credential"], name, **changes)

    return register


def make_base_image(path: Path, config_slot: int = 256 << 10) -> Path:
    """An image with the volume id and the two slots of a base image, and nothing that boots."""
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident="COLDMIG_2_0123456789ABCDEF", rock_ridge="1.09")
    iso.add_directory("/LIVE", rr_name="live")
    iso.add_directory("/BOOT", rr_name="boot")
    iso.add_directory("/BOOT/GRUB", rr_name="grub")
    for content, name, long_name in (
        (b"\0" * config_slot, "/LIVE/CONFIG.IMG;1", "config.img"),
        (b"\n" * 8192, "/BOOT/GRUB/CUSTOM.CFG;1", "custom.cfg"),
        (b"coldmig.volume=COLDMIG_2_0123456789ABCDEF quiet\n", "/LIVE/ARGUMENT.TXT;1", "kernel-arguments.txt"),
        (b"kernel", "/LIVE/VMLINUZ.;1", "vmlinuz"),
        (b"initrd", "/LIVE/INITRD.IMG;1", "initrd.img"),
        (b"layer", "/LIVE/LAYER.CPI;1", "layer.cpio"),
        (b"system", "/LIVE/SYSTEM.CPI;1", "system.cpio"),
    ):
        source = path.with_name(f"{path.name}.{long_name}")
        source.write_bytes(content)
        iso.add_file(str(source), name, rr_name=long_name)
    iso.write(str(path))
    iso.close()
    return path


@pytest.fixture(name="machine")
def machine_fixture() -> Callable[[str], dict[str, Any]]:
    """The function ``machine`` (test modules cannot import this file)."""
    return machine


@pytest.fixture(scope="session")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base_image(tmp_path_factory.mktemp("base") / "base.iso")


@pytest.fixture
def small_slot_image(tmp_path: Path) -> Path:
    """A base image into which no configuration fits: writing the ISO fails after the credential was issued."""
    return make_base_image(tmp_path / "small.iso", config_slot=512)
