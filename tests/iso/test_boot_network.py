# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots a template's live system from the network: by iPXE with BIOS and UEFI, and UEFI's own HTTP boot of the ISO."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image, _iso_netboot
from coldmig_iso.pipeline import Built

from e2e.qemu import Firmware, Machine

from .test_boot import built, check_live_system, medium, probe

__all__ = ["built", "medium"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.long]
MAC = "52:54:00:c0:1d:03"
ADDRESS = "10.213.8.1"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a directory and says nothing."""

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@pytest.fixture
def served(built: Built, tmp_path: Path, site_config: dict[str, Any]) -> Path:
    directory = tmp_path / "http"
    directory.mkdir()
    config = _iso_image.validate_config(site_config)
    _iso_netboot.plan(built.path, directory, "erp", config, ["net.ifnames=0"]).write()
    return directory


@pytest.fixture
def port(served: Path) -> Iterator[int]:
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("firmware", list(Firmware), ids=str)
def test_ipxe_boots_the_template(medium: Path, tmp_path: Path, port: int, firmware: Firmware) -> None:
    """QEMU's network card has iPXE in its ROM; DHCP names the script, and nothing else is on the machine."""
    machine = Machine(
        name="ipxe",
        directory=tmp_path,
        firmware=firmware,
        memory_mib=1024,
        extra=(
            *("-netdev", f"user,id=net0,bootfile=http://10.0.2.2:{port}/erp.ipxe"),
            *("-device", f"virtio-net-pci,netdev=net0,mac={MAC},bootindex=0"),
        ),
    )
    with machine.start() as running:
        found = probe(running, 90)
    check_live_system(found, medium)
    assert found["medium"]["device"] is None
    assert found["efi"] is (firmware is Firmware.UEFI)


@pytest.fixture
def network(tmp_path: Path, medium: Path) -> Iterator[list[str]]:
    """A namespace with DHCP for UEFI's HTTP boot and a web server with the ISO; the prefix for what runs in it."""
    if os.geteuid() or shutil.which("dnsmasq") is None:
        pytest.skip("needs root and dnsmasq")
    name = f"coldmig-{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    root = tmp_path / "iso"
    root.mkdir()
    medium.rename(root / "erp.iso")
    medium.symlink_to(root / "erp.iso")
    started: list[subprocess.Popen[bytes]] = []
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            ["link", "set", "lo", "up"],
            ["tuntap", "add", "tap0", "mode", "tap"],
            ["address", "add", f"{ADDRESS}/24", "dev", "tap0"],
            ["link", "set", "tap0", "up"],
        ):
            subprocess.run(["ip", "-n", name, *words], check=True)
        web = [sys.executable, "-m", "http.server", "--bind", ADDRESS, "--directory", str(root), "80"]
        dhcp = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=tap0"),
            *("--bind-interfaces", "--dhcp-range=10.213.8.10,10.213.8.20,1h", "--dhcp-leasefile=/dev/null"),
            *("--dhcp-vendorclass=set:http,HTTPClient", "--dhcp-option-force=tag:http,60,HTTPClient"),
            *(f"--dhcp-boot=tag:http,http://{ADDRESS}/erp.iso", "--user=root", "--log-dhcp", "--log-facility=-"),
        ]
        for argv in (web, dhcp):
            log = (tmp_path / f"{Path(argv[0]).name}.log").open("wb")
            started.append(subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *inside, *argv], stdout=log, stderr=log))
        yield inside
    finally:
        for process in started:
            process.terminate()
            process.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.parametrize("secure_boot", [False, True], ids=["uefi", "secure"])
def test_uefi_boots_the_iso_over_http(medium: Path, tmp_path: Path, network: list[str], secure_boot: bool) -> None:
    """The firmware fetches the ISO into memory that it shows as a disk; nothing but the ISO is needed."""
    machine = Machine(
        name="http",
        directory=tmp_path,
        firmware=Firmware.UEFI,
        chipset="q35",
        secure_boot=secure_boot,
        memory_mib=1536,
        prefix=network,
        extra=(
            *("-netdev", "tap,id=net0,ifname=tap0,script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net0,mac={MAC},bootindex=0,romfile="),
        ),
    )
    with machine.start() as running:
        found = probe(running, 120)
    assert found["config"] == _iso_image.read_slot(medium)
    assert found["medium"]["device"] == "/dev/pmem0"
    assert found["writable_disks"] == []
