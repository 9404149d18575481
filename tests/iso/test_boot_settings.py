# SPDX-License-Identifier: GPL-3.0-or-later
"""One boot of the real image with nearly every setting, looked at through its own SSH server.

The ISO asks for DHCP; this machine's row of the fleet table, found by its serial number, makes that a bond with static
addresses and a VLAN on it; the kernel's command line adds to both.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import write_iso

from e2e.qemu import Controller, Disk, Machine, Running, Smbios, scaled
from support.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]

MACS = ("52:54:00:c0:1d:11", "52:54:00:c0:1d:12", "52:54:00:c0:1d:13")
BANNER = "Do not touch: ERP moves tonight."
SERIAL = "FLEET/7 B"
RTC = "2021-03-04T05:06:07"
TOO_OLD = 1_735_689_600  # 2025-01-01: the clock of the source is years behind

LOOK = """
import ctypes, fcntl, json, os, struct, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "/usr/bin/coldmig-agent")
from coldmig_agent import fence, settings
from coldmig_agent.discovery import disks

def read(path):
    return Path(path).read_text() if Path(path).exists() else ""

def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout

def key_symbol(code):
    with open("/dev/tty1") as console:  # KDGKBENT of linux/kd.h, without shift
        return struct.unpack("BBH", fcntl.ioctl(console, 0x4B46, struct.pack("BBH", 0, code, 0)))[2] & 0xFF

found = settings.load(Path("/run/coldmig/config.json"))
left = []
kept = disks.read_machine_disks(
    Path("/sys"), Path("/dev"), Path("/run"), fence.protect, rules=found.config.disks.leave_out, left_out=left.append
)
timex = (ctypes.c_byte * 512)()
ctypes.CDLL("libc.so.6").adjtimex(ctypes.byref(timex))
print(json.dumps({
    "origins": [[origin.field, origin.source] for origin in found.origins],
    "problems": [*found.problems, *read("/run/coldmig/settings.problems").splitlines()],
    "links": json.loads(output("ip", "-json", "-details", "address")),
    "routes": json.loads(output("ip", "-json", "route")) + json.loads(output("ip", "-6", "-json", "route")),
    "bond": read("/proc/net/bonding/bond0"),
    "resolv": read("/etc/resolv.conf"),
    "networkd": output("journalctl", "-b", "-u", "systemd-networkd", "-o", "cat"),
    "log": output("journalctl", "-b", "-o", "cat"),
    "arguments": [Path(path).read_bytes().decode(errors="replace") for path in
                  map("/proc/{}/cmdline".format, filter(str.isdigit, os.listdir("/proc"))) if Path(path).exists()],
    "kept": [source.disk.serial for source in kept],
    "left": [[disk.serial, disk.reason] for disk in left],
    "zone": os.readlink("/etc/localtime"), "date": output("date", "+%Z").strip(),
    "now": time.time(), "rtc": int(Path("/sys/class/rtc/rtc0/since_epoch").read_text()),
    "unsynchronised": bool(ctypes.c_int.from_buffer(timex, 40).value & 0x40),
    "key": key_symbol(26), "shadow": Path("/etc/shadow").read_text().splitlines()[0],
    "modes": {path: oct(os.stat(path).st_mode & 0o777) for path in ("/etc/shadow", "/root/.ssh/authorized_keys")},
    "failed": output("systemctl", "--failed", "--no-legend", "--plain"),
    "fingerprint": read("/run/coldmig/ssh_fingerprint").strip(),
}))
"""


@contextmanager
def time_server(address: str = "127.0.0.1", port: int = 123) -> Iterator[None]:
    """Tells the host's time; QEMU's user network shows the host's loopback as 10.0.2.2. Needs root for the port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))

    def serve() -> None:
        while True:
            try:
                question, client = sock.recvfrom(1024)
            except OSError:
                return
            now = struct.pack(">II", int(time.time()) + 2_208_988_800 & 0xFFFFFFFF, 0)
            sock.sendto(bytes([0x24, 2, 6, 0xEC]) + bytes(12) + now + question[40:48] + now + now, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sock.close()


def disk(path: Path, label: str) -> Path:
    path.touch()
    path.open("r+b").truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", label, str(path)], check=True)
    return path


def add_arguments(medium: Path, words: str) -> None:
    """What somebody types at the boot menu, in the padding of the arguments' slot."""
    slot = _iso_image._read_layout(medium).slots[_iso_image.ARGS_SLOT]
    with medium.open("r+b") as image:
        image.seek(slot.offset)
        text = image.read(slot.length).rstrip(b"\n") + f'\nset coldmig_args="$coldmig_args {words}"'.encode()
        image.seek(slot.offset)
        image.write(text.ljust(slot.length, b"\n"))


def authority(directory: Path) -> str:
    """A real certificate: the agent does not go on without one."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-subj", "/CN=authority", "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    return (directory / "ca.pem").read_text()


def settings(site_config: dict[str, Any], authority: str, public_key: str, hashed: str) -> dict[str, Any]:
    site = {
        "url": "https://site.example:8443",
        "ca_pem": authority,
        "proxy": {"url": "http://10.0.2.2:9", "username": "mig", "password": "Pr0xySecret"},
    }
    row = {
        "match": {"serial": SERIAL},
        "network": {
            "bonds": [{"name": "bond0", "mode": "active-backup", "members": [{"driver": "e1000"}, {"mac": MACS[1]}]}],
            "interfaces": [
                {
                    "match": {"bond": "bond0"},
                    "addresses": ["10.0.2.77/24", "2001:db8:77::7/64"],
                    "gateway": "10.0.2.2",
                    "gateway6": "2001:db8:77::1",
                    "routes": [{"to": "198.51.100.0/24", "via": "10.0.2.3", "metric": 50}],
                },
                {"match": {"bond": "bond0"}, "vlan": 120, "addresses": ["192.0.2.10/24"], "mtu": 1400},
            ],
        },
        "banner": BANNER,
    }
    return {
        **site_config,
        "site": site,
        "network": {"dns": ["10.0.2.3"], "search": ["example.com"]},
        "time": {"ntp": ["10.0.2.2"], "zone": "Europe/Berlin"},
        "keyboard": "de-latin1",
        "access": {"root_password_hash": hashed, "ssh_keys": [public_key]},
        "disks": {"leave_out": [{"serial": "BY-SERIAL"}]},
        "machines": [{"match": {"mac": "52:54:00:00:00:01"}, "banner": "another machine"}, row],
    }


def ssh(port: int, key: Path, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=60"]
    argv = ["ssh", "-i", str(key), "-p", str(port), *(word for option in options for word in ("-o", option))]
    argv += ["root@127.0.0.1", command]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=scaled(60))


def wait_for_ssh(running: Running, ports: list[int], key: Path, seconds: float) -> tuple[int, str]:
    """The forwarded port behind which the bond's active card is, and what was said at the login."""
    deadline = time.monotonic() + scaled(seconds)
    said = ""
    while time.monotonic() < deadline:
        assert running.alive, running.text()
        for port in ports:
            done = ssh(port, key, "true")
            if done.returncode == 0:
                return port, done.stderr
            said = done.stderr
        time.sleep(1)
    raise AssertionError(f"no login by SSH: {said}\n{running.text()}")


def test_one_boot_with_nearly_every_setting(base_iso: Path, tmp_path: Path, site_config: dict[str, Any]) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(key)], check=True)
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", "saltsalt", "R00tSecret"], capture_output=True, text=True, check=True
    ).stdout.strip()
    public_key = key.with_suffix(".pub").read_text().strip()
    medium = tmp_path / "template.iso"
    write_iso(base_iso, medium, settings(site_config, authority(tmp_path), public_key, hashed), ["net.ifnames=0"])
    add_arguments(
        medium, "coldmig.search=kernel.example coldmig.leave_out=label=BY-LABEL coldmig.vlan=x coldmig.nonsense=1"
    )
    ports = [free_port(), free_port()]
    nics = ["-netdev", "user,id=n2", "-device", f"virtio-net-pci,netdev=n2,mac={MACS[2]},romfile="]
    for number, (model, port) in enumerate(zip(("e1000", "virtio-net-pci"), ports, strict=True)):
        nics += ["-netdev", f"user,id=n{number},hostfwd=tcp:127.0.0.1:{port}-10.0.2.77:22"]
        nics += ["-device", f"{model},netdev=n{number},mac={MACS[number]},romfile="]
    machine = Machine(
        name="settings",
        directory=tmp_path,
        memory_mib=768,
        medium=medium,
        controller=Controller.VIRTIO_BLK,
        disks=[Disk(disk(tmp_path / f"{name}.raw", name), name) for name in ("KEPT", "BY-SERIAL", "BY-LABEL")],
        smbios=Smbios(serial=SERIAL),
        extra=[*nics, "-rtc", f"base={RTC}"],
    )
    with time_server(), machine.start() as running:
        port, greeting = wait_for_ssh(running, ports, key, 60)
        deadline = time.monotonic() + scaled(30)
        while True:
            done = ssh(port, key, "python3 -", LOOK)
            assert done.returncode == 0, done.stderr
            (tmp_path / "found.json").write_text(done.stdout)
            found: dict[str, Any] = json.loads(done.stdout)
            # The agent has written the name servers and set the clock.
            if (found["now"] > TOO_OLD and found["resolv"]) or time.monotonic() > deadline:
                break
    assert BANNER in greeting
    check_network(found)
    check_rest(found, hashed)


def check_network(found: dict[str, Any]) -> None:
    links = {link["ifname"]: link for link in found["links"]}
    addresses = {name: {item["local"] for item in link["addr_info"]} for name, link in links.items()}
    assert {"10.0.2.77", "2001:db8:77::7"} <= addresses["bond0"]
    cards = [link for link in links.values() if link.get("linkinfo", {}).get("info_kind") not in {"bond", "vlan"}]
    by_mac = {link.get("permaddr", link.get("address")): link for link in cards}
    assert [by_mac[mac].get("master") for mac in MACS] == ["bond0", "bond0", None]
    assert not [item for item in by_mac[MACS[2]]["addr_info"] if item["scope"] == "global"]
    assert "fault-tolerance (active-backup)" in found["bond"]
    assert links["bond0"]["address"] in MACS[:2]
    (vlan,) = (link for link in links.values() if link.get("linkinfo", {}).get("info_kind") == "vlan")
    assert (vlan["linkinfo"]["info_data"]["id"], vlan["link"], vlan["mtu"]) == (120, "bond0", 1400)
    assert addresses[vlan["ifname"]] >= {"192.0.2.10"}
    ways = [(route["dst"], route.get("gateway"), route["dev"]) for route in found["routes"]]
    assert ("198.51.100.0/24", "10.0.2.3", "bond0") in ways
    assert [way for way in ways if way[0] == "default"] == [
        ("default", "10.0.2.2", "bond0"),
        ("default", "2001:db8:77::1", "bond0"),
    ]
    assert found["resolv"].split() == ["search", "kernel.example", "nameserver", "10.0.2.3"]
    assert not [line for line in found["networkd"].splitlines() if "coldmig" in line and "nknown" in line]


def check_rest(found: dict[str, Any], hashed: str) -> None:
    sources = dict(found["origins"])
    assert SERIAL in sources["network"]
    assert "coldmig.search" in sources["search"]
    problems = sorted(set(found["problems"]))
    assert [problem.split(" is not ")[0] for problem in problems] == ["coldmig.nonsense", "coldmig.vlan=x"]
    assert found["kept"] == ["KEPT"]
    assert sorted(found["left"]) == [
        ["BY-LABEL", "left out by the settings (label BY-LABEL)"],
        ["BY-SERIAL", "left out by the settings (serial BY-SERIAL)"],
    ]
    assert found["zone"] == "/usr/share/zoneinfo/Europe/Berlin"
    assert found["date"] in {"CET", "CEST"}
    # The clock is right and the hardware's is not, and the kernel is not told to make it so.
    assert found["now"] > TOO_OLD > found["rtc"]
    assert found["unsynchronised"]
    assert chr(found["key"]) == "ü"
    assert found["shadow"].split(":")[:2] == ["root", hashed]
    assert found["modes"] == {"/etc/shadow": "0o600", "/root/.ssh/authorized_keys": "0o600"}
    assert found["failed"] == ""
    assert found["fingerprint"].startswith("SHA256:")
    for secret in ("Pr0xySecret", "R00tSecret", hashed):
        assert secret not in found["log"]
        assert not [argument for argument in found["arguments"] if secret in argument]
