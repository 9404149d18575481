# SPDX-License-Identifier: GPL-3.0-or-later
"""A site on this machine: simulated vCenter and VCD, a real gateway, and the inventories of a provider and of a tenant.

Everything a person does is done as that person does it, by `ansible-playbook` with that person's inventory and
credential. What the tests look up for themselves (states, hardware of the created VM) is read from the services'
own interfaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from support.gateway import ENDED, ORGANIZATION, Api, ApiError, Gateway
from support.processes import COLLECTION, ROOT, Service, SupportError, free_port, tail

__all__ = ["ORGANIZATION", "ApiError", "Site", "SiteError", "tail"]

TESTS = Path(__file__).resolve().parent.parent
ISO_BUILD = COLLECTION / "roles/iso/files/iso-build"

# Where QEMU's user-mode network shows this machine to its guests.
HOST_SEEN_BY_GUESTS = "10.0.2.2"
_NAMES = (HOST_SEEN_BY_GUESTS, "127.0.0.1", "localhost")

#: A part of the site did not start, a playbook failed, or a wait was in vain; the message ends with the log.
SiteError = SupportError


class Site:
    """The whole site in one directory. A context manager: leaving it stops everything that was started."""

    def __init__(self, directory: Path, *, organization: str = ORGANIZATION, port: int | None = None) -> None:
        self.directory = directory
        self.organization = organization
        self.logs = directory / "logs"
        self.port = port or free_port()
        self._gateway = Gateway(
            directory,
            names=_NAMES,
            port=self.port,
            organization=organization,
            options=("--url", url_for_guests(self.port), "--site-name", "north"),
            log=self.logs / "gateway.log",
        )
        self.url, self.ca = self._gateway.url, self._gateway.ca
        self._simulators: Service | None = None
        self.simulated: dict[str, Any] = {}
        self.logs.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops gateway and simulators."""
        self.stop_gateway()
        if self._simulators:
            self._simulators.stop()
            self._simulators = None

    # -- simulators -------------------------------------------------------------------------------------------------

    def start_simulators(self, **settings: float) -> None:
        """Starts the simulated vCenter and VCD. `settings` are options of tests/simulators/run.py."""
        state = self.directory / "simulators.json"
        state.unlink(missing_ok=True)
        argv = [sys.executable, str(TESTS / "simulators/run.py"), "--state", str(state)]
        argv += ["--folder", str(self.directory / "simulators")]
        for name, value in settings.items():
            argv += [f"--{name.replace('_', '-')}", str(value)]
        self._simulators = Service("the simulators", argv, self.logs / "simulators.log", os.environ)
        # The first start compiles the simulated vCenter.
        self._simulators.wait_until(state.exists, 600)
        self.simulated = json.loads(state.read_text())

    # -- gateway ----------------------------------------------------------------------------------------------------

    def init_gateway(self) -> None:
        """Makes the gateway's configuration, database, CA and first provider token."""
        self._gateway.init()

    def start_gateway(self) -> None:
        """Starts `coldmig-gateway serve` and waits until it answers."""
        self._gateway.start()

    def stop_gateway(self) -> None:
        """Stops it."""
        self._gateway.stop()

    def api(self, who: str = "provider") -> Api:
        """The gateway as `provider` or `tenant`."""
        return self._gateway.api(who)

    def make_tenant_token(self) -> None:
        """The provider gives the organization its token (shown once)."""
        self._gateway.tokens["tenant"] = self._gateway.organization_token(self.organization)

    def migrations(self) -> list[dict[str, Any]]:
        """All migrations, newest first, as the provider sees them."""
        return self._gateway.migrations()

    def migration(self, identifier: str) -> dict[str, Any]:
        """One migration."""
        found: dict[str, Any] = self._gateway.migration(identifier)
        return found

    def audit(self, identifier: str) -> list[dict[str, Any]]:
        """The audit trail of a migration."""
        return self._gateway.audit(identifier)

    def image(self, identifier: str, disk: int, target: Path, size: int) -> Path:
        """What would go to vCenter of a disk of `size` bytes, as a raw image."""
        return self._gateway.image(identifier, disk, target, size)

    # -- people -----------------------------------------------------------------------------------------------------

    def write_inventories(self, provider: Mapping[str, Any], tenant: Mapping[str, Any]) -> None:
        """Writes the two inventories: variables as given, the gateway's address, and the inventory plugin.

        The credentials come from the environment of each run, as CI gives them.
        """
        for who, variables in (("provider", provider), ("tenant", tenant)):
            directory = self.directory / "inventories" / who
            directory.mkdir(parents=True, exist_ok=True)
            access = {
                "gateway_url": "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_URL') }}",
                "gateway_ca_path": "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_CA') }}",
                "gateway_token": "{{ lookup('ansible.builtin.env', 'COLDMIG_GATEWAY_TOKEN') }}",
            }
            hosts = {"all": {"vars": {**{f"coldmig_{key}": value for key, value in access.items()}, **variables}}}
            (directory / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
            (directory / "migrations.coldmig.yml").write_text(
                yaml.safe_dump({"plugin": "cda.coldmig.migrations", **access}, sort_keys=False)
            )

    def _person(self, who: str) -> dict[str, str]:
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "COLDMIG_GATEWAY_URL": self.url,
            "COLDMIG_GATEWAY_CA": str(self.ca),
            "COLDMIG_GATEWAY_TOKEN": self._gateway.tokens[who],
        }
        if who == "provider" and self.simulated:
            vcenter, vcd = self.simulated["vcenter"], self.simulated["vcd"]
            env |= {
                "VMWARE_HOST": vcenter["host"],
                "VMWARE_PORT": str(vcenter["port"]),
                "VMWARE_USER": vcenter["username"],
                "VMWARE_PASSWORD": vcenter["password"],
                "VMWARE_CA_PATH": self.simulated["ca"],
                "VCD_URL": vcd["url"],
                "VCD_ORG": "System",
                "VCD_USER": "administrator",
                "VCD_PASSWORD": vcd["users"]["administrator"]["password"],
                "VCD_CA_PATH": self.simulated["ca"],
            }
        return env

    def playbook(self, who: str, name: str, *arguments: str) -> str:
        """Runs a playbook of the collection as `provider` or `tenant`; returns its output. Raises SiteError."""
        count = len(list(self.logs.glob("*-playbook-*.log"))) + 1
        log = self.logs / f"{count:02d}-playbook-{name}-{who}.log"
        argv = [_tool("ansible-playbook"), "-i", str(self.directory / "inventories" / who)]
        argv += [f"cda.coldmig.{name}", *arguments]
        return self._run(argv, log, self._person(who), f"{who}: ansible-playbook cda.coldmig.{name}")

    def inventory(self, who: str) -> dict[str, Any]:
        """What the inventory plugin shows to `provider` or `tenant` (ansible-inventory --list)."""
        argv = [_tool("ansible-inventory"), "-i", str(self.directory / "inventories" / who), "--list"]
        text = self._run(argv, self.logs / f"inventory-{who}.log", self._person(who), f"{who}: ansible-inventory")
        parsed: dict[str, Any] = json.loads(text)
        return parsed

    def _run(self, argv: list[str], log: Path, env: Mapping[str, str], what: str) -> str:
        # Standard error apart from the output: warnings must not get between JSON.
        errors = log.with_suffix(".stderr")
        with log.open("wb") as output, errors.open("wb") as error_output:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "TERM", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error_output,
                env=dict(env),
                cwd=self.directory,
                check=False,
            )
        if done.returncode != 0:
            raise SiteError(
                f"{what} failed (status {done.returncode}), see {log}:\n{tail(log)}\n{tail(errors)}".rstrip()
            )
        if not errors.stat().st_size:
            errors.unlink()
        return log.read_text(errors="replace")

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait_for_migration(
        self,
        states: tuple[str, ...],
        seconds: float,
        *,
        tick: Callable[[dict[str, Any] | None], None] | None = None,
        known: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Waits until a migration (the newest that is not in `known`) has one of the states.

        Raises SiteError when it ends otherwise or the time is over.
        """
        deadline = time.monotonic() + seconds
        while True:
            migration = next((one for one in self.migrations() if one["id"] not in known), None)
            if migration and migration["state"] in states:
                return migration
            if migration and migration["state"] in ENDED:
                raise SiteError(
                    f"migration {migration['id']} is {migration['state']}: {migration['reason']} {migration['detail']}"
                )
            if time.monotonic() > deadline:
                now = f"is {migration['state']}" if migration else "was never registered"
                raise SiteError(f"after {seconds:.0f} s the migration {now}; awaited: {', '.join(states)}")
            if tick:
                tick(migration)
            time.sleep(2)


def _tool(name: str) -> str:
    """A program of the virtual environment that runs us, else of the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise SiteError(f"{name} is not installed")
    return found


def url_for_guests(port: int) -> str:
    """The site on this port of the host, as machines in QEMU reach it."""
    return f"https://{HOST_SEEN_BY_GUESTS}:{port}"


@contextlib.contextmanager
def gateway_for_guests(directory: Path) -> Iterator[Gateway]:
    """A gateway that serves its organization's machines in QEMU."""
    port = free_port()
    options = ("--url", url_for_guests(port), "--poll-seconds", "1")
    with Gateway(directory, names=_NAMES, port=port, options=options) as gateway:
        gateway.init().start()
        gateway.activate(gateway.organization)
        yield gateway


def build_base_iso(log: Path) -> dict[str, Any]:
    """Builds the base ISO, or takes it from the cache; the build tool's facts (path, size_bytes, volume_id, …)."""
    ready = os.environ.get("COLDMIG_BASE_ISO")
    if ready:
        return {"path": ready, "size_bytes": Path(ready).stat().st_size}
    argv = [sys.executable, str(ISO_BUILD), "build", "--json"]
    with log.open("wb") as errors:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, check=False)
    if done.returncode != 0:
        raise SiteError(f"the base ISO could not be built:\n{tail(log)}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


# -- what arrived ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VmHardware:
    """What vCenter says about the created VM."""

    name: str
    moid: str
    uuid: str
    """The VM's own SMBIOS UUID."""
    firmware: str
    """bios or efi."""
    guest_id: str
    sockets: int
    cores_per_socket: int
    memory_mib: int
    controllers: tuple[str, ...]
    """Class name of the controller of each disk, in the order of the disks."""
    disk_bytes: tuple[int, ...]
    nics: tuple[tuple[str, str, bool], ...]
    """(class name, MAC address, connected) of each NIC."""
    powered_on: bool


@contextlib.contextmanager
def vcenter_session(simulated: Mapping[str, Any]) -> Iterator[Any]:
    """A pyvmomi service instance."""
    from pyVim.connect import Disconnect, SmartConnect

    vcenter = simulated["vcenter"]
    instance = SmartConnect(
        host=vcenter["host"],
        port=vcenter["port"],
        user=vcenter["username"],
        pwd=vcenter["password"],
        sslContext=ssl.create_default_context(cafile=simulated["ca"]),
    )
    try:
        yield instance
    finally:
        Disconnect(instance)


def read_vm(simulated: Mapping[str, Any], moid: str) -> VmHardware:
    """Reads a VM's hardware through the vSphere API."""
    from pyVmomi import vim

    with vcenter_session(simulated) as instance:
        content = instance.RetrieveContent()
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        vm = next((one for one in view.view if one._moId == moid), None)
        view.Destroy()
        if vm is None:
            raise SiteError(f"vCenter has no VM {moid}")
        config = vm.config
        devices = config.hardware.device
        by_key = {device.key: device for device in devices}
        # In the order in which a machine finds them: by controller, then by unit.
        disks = sorted(
            (device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)),
            key=lambda disk: (by_key[disk.controllerKey].busNumber, disk.unitNumber),
        )
        nics = [device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]
        return VmHardware(
            name=config.name,
            moid=moid,
            uuid=config.uuid,
            firmware=config.firmware or "bios",
            guest_id=config.guestId,
            sockets=config.hardware.numCPU // (config.hardware.numCoresPerSocket or 1),
            cores_per_socket=config.hardware.numCoresPerSocket or 1,
            memory_mib=config.hardware.memoryMB,
            controllers=tuple(_class_name(by_key[disk.controllerKey]) for disk in disks),
            disk_bytes=tuple(disk.capacityInKB * 1024 for disk in disks),
            nics=tuple(
                (_class_name(nic), nic.macAddress or "", bool(nic.connectable and nic.connectable.startConnected))
                for nic in nics
            ),
            powered_on=vm.runtime.powerState == "poweredOn",
        )


def _class_name(managed: object) -> str:
    return type(managed).__name__.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class CloudVm:
    """What VCD shows of the VM to a user of the organization."""

    name: str
    status: int
    """4 is powered on, 8 powered off."""
    networks: tuple[tuple[str, str, bool], ...]
    """(network, address mode, connected) of each NIC."""
    customization_enabled: bool
    metadata: dict[str, str]


_VCLOUD = "{http://www.vmware.com/vcloud/v1.5}"


class CloudSession:
    """A user's session at VCD, read only. Version and media types as VCD 10.4 and later want them."""

    VERSION = "37.0"

    def __init__(self, simulated: Mapping[str, Any], organization: str, user: str, password: str) -> None:
        self._client = httpx.Client(
            base_url=simulated["vcd"]["url"],
            verify=ssl.create_default_context(cafile=simulated["ca"]),
            timeout=60,
            trust_env=False,
        )
        answer = self._client.post(
            "/cloudapi/1.0.0/sessions",
            auth=(f"{user}@{organization}", password),
            headers={"Accept": f"application/json;version={self.VERSION}"},
        )
        answer.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.headers['X-VMWARE-VCLOUD-ACCESS-TOKEN']}"

    def _get(self, href: str) -> ET.Element:
        answer = self._client.get(href, headers={"Accept": f"application/*+xml;version={self.VERSION}"})
        answer.raise_for_status()
        return ET.fromstring(answer.content)

    def vm(self, href: str, metadata_href: str | None = None) -> CloudVm:
        """A VM by its href; its metadata, or that of the object behind `metadata_href` (the vApp)."""
        vm = self._get(href)
        section = vm.find(f"{_VCLOUD}NetworkConnectionSection")
        connections = [] if section is None else section.findall(f"{_VCLOUD}NetworkConnection")
        customization = vm.find(f"{_VCLOUD}GuestCustomizationSection/{_VCLOUD}Enabled")
        metadata = self._get(f"{metadata_href or href}/metadata")
        return CloudVm(
            name=vm.attrib["name"],
            status=int(vm.attrib["status"]),
            networks=tuple(
                (
                    connection.attrib["network"],
                    connection.findtext(f"{_VCLOUD}IpAddressAllocationMode") or "",
                    connection.findtext(f"{_VCLOUD}IsConnected") == "true",
                )
                for connection in connections
            ),
            customization_enabled=customization is not None and customization.text == "true",
            metadata={
                entry.findtext(f"{_VCLOUD}Key") or "": entry.findtext(f"{_VCLOUD}TypedValue/{_VCLOUD}Value") or ""
                for entry in metadata.findall(f"{_VCLOUD}MetadataEntry")
            },
        )
