# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk with 4096-byte sectors (4Kn), as a loop device that the kernel really treats as one."""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldmig_agent import discover
from coldmig_agent.api import ControlClient
from coldmig_agent.config import parse_config
from coldmig_agent.copying.engine import Copier
from coldmig_agent.discover import Roots
from coldmig_agent.site import Site
from support.gateway import Gateway
from support.images import random_image, sha256

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path, loop_devices: None) -> Iterator[tuple[Path, Path]]:
    """An image of whole 4096-byte sectors and the loop device on it."""
    image = random_image(tmp_path / "disk.img", 5, seed=4096)
    with image.open("ab") as file:
        file.write(bytes(range(256)) * 16 * 3)
    attached = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", "--sector-size", "4096", str(image)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if attached.returncode:
        pytest.skip(f"no loop device with 4096-byte sectors: {attached.stderr}")
    device = Path(attached.stdout.strip())
    yield image, device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def machine_with(directory: Path, device: Path) -> Roots:
    """The machine's own kernel file systems, but its one disk is the device, under a name of disks."""
    queue = Path("/sys/block") / device.name / "queue"
    files = {
        "size": (queue.parent / "size").read_text(),
        "dev": (queue.parent / "dev").read_text(),
        "serial": "4Kn-1",
        "queue/logical_block_size": (queue / "logical_block_size").read_text(),
        "queue/physical_block_size": (queue / "physical_block_size").read_text(),
        "queue/rotational": "0",
    }
    for name, content in files.items():
        path = directory / "sys/block/sdx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (directory / "dev").mkdir()
    (directory / "dev/sdx").symlink_to(device)
    (directory / "run").mkdir()
    return Roots(sys=directory / "sys", dev=directory / "dev", run=directory / "run")


def test_it_is_copied_right_reported_and_warned_of(gateway: Gateway, tmp_path: Path, disk: tuple[Path, Path]) -> None:
    image, device = disk
    found = discover.discover(machine_with(tmp_path / "machine", device), ())
    (described,) = found.machine.disks
    assert (described.logical_sector, described.size_bytes) == (4096, image.stat().st_size)
    assert "disk-4k-sectors" in [notice.code for notice in found.machine.warnings]
    config = parse_config(json.dumps(gateway.iso("4kn")).encode())
    site = Site(config.site)
    enrolment = ControlClient(site).enrol(config.credential, found.machine, secrets.token_urlsafe(16))
    problems: list[str | None] = []
    copier = Copier(site, enrolment.session_token, found.sources, threading.Event(), problems.append)
    copier.check_session(ControlClient(site).session(enrolment.session_token))
    copier.run(2)
    migration = gateway.wait_for(enrolment.migration_id, "copied")
    assert migration["machine"]["disks"][0]["logical_sector"] == 4096
    assert "disk-4k-sectors" in [warning["code"] for warning in migration["machine"]["warnings"]]
    arrived = gateway.image(enrolment.migration_id, 0, tmp_path / "arrived.raw", image.stat().st_size)
    assert sha256(arrived) == sha256(image)
