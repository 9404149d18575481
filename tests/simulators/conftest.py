# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: one running site for all tests here, with its faults and settings put back after each test."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from simulators.run import Site, running
from simulators.vcenter.build import BuildError, build

MEDIA = "application/x-vnd.vmware-streamVmdk"


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
    """Both simulators, without faults; what they answered must have been valid."""
    yield _site
    _site.vcenter.faults()
    _site.vcenter.settings(lease_timeout_seconds=300, device_url_host="public", boots={})
    _site.vcd.faults()
    _site.vcd.settings(task_seconds=0.2, inventory_lag=0.2, idle_seconds=1800, discovery_seconds=180)
    assert _site.vcd.call("GET", "violations")["violations"] == []


def tls(site: Site) -> ssl.SSLContext:
    """Trust the site's CA only."""
    return ssl.create_default_context(cafile=str(site.ca))


def make_vmdk(folder: Path, name: str = "disk", megabytes: int = 16, seed: int = 1) -> Path:
    """Make a streamOptimized VMDK with qemu-img: another program than the product's own writer."""
    raw, vmdk = folder / f"{name}.raw", folder / f"{name}.vmdk"
    with raw.open("wb") as file:
        file.truncate(megabytes << 20)
        file.seek(1 << 20)
        file.write(bytes((index * seed + (index >> 8)) & 0xFF for index in range(1 << 18)))
    subprocess.run(
        ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(vmdk)], check=True
    )
    return vmdk


@dataclass
class Vcenter:
    """A pyvmomi session: the client that is not ours."""

    site: Site
    instance: Any = None

    def __post_init__(self) -> None:
        from pyVim.connect import SmartConnect

        where = self.site.state["vcenter"]
        self.instance = SmartConnect(
            host=where["host"],
            port=where["port"],
            user=where["username"],
            pwd=where["password"],
            sslContext=tls(self.site),
        )
        self.datacenter = self.instance.content.rootFolder.childEntity[0]
        self.cluster = self.datacenter.hostFolder.childEntity[0]

    def pool(self, name: str) -> Any:
        return next(pool for pool in self.cluster.resourcePool.resourcePool if pool.name == name)

    def staging(self) -> Any:
        return next(entity for entity in self.datacenter.vmFolder.childEntity if entity.name == "coldmig-staging")

    def spec(self, name: str, disks: list[int], nics: int = 0) -> Any:
        """A ConfigSpec with PVSCSI disks of so many MiB."""
        from pyVmomi import vim

        device, change = vim.vm.device, vim.vm.device.VirtualDeviceSpec
        devices = [
            change(
                operation="add", device=device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
            )
        ]
        for unit, megabytes in enumerate(disks):
            backing = device.VirtualDisk.FlatVer2BackingInfo(diskMode="persistent", thinProvisioned=True, fileName="")
            disk = device.VirtualDisk(
                key=2000 + unit, controllerKey=1000, unitNumber=unit, capacityInKB=megabytes << 10, backing=backing
            )
            devices.append(change(operation="add", fileOperation="create", device=disk))
        for index in range(nics):
            backing = device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
            devices.append(change(operation="add", device=device.VirtualVmxnet3(key=-1 - index, backing=backing)))
        return vim.vm.ConfigSpec(
            name=name, guestId="debian12_64Guest", numCPUs=2, memoryMB=1024, firmware="efi", version="vmx-19",
            files=vim.vm.FileInfo(vmPathName="[datastore-1]"), deviceChange=devices,
            extraConfig=[vim.option.OptionValue(key="guestinfo.coldmig.id", value=name)],
        )  # fmt: skip

    def lease(self, name: str, disks: list[int], nics: int = 0, pool: str = "coldmig-staging") -> Any:
        """Start an import and wait until the lease is ready."""
        from pyVmomi import vim

        spec = vim.vm.VmImportSpec(configSpec=self.spec(name, disks, nics))
        lease = self.pool(pool).ImportVApp(spec, self.staging())
        wait_until(lambda: lease.state != "initializing")
        return lease

    def upload(self, url: str, vmdk: Path, **changes: Any) -> tuple[int, str]:
        """Send a disk as a client should, or as `changes` say; give status and text."""
        parts = urlsplit(url.replace("*", f"{self.site.state['vcenter']['host']}:{self.site.state['vcenter']['port']}"))
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=tls(self.site), timeout=30)
        headers = {"Content-Type": changes.get("media", MEDIA)}
        if changes.get("chunked"):
            headers["Transfer-Encoding"] = "chunked"
        with vmdk.open("rb") as file, contextlib.closing(connection):
            if not changes.get("chunked"):
                headers["Content-Length"] = str(vmdk.stat().st_size)
            connection.request(
                changes.get("method", "POST"), parts.path, file, headers, encode_chunked=bool(changes.get("chunked"))
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def vm(self, name: str, vmdks: list[Path], nics: int = 0, pool: str = "coldmig-staging") -> Any:
        """Import a whole VM."""
        sizes = [json.loads(_qemu_info(vmdk))["virtual-size"] >> 20 for vmdk in vmdks]
        lease = self.lease(name, sizes, nics, pool)
        for url, vmdk in zip(lease.info.deviceUrl, vmdks, strict=True):
            assert self.upload(url.url, vmdk) == (200, "")
        vm = lease.info.entity
        lease.Complete()
        return vm


def _qemu_info(path: Path) -> bytes:
    return subprocess.run(["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True).stdout


def wait_until(probe: Any, timeout: float = 20.0) -> Any:
    """Poll until the probe gives something that is neither None nor False."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = probe()
        if value is not None and value is not False:
            return value
        time.sleep(0.05)
    raise TimeoutError("it did not happen")


@pytest.fixture
def vcenter(site: Site) -> Iterator[Vcenter]:
    from pyVim.connect import Disconnect

    client = Vcenter(site)
    yield client
    Disconnect(client.instance)
