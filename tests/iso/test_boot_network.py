# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots a template's live system from the network, by iPXE with BIOS and with UEFI."""

from __future__ import annotations

import functools
import http.server
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
