# SPDX-License-Identifier: GPL-3.0-or-later
"""The real systemd-networkd, in a network namespace of its own, on the files that the agent writes (root only).

Bonds and VLANs are in tests/iso/test_boot_settings.py: they need modules that a kernel for containers may not have.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coldmig_agent.netconfig import Card, choose, networkd_files, write
from coldmig_agent.netsettings import parse_network
from support.processes import wait_until

NETWORKD = Path("/usr/lib/systemd/systemd-networkd")
CARDS = (
    Card("port1", "02:00:5e:00:01:01", "ixgbe"),
    Card("port2", "02:00:5e:00:01:02", "ixgbe"),
    Card("port3", "02:00:5e:00:01:03", "e1000"),
    Card("port4", "02:00:5e:00:01:04", "e1000"),
)
NETWORK = {
    "interfaces": [
        {
            "match": {"mac": CARDS[0].mac},
            "addresses": ["192.0.2.10/24", "2001:db8::10/64"],
            "gateway": "192.0.2.1",
            "gateway6": "fe80::1",
            "routes": [{"to": "198.51.100.0/24", "via": "192.0.2.2", "metric": 7}],
        },
        {
            "match": {"driver": "e1000"},
            "addresses": ["203.0.113.9/32"],
            "mtu": 9000,
            "routes": [{"to": "10.0.0.0/8", "metric": 70}, {"to": "172.16.0.0/12", "via": "172.31.1.1"}],
        },
    ],
    "dns": ["192.0.2.53", "2001:db8::53"],
    "search": ["a.example", "b.example"],
    "mtu": 1450,
}
# A /sys that cannot be written tells networkd that there is no udev to wait for, as in a container.
RUN = """
set -e
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/dbus
cp "$1"/* /run/systemd/network/
shift
for card; do
    ip link add "${card%%,*}" address "${card#*,}" type veth peer name "far-${card%%,*}"
    ip link set "far-${card%%,*}" up
done
ip link set lo up
/usr/lib/systemd/systemd-networkd 2>/run/log &
while read -r command; do
    case $command in
    look)
        printf '{"links": %s, "routes": %s, "routes6": %s, "state": ' "$(ip -json -details address)" \
            "$(ip -json route show)" "$(ip -6 -json route show)"
        python3 -c 'import json, sys; print(json.dumps(open("/run/systemd/netif/state").read() + "\\n"), end="")' ||
            printf '""'
        printf ', "log": '
        python3 -c 'import json; print(json.dumps(open("/run/log").read()) + "}")'
        ;;
    end) kill %1; exit ;;
    esac
done
kill %1
"""


class Networkd:
    """systemd-networkd in its namespace; ``look`` says what it has made."""

    def __init__(self, directory: Path) -> None:
        cards = [f"{card.name},{card.mac}" for card in CARDS]
        argv = ["unshare", "--net", "--mount", "--propagation", "private", "bash", "-c", RUN, "bash", str(directory)]
        self._process = subprocess.Popen([*argv, *cards], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def look(self) -> dict[str, Any]:
        """Links, routes, networkd's state file and its log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("look\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        found["by_name"] = {link["ifname"]: link for link in found["links"]}
        return found

    def close(self) -> None:
        """End it."""
        self._process.communicate("end\n", timeout=30)


@pytest.fixture
def networkd(tmp_path: Path) -> Iterator[Networkd]:
    config = parse_network(NETWORK)
    plan = networkd_files(config, CARDS, choose(config, CARDS, lambda names: names[0]))
    assert plan.problems == ()
    write(plan.files, tmp_path / "files")
    running = Networkd(tmp_path / "files")
    yield running
    running.close()


def addresses(link: dict[str, Any]) -> set[str]:
    return {f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] == "global"}


def test_the_real_networkd_makes_what_the_settings_say(networkd: Networkd) -> None:
    seen: dict[str, Any] = {}

    def ready() -> bool:
        seen.update(networkd.look())
        return (
            len(addresses(seen["by_name"]["port1"])) == 2
            and len(addresses(seen["by_name"]["port3"])) == 1
            and any(route["dst"] == "default" for route in seen["routes6"])
            and any(route["dst"] == "172.16.0.0/12" for route in seen["routes"])
            and "DNS=" in seen["state"]
        )

    wait_until(ready, lambda: f"what the settings say:\n{seen['log']}\n{seen['routes']}")
    links = seen["by_name"]
    assert (links["port1"]["mtu"], addresses(links["port1"])) == (1450, {"192.0.2.10/24", "2001:db8::10/64"})
    assert (links["port3"]["mtu"], addresses(links["port3"])) == (9000, {"203.0.113.9/32"})
    ways = {(way["dst"], way.get("gateway"), way["dev"], way.get("metric")) for way in seen["routes"] + seen["routes6"]}
    assert {way[1:3] for way in ways if way[0] == "default"} == {("192.0.2.1", "port1"), ("fe80::1", "port1")}
    assert {("10.0.0.0/8", None, "port3", 70), ("198.51.100.0/24", "192.0.2.2", "port1", 7)} <= ways
    # A router outside the only host of the network, as hosters have it.
    assert ("172.16.0.0/12", "172.31.1.1", "port3", None) in ways
    state = dict(line.split("=", 1) for line in seen["state"].splitlines() if "=" in line)
    assert state["DNS"].split() == NETWORK["dns"]
    assert state["DOMAINS"].split() == NETWORK["search"]
    assert [line for line in seen["log"].splitlines() if "coldmig" in line and "nknown" in line] == []
