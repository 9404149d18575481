# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_import as vi
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import (
    CONTROLLERS_BY_NAME,
    DiskPlace,
    Hardware,
    place_disks,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import VcenterError, listing

vim = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed").vim

DISKS = (DiskPlace(0, 1024, 0, 0), DiskPlace(1, 2048, 0, 1))


def url(import_key: str | None, target: str | None = None, *, disk: bool | None = True, **others: Any) -> Any:
    values = {"key": f"/vm-1/{target}", "importKey": import_key, "targetId": target, "disk": disk, "sslThumbprint": ""}
    return SimpleNamespace(**{**values, "url": f"https://esx1/nfc/1/{target}", **others})


def hardware(controller: str = "pvscsi", sizes: tuple[int, ...] = (1024, 2048), **others: Any) -> Hardware:
    values: dict[str, Any] = {
        "guest_id": "debian12_64Guest",
        "firmware": "efi",
        "secure_boot": True,
        "controller": controller,
        "nic": "vmxnet3",
        "num_cpus": 4,
        "cores_per_socket": 2,
        "memory_mb": 2048,
        "disks": place_disks(CONTROLLERS_BY_NAME[controller], sizes),
    }
    return Hardware(**{**values, **others})


def indexes(urls: list[Any], controller: str = "pvscsi") -> dict[int, str]:
    found = vi.match_device_urls(urls, DISKS, controller, "vc:443")
    return {index: target.url.rpartition("/")[2] for index, target in found.items()}


def test_urls_are_matched_by_bus_and_unit_whatever_their_order() -> None:
    urls = [url("/n/ParaVirtualSCSIController0:1", "a"), url("/n/ParaVirtualSCSIController0:0", "b")]
    assert indexes(urls) == {0: "b", 1: "a"}


def test_class_is_known_with_and_without_its_prefix() -> None:
    urls = [url("/n/AHCIController0:1", "a"), url("/n/VirtualAHCIController0:0", "b")]
    assert indexes(urls, "ahci") == {0: "b", 1: "a"}


def test_urls_that_only_number_the_disks_are_matched() -> None:
    assert indexes([url("/n/disk:1", "x"), url("/n/disk:0", "y")]) == {0: "y", 1: "x"}
    assert indexes([url(None, "disk-1.vmdk"), url(None, "disk-0.vmdk")]) == {0: "disk-0.vmdk", 1: "disk-1.vmdk"}


def test_devices_that_are_no_disks_are_left_out() -> None:
    urls = [url("/n/nvram", "nvram", disk=False), url("/n/disk:0", "a"), url("/n/disk:1", "b")]
    assert indexes(urls) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "urls",
    [
        [],
        [url("/n/disk:0", "a")],
        [url("/n/disk:0", "a"), url("/n/disk:0", "b")],
        [url("/n/disk:0", "a"), url("/n/disk:2", "b")],
        [url("/n/disk:0", "a"), url("/n/disk:1", "b"), url("/n/disk:2", "c")],
        [url("/n/ParaVirtualSCSIController1:0", "a"), url("/n/ParaVirtualSCSIController0:1", "b")],
    ],
)
def test_urls_that_do_not_match_one_to_one_are_refused(urls: list[Any]) -> None:
    with pytest.raises(VcenterError, match="do not match the VM's 2 disks"):
        indexes(urls)


def test_star_stands_for_the_server_that_was_asked() -> None:
    urls = [
        url("/n/disk:0", "disk-0.vmdk", url="https://*/nfc/1/disk-0.vmdk"),
        url("/n/disk:1", "disk-1.vmdk", url="https://esx*/nfc/1/disk-1.vmdk"),
    ]
    found = vi.match_device_urls(urls, DISKS, "pvscsi", "vc.example.com:8443")
    assert found[0].url == "https://vc.example.com:8443/nfc/1/disk-0.vmdk"
    assert found[1].url == "https://esx*/nfc/1/disk-1.vmdk"


def test_config_spec_has_the_hardware() -> None:
    request = vi.VmRequest("id-1", "erp", "note", hardware(sizes=(1024,) * 17), hardware_version="vmx-19")
    spec = vi.build_config_spec(request, "ds")
    devices = [change.device for change in spec.deviceChange]
    controllers = [d for d in devices if isinstance(d, vim.vm.device.ParaVirtualSCSIController)]
    disks = [d for d in devices if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [c.busNumber for c in controllers] == [0, 1]
    assert [(d.controllerKey, d.unitNumber) for d in disks[14:]] == [
        (controllers[0].key, 15),
        (controllers[1].key, 0),
        (controllers[1].key, 1),
    ]
    assert len({device.key for device in devices}) == len(devices)
    assert {change.fileOperation for change in spec.deviceChange if change.device in disks} == {"create"}
    assert (spec.firmware, spec.bootOptions.efiSecureBootEnabled) == ("efi", True)
    assert (spec.numCPUs, spec.numCoresPerSocket, spec.memoryMB, spec.version) == (4, 2, 2048, "vmx-19")
    assert {option.key: option.value for option in spec.extraConfig} == {
        "guestinfo.coldmig.id": "id-1",
        "guestinfo.coldmig.state": "importing",
    }


@pytest.mark.parametrize("name", CONTROLLERS_BY_NAME)
def test_every_controller_exists_in_pyvmomi(name: str) -> None:
    spec = vi.build_config_spec(vi.VmRequest("i", "n", "a", hardware(name)), "ds")
    assert type(spec.deviceChange[0].device).__name__.endswith(CONTROLLERS_BY_NAME[name].vim_class)


def test_nics_are_not_connected_and_keep_a_mac_only_where_asked() -> None:
    request = vi.VmRequest("i", "n", "a", hardware(), nics=("52:54:00:00:00:01", None))
    network = vim.Network("network-1", None)
    nics = [c.device for c in vi.build_config_spec(request, "ds", network, "VM Network").deviceChange][-2:]
    assert [(nic.macAddress, nic.addressType) for nic in nics] == [("52:54:00:00:00:01", "manual"), (None, "generated")]
    assert [nic.connectable.connected for nic in nics] == [False, False]


def test_digest_is_taken_from_the_manifest_only_if_it_is_of_the_same_kind() -> None:
    both = SimpleNamespace(sha1="aa", checksum="bb", checksumType="SHA256")
    old = SimpleNamespace(sha1="aa", checksum=None, checksumType=None)
    assert vi.received_digest(both, "sha256") == "bb"
    assert vi.received_digest(both, "sha1") == "aa"
    assert vi.received_digest(old, "sha256") is None
    assert vi.received_digest(None, "sha1") is None


def test_listing_is_bounded() -> None:
    assert listing([]) == "are none"
    assert listing(["a"]) == "is 'a'"
    assert listing(f"n{number:02}" for number in range(12)).endswith("'n09' and 2 more")


# --- sending, over plain HTTP on the loopback ---------------------------------------------------------------------


class _Host(http.server.BaseHTTPRequestHandler):
    """Takes uploads; ``server.refuse`` makes it answer that status unread."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        if server.refuse:
            self.send_response(server.refuse, "No")
            self.send_header("Content-Length", "9")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"disk full")
            self.close_connection = True
            return
        server.headers = dict(self.headers)
        server.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    server.refuse = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class Source:
    """An image of some blocks that says it has *length* bytes."""

    def __init__(self, blocks: list[bytes], length: int | None = None) -> None:
        self.length = sum(map(len, blocks)) if length is None else length
        self._blocks = blocks

    def blocks(self) -> Iterator[bytes]:
        return iter(self._blocks)


def send(host: Any, source: Source, stop: threading.Event | None = None) -> tuple[vi.Sent, list[int]]:
    counted: list[int] = []
    connection: Any = http.client.HTTPConnection("127.0.0.1", host.server_address[1], timeout=5)
    try:
        sent = vi.send_disk(
            connection,
            "https://esx/nfc/1/disk-0.vmdk",
            source,
            algorithm="sha256",
            report=counted.append,
            stop=stop or threading.Event(),
        )
    finally:
        connection.close()
    return sent, counted


def test_disk_is_posted_with_its_exact_length_and_digest(host: Any) -> None:
    sent, counted = send(host, Source([b"a" * 70_000, b"b" * 10]))
    assert host.body == b"a" * 70_000 + b"b" * 10
    assert host.headers["Content-Length"] == "70010"
    assert host.headers["Content-Type"] == "application/x-vnd.vmware-streamVmdk"
    assert "Transfer-Encoding" not in host.headers
    assert sent == vi.Sent(70_010, hashlib.sha256(host.body).hexdigest())
    assert counted == [70_000, 10]


def test_image_that_is_shorter_or_longer_than_announced_is_an_error(host: Any) -> None:
    with pytest.raises(vi.UploadError, match="only 3 of the 5 bytes"):
        send(host, Source([b"abc"], 5))
    with pytest.raises(vi.UploadError, match="more than the 2 bytes"):
        send(host, Source([b"abc"], 2))


def test_refusal_in_the_middle_is_quoted(host: Any) -> None:
    host.refuse = 507
    with pytest.raises(vi.UploadError, match=r"507 No: disk full"):
        send(host, Source([b"x" * (1 << 20)] * 64))


def test_upload_stops_when_told_to(host: Any) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(vi.UploadError, match="stopped"):
        send(host, Source([b"x"]), stop)
