# SPDX-License-Identifier: GPL-3.0-or-later
"""A copied migration as an OVA: judged by tar, qemu-img, DMTF's schema, and vcsim's OvfManager."""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from lxml import etree
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from simulators.run import Site
from simulators.vcd import schemas

from .conftest import Destination, Gateway, Stage, Staged

CONTROLLERS = ["pvscsi", "lsilogic-sas", "ahci", "nvme", "lsilogic", "ide"]


@pytest.fixture(scope="module")
def two_disks(stage: Stage) -> Staged:
    """A migration with an odd second disk, which these tests only read."""
    return stage(sizes=(6, 3), firmware="efi", secure_boot=True)


def write(destination: Destination, migration: Staged, path: Path, **options: Any) -> dict[str, Any]:
    result = destination("ova", migration.id, path=str(path), **options)
    assert "failed" not in result, result
    return result


def unpack(ova: Path, directory: Path) -> None:
    """Unpacks it as anybody else would."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["tar", "--extract", f"--file={ova}", f"--directory={directory}"], check=True)


def test_the_file_has_the_source_s_disks_and_right_digests(
    destination: Destination, two_disks: Staged, gateway: Gateway, tmp_path: Path
) -> None:
    path = tmp_path / "db.ova"
    result = write(destination, two_disks, path)
    assert result["changed"] is True
    assert path.stat().st_size == result["ova"]["size_bytes"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["db.ova"]
    with tarfile.open(path) as archive:
        names = archive.getnames()
    unpack(path, tmp_path / "out")
    base = two_disks.name
    assert names == [f"{base}.ovf", f"{base}.mf", f"{base}-disk0.vmdk", f"{base}-disk1.vmdk"]
    said = dict(re.findall(r"SHA256\((.+)\)= ([0-9a-f]{64})", (tmp_path / "out" / f"{base}.mf").read_text()))
    assert said == {
        name: hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() for name in names if name[-3:] != ".mf"
    }
    assert said == result["ova"]["sha256"]
    for index, source in enumerate(two_disks.disks):
        arrived = tmp_path / "out" / f"{base}-disk{index}.vmdk"
        subprocess.run(["qemu-img", "check", "-f", "vmdk", arrived], check=True, capture_output=True)
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", source, arrived], check=True)
    assert gateway.migration(two_disks.id)["state"] == "copied"


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_descriptor_is_valid_by_dmtf_s_schema(
    controller: str, destination: Destination, two_disks: Staged, tmp_path: Path
) -> None:
    judge = schemas.Judge(schemas.folder())
    if not judge.available:
        pytest.skip("the OVF schema is not at hand (COLDMIG_VCD_SCHEMAS)")
    path = tmp_path / "db.ova"
    write(destination, two_disks, path, controller=controller)
    with tarfile.open(path) as archive:
        file = archive.extractfile(f"{two_disks.name}.ovf")
        assert file is not None
        document = etree.fromstring(file.read())
    assert judge.errors(document) == []
    # the judge can say no
    document.append(etree.SubElement(document, "{http://schemas.dmtf.org/ovf/envelope/1}References"))
    assert judge.errors(document) != []


def test_second_run_changes_nothing_and_another_hardware_writes_it_again(
    destination: Destination, two_disks: Staged, tmp_path: Path
) -> None:
    path = tmp_path / "db.ova"
    assert write(destination, two_disks, path, check=True)["changed"] is True
    assert not path.exists()
    write(destination, two_disks, path)
    before = path.stat().st_mtime_ns
    again = write(destination, two_disks, path)
    assert again["changed"] is False
    assert path.stat().st_mtime_ns == before
    assert write(destination, two_disks, path, memory_mb=512)["changed"] is True


def test_a_file_that_was_cut_is_written_again(destination: Destination, two_disks: Staged, tmp_path: Path) -> None:
    path = tmp_path / "db.ova"
    write(destination, two_disks, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    assert write(destination, two_disks, path)["changed"] is True


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "/nowhere/db.ova"}, "a file in a folder that exists"),
        ({"path": "/tmp"}, "not of a folder"),
        ({"memory_mb": 0}, "memory_mb"),
        ({"secure_boot": True, "firmware": "bios"}, "secure_boot: it needs firmware 'efi'"),
        ({"migration": "erp-db-01"}, "the id of a migration"),
    ],
)
def test_wrong_input_is_named(
    options: dict[str, Any], complaint: str, destination: Destination, two_disks: Staged, tmp_path: Path
) -> None:
    result = destination("ova", two_disks.id, **{"path": str(tmp_path / "db.ova"), **options})
    assert result["failed"] is True
    assert complaint in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_a_migration_that_is_not_copied_is_refused(destination: Destination, stage: Stage, tmp_path: Path) -> None:
    result = destination("ova", stage(copied=False).id, path=str(tmp_path / "db.ova"))
    assert result["failed"] is True
    assert "confirmed" in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_vcenter_makes_a_vm_of_it(site: Site, destination: Destination, two_disks: Staged, tmp_path: Path) -> None:
    path = tmp_path / "db.ova"
    write(destination, two_disks, path)
    unpack(path, tmp_path)
    where = site.state["vcenter"]
    tls = ssl.create_default_context(cafile=str(site.ca))
    service = SmartConnect(
        host=where["host"], port=where["port"], user=where["username"], pwd=where["password"], sslContext=tls
    )
    try:
        content = service.RetrieveContent()
        datacenter = content.rootFolder.childEntity[0]
        compute = datacenter.hostFolder.childEntity[0]
        parameters = vim.OvfManager.CreateImportSpecParams(entityName="from-ova", diskProvisioning="thin")
        spec = content.ovfManager.CreateImportSpec(
            (tmp_path / f"{two_disks.name}.ovf").read_text(), compute.resourcePool, datacenter.datastore[0], parameters
        )
        assert not spec.error, spec.error
        config = spec.importSpec.configSpec
        assert (config.guestId, config.numCPUs, config.memoryMB) == ("debian12_64Guest", 4, 1024)
        assert [item.path for item in spec.fileItem] == [f"{two_disks.name}-disk{index}.vmdk" for index in (0, 1)]
        lease = compute.resourcePool.ImportVApp(spec.importSpec, datacenter.vmFolder)
        while lease.state == "initializing":
            time.sleep(0.1)
        # vcsim names them in its own way in the two lists, but both are in the order of the disks
        for url, item in zip(lease.info.deviceUrl, spec.fileItem, strict=True):
            answer = requests.post(
                url.url.replace("*", f"{where['host']}:{where['port']}"),
                data=(tmp_path / item.path).read_bytes(),
                headers={"Content-Type": "application/x-vnd.vmware-streamVmdk"},
                verify=str(site.ca),
                timeout=60,
            )
            answer.raise_for_status()
        lease.HttpNfcLeaseComplete()
        vm = lease.info.entity
        disks = [device for device in vm.config.hardware.device if isinstance(device, vim.vm.device.VirtualDisk)]
        assert [disk.capacityInKB >> 10 for disk in disks] == [6, 4]
        vm.Destroy_Task()
    finally:
        Disconnect(service)
