# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of an ISO: what is accepted, and what the errors name."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._iso_config import (
    HIDDEN,
    ConfigError,
    public_config,
    validate_config,
    validate_kernel_args,
)

from coldmig_agent import settings
from coldmig_agent.config import parse_document

STATIC = {
    "mode": "static",
    "interfaces": [
        {"match": {"mac": "52-54-00-AA-BB-CC"}, "addresses": ["10.0.0.5/24"], "gateway": "10.0.0.1", "vlan": 7}
    ],
    "dns": ["10.0.0.2", "2001:DB8::1"],
    "mtu": 9000,
}


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(config)
    *parents, last = path.split(".")
    place: Any = result
    for name in parents:
        place = place[int(name)] if name.isdigit() else place.setdefault(name, {})
    place[int(last) if last.isdigit() else last] = value
    return result


def test_defaults_are_filled_in(site_config: dict[str, Any]) -> None:
    clean = validate_config(site_config)
    assert clean["format"] == 2
    assert clean["site"]["proxy"] is None
    assert clean["network"] == {"interfaces": [], "bonds": [], "dns": [], "search": [], "mtu": None}
    assert clean["console"] == {"serial": "ttyS0,115200", "shell": False, "mode": "auto"}
    assert clean["access"] == {"root_password_hash": None, "ssh_keys": []}
    assert clean["machines"] == []
    assert clean["poweroff_when_done"] is False
    assert validate_config(clean) == clean


def test_static_network_is_normalised(site_config: dict[str, Any]) -> None:
    clean = validate_config({**site_config, "network": STATIC})["network"]
    assert clean["interfaces"][0]["match"] == {"mac": "52:54:00:aa:bb:cc"}
    assert clean["dns"] == ["10.0.0.2", "2001:db8::1"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", 1, "this version writes 2"),
        ("site.url", "http://site.example", "https://host:port"),
        ("site.url", "https://user:secret@site.example", "must not hold a user name"),
        ("site.url", "https://site.example/api", "without a path"),
        ("site.ca_pem", "nothing", "PEM certificates"),
        (
            "site.ca_pem",
            "-----BEGIN CERTIFICATE-----\nMAoCAQECAQICAQM=\n-----END CERTIFICATE-----\n",  # DER, but of something else
            "PEM certificates",
        ),
        ("site.proxy", "socks5://p:1", "http://host:port"),
        ("template.name", "", "1 to 255 characters"),
        ("template.colour", "red", "allowed are id, name, organization"),
        ("site.proxy", {"url": "http://u:p@x:1"}, "fields of their own"),
        ("site.proxy", {"url": "http://x:1", "password": "p"}, "there is a password"),
        ("site.proxy", {"url": "http://x:1", "username": "a:b"}, "without a colon"),
        ("network.mode", "bridge", "dhcp, static"),
        ("network.mtu", 20, "from 576 to 9216"),
        ("network.dns", "10.0.0.1", "must be a list"),
        ("network.dns", ["ns.example"], "IPv4 or IPv6 address"),
        ("network.search", ["a b"], "example.com"),
        ("console.serial", "com1", "ttyS0,115200"),
        ("console.mode", "braille", "auto, plain, screen"),
        ("time.ntp", ["time server"], "host name"),
        ("time.zone", "Europe/Atlantis", "Europe/Berlin"),
        ("time.zone", "/etc/shadow", "Europe/Berlin"),
        ("keyboard", "deu", "de-latin1"),
        ("keyboard", 7, "azerty"),
        ("access.root_password_hash", "secret", "mkpasswd"),
        ("access.root_password_hash", "$1$salt$0123456789", "mkpasswd"),
        ("access.ssh_keys", ["AAAA"], "public SSH key"),
        ("access.ssh_keys", ["ssh-ed25519 AAAAC3NzaC1yc2EAAAA"], "public SSH key"),
        ("access.ssh_keys", ['command="x" ' + "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"], "without options"),
        ("banner", "x" * 2001, "at most 2000"),
        ("banner", "\x1b[2J", "printable"),
        ("disks.leave_out", [{}], "at least one of"),
        ("disks.leave_out", [{"path": "sdb"}], "/dev/"),
        ("disks.leave_out", [{"size": "huge"}], "4TB"),
        ("machines", [{"match": {"serial": "1", "mac": "52:54:00:aa:bb:cc"}}], "exactly one of serial, mac"),
        ("machines", [{"match": {"serial": "1"}}, {"match": {"serial": "1"}}], "machines[0] too"),
        ("machines", [{"match": {"serial": "1"}, "site": {}}], "is not known"),
        ("machines", [{"match": {"serial": "1"}, "network": {"mtu": 1}}], "from 576 to 9216"),
        ("poweroff_when_done", "yes", "true or false"),
    ],
)
def test_error_names_field_and_what_is_allowed(site_config: dict[str, Any], path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(changed(site_config, path, value))
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert problem.field.startswith(path)
    assert words in problem.message


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("network.interfaces.0.addresses", ["10.0.0.5"], "prefix length"),
        ("network.interfaces.0.addresses", [], "at least one address"),
        ("network.interfaces.0.gateway6", "10.0.0.1", "must be an IPv6 address"),
        ("network.interfaces.0.dhcp", "yes", "true or false"),
        ("network.interfaces.0.mtu", 100, "from 576 to 9216"),
        ("network.interfaces.0.routes", [{"to": "10.1.0.1/16", "via": "10.0.0.1"}], "198.51.100.0/24"),
        ("network.interfaces.0.routes", [{"to": "default"}], "address of the router"),
        ("network.interfaces.0.routes", [{"to": "10.1.0.0/16", "via": "10.9.0.1"}], "in none of the networks"),
        ("network.interfaces.0.match", {"bond": "bond9"}, "is not one of network.bonds"),
        ("network.interfaces.0.match", {"driver": "a/b"}, "kernel driver"),
        ("network.bonds", [{"name": "bond0", "members": []}], "at least one interface"),
        ("network.bonds", [{"name": "bond0", "mode": "balance-rr", "members": [{"name": "a"}]}], "802.3ad"),
        ("network.bonds", [{"name": "b", "members": [{"mac": "52:54:00:AA:BB:CC"}]}], "belongs to a bond"),
        ("network.interfaces.0.gateway", "10.9.9.9", "in none of the networks"),
        ("network.interfaces.0.vlan", 5000, "from 1 to 4094"),
        ("network.interfaces.0.match", {"mac": "52:54:00:aa:bb:cc", "name": "eno1"}, "exactly one of"),
        ("network.interfaces.0.match.mac", "none", "MAC address"),
        ("network.interfaces.0.match.mac", "41135085296", "in quotes"),
        ("network.interfaces", [], "at least one interface"),
    ],
)
def test_error_in_a_static_interface_names_it(site_config: dict[str, Any], path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.(interfaces|bonds)") as caught:
        validate_config(changed({**site_config, "network": STATIC}, path, value))
    assert any(words in problem.message for problem in caught.value.problems)


def test_what_no_interface_shows_by_itself_is_seen(site_config: dict[str, Any]) -> None:
    first = {"match": {"name": "a"}, "addresses": ["10.0.0.5/24"], "gateway": "10.0.0.1"}
    second = {"match": {"name": "b"}, "addresses": ["10.0.0.5/24"], "gateway": "10.0.0.2"}
    bonds = [{"name": "bond0", "members": [{"name": "c"}]}] * 2
    with pytest.raises(ConfigError) as caught:
        validate_config({**site_config, "network": {"interfaces": [first, second, first], "bonds": bonds}})
    assert [str(problem).split(" ", 2)[2] for problem in caught.value.problems if "bonds" in problem.field] == [
        "is the name of another bond already"
    ]
    assert {problem.field for problem in caught.value.problems} == {
        "network.bonds[1].name",
        "network.interfaces[1].addresses",
        "network.interfaces[1].gateway",
        "network.interfaces[2].match",
        "network.interfaces[2].addresses",
        "network.interfaces[2].gateway",
    }


@pytest.mark.parametrize(
    ("addresses", "gateways"),
    [
        (["198.51.100.9/32"], {"gateway": "192.0.2.1"}),
        (["2001:db8::9/64"], {"gateway": "fe80::1"}),
        (["10.0.0.5/24", "2001:db8::9/64"], {"gateway": "10.0.0.1", "gateway6": "2001:db8::1"}),
    ],
)
def test_gateway_of_a_hoster_or_of_the_link_is_taken(
    site_config: dict[str, Any], addresses: list[str], gateways: dict[str, str]
) -> None:
    entry = {"match": {"name": "a"}, "addresses": addresses, **gateways}
    clean = validate_config({**site_config, "network": {"interfaces": [entry]}})["network"]["interfaces"][0]
    assert {key: clean[key] for key in gateways} == gateways


EVERYTHING = {
    "network": {
        "bonds": [{"name": "bond0", "mode": "active-backup", "members": [{"driver": "ixgbe"}]}],
        "interfaces": [
            {"match": {"bond": "bond0"}, "vlan": 120, "mtu": 1400, "addresses": ["10.0.0.5/24", "2001:db8::5/64"],
             "gateway": "10.0.0.1", "gateway6": "fe80::1",
             "routes": [{"to": "192.0.2.0/24", "via": "10.0.0.2", "metric": 5}]},
            {"match": {"first_with_carrier": True}, "dhcp": True, "addresses": ["2001:db8:1::5/64"]},
        ],
        "dns": ["10.0.0.53"],
        "search": ["example.com"],
        "mtu": 9000,
    },
    "console": {"serial": None, "shell": True, "mode": "plain"},
    "time": {"ntp": ["ntp.example.com", "2001:db8::123"], "zone": "Europe/Berlin"},
    "keyboard": "de-latin1",
    "access": {
        "root_password_hash": "$6$rounds=5000$saltsalt$" + "h" * 86,
        "ssh_keys": ["ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode() + " me@example"],
    },
    "banner": "Call 555 0100\nbefore you touch this.",
    "disks": {"leave_out": [{"serial": "S1"}, {"label": "BACKUP", "size": "4TB"}, {"path": "/dev/disk/by-id/usb-*"}]},
    "machines": [
        {"match": {"serial": "S7"}, "network": {"dns": ["10.0.0.54"]}, "banner": "machine 7"},
        {"match": {"mac": "52:54:00:12:34:56"}, "proxy": {"url": "http://10.0.0.9:3128", "username": "u"}},
    ],
    "poweroff_when_done": True,
}  # fmt: skip


def test_what_the_validator_lets_through_the_agent_takes_the_same_way(site_config: dict[str, Any]) -> None:
    proxy = {"url": "http://10.0.0.8:3128", "username": "u", "password": "hunter2"}
    clean = validate_config({**site_config, **EVERYTHING, "site": {**site_config["site"], "proxy": proxy}})
    assert validate_config(clean) == clean
    config = parse_document(clean)
    assert (config.network.interfaces[0].gateways, config.network.interfaces[0].dhcp) == (
        ("10.0.0.1", "fe80::1"),
        False,
    )
    assert config.network.interfaces[1].dhcp
    assert (config.shell, config.console_mode, config.serial_console) == (True, "plain", None)
    assert config.disks.leave_out[1].size_bytes == 4 * 10**12
    by_serial = settings.effective(config, {}, "S7", []).config
    assert (by_serial.network.dns, by_serial.network.bonds) == (("10.0.0.54",), config.network.bonds)
    assert (by_serial.banner, by_serial.site.proxy) == ("machine 7", config.site.proxy)
    by_mac = settings.effective(config, {}, "", ["52:54:00:12:34:56"]).config
    assert by_mac.site.proxy is not None
    assert (by_mac.site.proxy.host, by_mac.site.proxy.password) == ("10.0.0.9", None)


def test_machine_is_checked_with_what_it_has_from_the_iso(site_config: dict[str, Any]) -> None:
    row = {"match": {"serial": "1"}, "network": {"bonds": []}}
    with pytest.raises(ConfigError) as caught:
        validate_config({**site_config, "network": EVERYTHING["network"], "machines": [row]})
    assert [problem.field for problem in caught.value.problems] == ["machines[0].network.interfaces[0].match.bond"]


def test_what_is_shown_holds_no_secret(site_config: dict[str, Any]) -> None:
    row = {"match": {"serial": "1"}, "access": {"root_password_hash": "$6$saltsalt$hunter2hunter2"}}
    proxy = {"url": "http://10.0.0.8:3128", "username": "u", "password": "hunter2"}
    clean = validate_config({**site_config, "site": {**site_config["site"], "proxy": proxy}, "machines": [row]})
    shown = public_config(clean)
    assert shown["site"]["proxy"] == {"url": "http://10.0.0.8:3128", "username": "u", "password": HIDDEN}
    assert shown["access"]["root_password_hash"] is None
    assert "hunter2" not in str(shown)
    assert "cm1_iso" not in str(shown)


@pytest.mark.parametrize(
    "change",
    [
        {"access": {"root_password_hash": "hunter2"}},
        {"access": {"ssh_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----hunter2"]}},
        {"proxy": "http://u:hunter2@x:1"},
        {"proxy": "http://u:hunter2@x:99999"},
        {"proxy": {"url": "http://x:1", "username": "u", "password": "hunter2\n"}},
    ],
)
def test_wrong_secret_never_appears_in_an_error(site_config: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config({**site_config, "machines": [{"match": {"serial": "1"}, **change}]})
    assert "hunter2" not in str(caught.value)


def test_all_problems_are_reported_at_once(site_config: dict[str, Any]) -> None:
    broken = changed(changed(site_config, "site.url", "ftp://x"), "network.mtu", 1)
    with pytest.raises(ConfigError) as caught:
        validate_config(broken)
    assert {problem.field for problem in caught.value.problems} == {"site.url", "network.mtu"}


def test_credential_never_appears_in_an_error(site_config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config({**site_config, "credential": "cm1_pro_TOPSECRET"})
    assert "TOPSECRET" not in str(caught.value)
    assert caught.value.problems[0].field == "credential"


def test_kernel_arguments_are_kept_in_order() -> None:
    wanted = ["net.ifnames=0", "nomodeset", "coldmig.inspect=no", "coldmig.inspect=120"]
    assert validate_kernel_args(wanted) == wanted


@pytest.mark.parametrize(
    "argument",
    [
        "resume=/dev/sda2",
        "init=/bin/sh",
        "systemd.gpt_auto=1",
        "coldmig.volume=X",
        "coldmig.inspect",
        "coldmig.inspect=no,coldmig",
        "coldmig.ip=10.0.0.5/24",
        "swap",
        "fstab=yes",
        "raid=autodetect",
    ],
)
def test_kernel_argument_that_lifts_the_fence_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="reserved"):
        validate_kernel_args([argument])


@pytest.mark.parametrize("argument", ['x"; halt', "a b", "$x", "", "x\ny", "x'y", "{", ";reboot"])
def test_kernel_argument_that_would_be_grub_script_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="one word"):
        validate_kernel_args([argument])
