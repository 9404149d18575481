# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole destination: a real gateway with really staged migrations, simulated vCenter and VCD, real modules."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coldmig_wire.digest import chunk_digest
from coldmig_wire.frames import Codec, Frame, FrameType
from coldmig_wire.geometry import CHUNK, chunk_count, chunk_length
from coldmig_wire.grains import encode_chunk, is_zero
from simulators.run import Site, running
from simulators.vcenter.build import BuildError, build
from support.gateway import Gateway as RealGateway
from support.playbooks import BIN, Run
from support.processes import ROOT

ORGANIZATION = "acme"
MIB = 1 << 20

_serial = itertools.count(1)


# --- the destination's two services -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        build()
    except BuildError as error:
        pytest.skip(f"the vCenter simulator cannot be built: {error}")
    with running(tmp_path_factory.mktemp("site"), task_seconds=0.2, inventory_lag=0.2) as site:
        yield site


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """Simulated vCenter and VCD. All that VCD answered must have been valid."""
    yield _site
    _site.vcenter.faults()
    _site.vcenter.settings(lease_timeout_seconds=300, device_url_host="public", boots={}, denied=[])
    _site.vcd.faults()
    _site.vcd.settings(task_seconds=0.2, inventory_lag=0.2, idle_seconds=1800)
    assert _site.vcd.call("GET", "violations")["violations"] == []


# --- the gateway --------------------------------------------------------------------------------------------------


class Gateway(RealGateway):
    """A running gateway; asked beside the modules it is asked as the provider."""

    @property
    def token(self) -> str:
        """The provider's token."""
        return self.provider


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """``coldmig-gateway init`` and ``serve``."""
    with Gateway(tmp_path_factory.mktemp("gw"), organization=ORGANIZATION) as made:
        made.init()
        made.start()
        made.activate()
        yield made


# --- a migration that is copied -----------------------------------------------------------------------------------


def describe(name: str, disks: list[Path], **changes: Any) -> dict[str, Any]:
    """A source machine as an agent describes it."""
    machine: dict[str, Any] = {
        "agent_version": "0.1.0",
        "smbios_uuid": None,
        "vendor": "QEMU",
        "product": "Standard PC",
        "serial": "S-1",
        "firmware": "efi",
        "secure_boot": False,
        "live_boot_firmware": "efi",
        "cpu": {"sockets": 2, "cores_per_socket": 2, "threads": 4, "model": "test"},
        "memory_bytes": 1 << 30,
        "nics": [
            {
                "name": f"ens{index}",
                "mac": f"52:54:00:00:00:{index:02x}",
                "permanent_mac": f"52:54:00:00:00:{index:02x}",
                "driver": "virtio_net",
                "speed_mbps": None,
                "carrier": True,
                "pci_id": None,
            }
            for index in range(2)
        ],
        "disks": [
            {
                "index": index,
                "path": f"/dev/vd{'abcd'[index]}",
                "size_bytes": disk.stat().st_size,
                "logical_sector": 512,
                "rotational": False,
            }
            for index, disk in enumerate(disks)
        ],
        "guest": {
            "os_type": "linux",
            "id": "debian",
            "version": "12",
            "pretty_name": "Debian GNU/Linux 12 (bookworm)",
            "hostname": name,
            "kernel": "6.1.0-28-amd64",
            "drivers": ["vmw_pvscsi", "ahci", "vmxnet3", "e1000"],
        },
        "addresses": ["192.0.2.7"],
        "name": name,
        "warnings": [],
    }
    machine["guest"].update(changes.pop("guest", {}))
    return {**machine, **changes}


def make_disk(path: Path, megabytes: int, seed: int, *, odd_sectors: int = 0) -> Path:
    """A disk with text, noise, zeros and a last chunk that is not full."""
    noise = random.Random(seed)
    with path.open("wb") as file:
        for number in range(megabytes):
            kind = number % 4
            if kind == 0:
                file.write(b"all work and no play " * (MIB // 21) + b"." * (MIB % 21))
            elif kind == 1:
                file.write(noise.randbytes(MIB))
            else:
                file.seek(MIB, os.SEEK_CUR)
        file.truncate(megabytes * MIB + odd_sectors * 512)
    return path


def frames_of(disk: Path, index: int, unreadable: tuple[int, ...] = ()) -> Iterator[bytes]:
    """All of a disk as frames; the chunks that are named as those in which the disk had read errors."""
    size = disk.stat().st_size
    with disk.open("rb") as file:
        for chunk in range(chunk_count(size)):
            raw = file.read(chunk_length(chunk, size))
            if chunk in unreadable:
                payload = encode_chunk(raw)
                frame = Frame(
                    FrameType.UNREADABLE, Codec.GRAINS, index, chunk, len(raw), len(payload), chunk_digest(raw)
                )
                yield frame.pack() + payload
                continue
            if is_zero(raw):
                yield Frame(FrameType.ZERO_RUN, Codec.RAW, index, chunk, 1, 0, bytes(32)).pack()
                continue
            payload = encode_chunk(raw)
            header = Frame(FrameType.DATA, Codec.GRAINS, index, chunk, len(raw), len(payload), chunk_digest(raw))
            yield header.pack() + payload


@dataclass
class Staged:
    """A migration in the state ``copied``, and the disks that it was copied from."""

    id: str
    name: str
    disks: list[Path]


Stage = Callable[..., Staged]
"""Called with: destination, power_on, sizes (MiB per disk), copied, unreadable (chunks), changes to the machine."""


@pytest.fixture(scope="session")
def stage(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Makes a migration through the gateway's own API: template, ISO credential, enrolment, frames, verification."""

    folder = tmp_path_factory.mktemp("disks")

    def make(
        *,
        destination: dict[str, Any] | None = None,
        power_on: bool = False,
        sizes: tuple[int, ...] = (6,),
        copied: bool = True,
        unreadable: tuple[int, ...] = (),
        **changes: Any,
    ) -> Staged:
        number = next(_serial)
        name = f"erp-db-{number:02d}"
        wanted = {"vdc": "acme-production", "networks": [{"network": "acme-web"}], **(destination or {})}
        template = gateway.call(
            "POST",
            "/templates",
            {
                "name": f"t-{number}",
                "organization": ORGANIZATION,
                "destination": wanted,
                "auto_start": True,
                "power_on": power_on,
            },
        )
        credential = gateway.call("POST", f"/templates/{template['id']}/iso-credentials", {"ttl_hours": 1})
        disks = [
            make_disk(folder / f"{name}-{index}.raw", size, number * 10 + index, odd_sectors=7 * index)
            for index, size in enumerate(sizes)
        ]
        session = gateway.call("POST", "/enrolments", describe(name, disks, **changes), token=credential["credential"])
        migration_id = str(session["migration_id"])
        if copied:
            agent = gateway.api(session["session_token"])
            for index, disk in enumerate(disks):
                frames = b"".join(frames_of(disk, index, unreadable if index == 0 else ()))
                assert agent.send(frames)["rejected"] == []
            gateway.wait_for(migration_id, "copied")
        return Staged(migration_id, name, disks)

    return make


@pytest.fixture(scope="session")
def untouched(stage: Stage) -> Staged:
    """A migration that no test may change."""
    return stage(sizes=(1,))


# --- the modules --------------------------------------------------------------------------------------------------


@dataclass
class Destination:
    """Runs the modules as processes of their own, with their arguments as JSON, as Ansible does."""

    site: Site
    gateway: Gateway
    finished: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, module: str, migration_id: str, *, check: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a module; options given here replace the usual ones, None takes one away."""
        arguments = {
            "gateway_url": self.gateway.url,
            "gateway_token": self.gateway.token,
            "gateway_ca_path": str(self.gateway.ca),
            "migration": migration_id,
            **{
                "vcenter_vm": self._vcenter,
                "vcenter_test_boot": self._vcenter_account,
                "vcd_vm": self._vcd,
                "undo": self._both,
                "preflight": self._preflight,
            }.get(module, dict)(),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **options,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", f"ansible_collections.cda.coldmig.plugins.modules.{module}"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {k: v for k, v in arguments.items() if v is not None}}))
        process.stdin.close()
        process.stdin = None
        return process

    def __call__(self, module: str, migration_id: str, **options: Any) -> dict[str, Any]:
        """The module's result; ``failed`` is in it when it failed."""
        process = self.start(module, migration_id, **options)
        output, errors = process.communicate(timeout=120)
        assert output.strip(), f"{module} gave no result:\n{errors}"
        result: dict[str, Any] = json.loads(output)
        assert "Traceback" not in json.dumps(result), result
        return result

    def vcenter(self, migration_id: str, **options: Any) -> dict[str, Any]:
        return self("vcenter_vm", migration_id, **options)

    def vcd(self, migration_id: str, **options: Any) -> dict[str, Any]:
        return self("vcd_vm", migration_id, **options)

    def _vcenter_account(self) -> dict[str, Any]:
        where = self.site.state["vcenter"]
        return {
            "hostname": where["host"],
            "port": where["port"],
            "username": where["username"],
            "password": where["password"],
            "ca_path": str(self.site.ca),
        }

    def _vcenter(self) -> dict[str, Any]:
        where = self.site.state["vcenter"]
        return {
            **self._vcenter_account(),
            "datacenter": where["datacenter"],
            "cluster": where["cluster"],
            "resource_pool": "coldmig-staging",
            "folder": "coldmig-staging",
            "datastore": where["datastore"],
            "wait_timeout": 30,
        }

    def _vcd(self) -> dict[str, Any]:
        where = self.site.state["vcd"]
        return {
            "vcd_url": where["url"],
            "vcd_user": "administrator",
            "vcd_password": where["users"]["administrator"]["password"],
            "vcd_ca_path": str(self.site.ca),
            "vcenter": where["virtual_center"],
            "wait_timeout": 30,
        }

    def _both(self) -> dict[str, Any]:
        places = ("datacenter", "cluster", "resource_pool", "folder", "datastore", "vcenter")
        given = {**self._vcenter(), **self._vcd()}
        return {name: value for name, value in given.items() if name not in places}

    def _preflight(self) -> dict[str, Any]:
        both = {**self._vcd(), **self._vcenter(), "vcd_vcenter": self._vcd()["vcenter"]}
        return {name: value for name, value in both.items() if name not in ("vcenter", "wait_timeout")}


@pytest.fixture
def destination(site: Site, gateway: Gateway) -> Destination:
    return Destination(site, gateway)


# --- the playbook -------------------------------------------------------------------------------------------------


@dataclass
class Provider:
    """The provider's CI: inventory, variables and, in the environment, credentials."""

    folder: Path
    environment: dict[str, str]
    variables: dict[str, Any]
    marks: list[str] = field(default_factory=list)

    def kill(self, run: subprocess.Popen[str]) -> None:
        """Kill the last run at once, with the modules that it has started, wherever these are."""
        wanted = f"COLDMIG_TEST_RUN={self.marks[-1]}".encode()
        while found := list(_processes_with(wanted)):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            run.poll()
            time.sleep(0.1)
        run.communicate()

    def finish(self, *migrations: Staged, arguments: tuple[str, ...] = (), **variables: Any) -> Run:
        """Run the playbook for these migrations alone, as others of this test session may be due as well."""
        started = self.start(*migrations, arguments=arguments, **variables)
        output, _ = started.communicate(timeout=600)
        return Run(started.returncode, output)

    def start(
        self, *migrations: Staged, playbook: str = "finish", arguments: tuple[str, ...] = (), **variables: Any
    ) -> subprocess.Popen[str]:
        """Start a playbook for these migrations, as leader of a process group of its own."""
        target = ",".join(f"{migration.name}-{migration.id[:8]}" for migration in migrations)
        given = {**self.variables, **({"coldmig_target": target} if target else {}), **variables}
        mark = str(uuid.uuid4())
        self.marks.append(mark)
        return subprocess.Popen(
            [
                BIN / "ansible-playbook",
                f"cda.coldmig.{playbook}",
                "-i",
                "i.coldmig.yml",
                *arguments,
                "-e",
                json.dumps(given),
            ],
            env={**self.environment, "COLDMIG_TEST_RUN": mark},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _processes_with(variable: bytes) -> Iterator[int]:
    """Processes that run with this in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if variable in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


@pytest.fixture
def provider(site: Site, gateway: Gateway, tmp_path: Path) -> Provider:
    (tmp_path / "i.coldmig.yml").write_text("plugin: cda.coldmig.migrations\n")
    vcenter, vcd = site.state["vcenter"], site.state["vcd"]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_CONFIG": str(tmp_path / "none.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "COLDMIG_GATEWAY_URL": gateway.url,
        "COLDMIG_GATEWAY_TOKEN": gateway.token,
        "COLDMIG_GATEWAY_CA": str(gateway.ca),
        "VMWARE_PASSWORD": vcenter["password"],
        "VCD_PASSWORD": vcd["users"]["administrator"]["password"],
    }
    (tmp_path / "none.cfg").write_text("[defaults]\n")
    variables = {
        "finish_vcenter_hostname": vcenter["host"],
        "finish_vcenter_port": vcenter["port"],
        "finish_vcenter_username": vcenter["username"],
        "finish_vcenter_ca_path": str(site.ca),
        "finish_datacenter": vcenter["datacenter"],
        "finish_cluster": vcenter["cluster"],
        "finish_resource_pool": "coldmig-staging",
        "finish_folder": "coldmig-staging",
        "finish_datastore": vcenter["datastore"],
        "finish_vcd_url": vcd["url"],
        "finish_vcd_user": "administrator",
        "finish_vcd_ca_path": str(site.ca),
    }
    return Provider(tmp_path, environment, variables)


# --- what is there ------------------------------------------------------------------------------------------------


def vms_of(site: Site, migration_id: str) -> list[dict[str, Any]]:
    """The VMs in vCenter that carry this migration's id."""
    return [vm for vm in site.vcenter.vms() if vm["extra_config"].get("guestinfo.coldmig.id") == migration_id]


def vapps_of(site: Site, name: str) -> list[dict[str, Any]]:
    """The vApps in VCD whose name begins so, in whatever state."""
    return [vapp for vapp in site.vcd.call("GET", "vapps") if vapp["name"].startswith(name)]


def assert_same_content(received: dict[str, Any], source: Path) -> None:
    """What arrived is a sound VMDK with the source's content; beyond its end there may be zeros up to a MiB."""
    subprocess.run(["qemu-img", "check", "-f", "vmdk", received["path"]], check=True, capture_output=True)
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", str(source), received["path"]],
        check=False,
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert received["capacity_bytes"] == -(-source.stat().st_size // CHUNK) * CHUNK
