# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of an ISO: what is accepted, and what the errors name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._iso_config import (
    ConfigError,
    validate_config,
    validate_kernel_args,
)

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
    assert clean["format"] == 1
    assert clean["site"]["proxy"] is None
    assert clean["network"] == {"mode": "dhcp", "interfaces": [], "dns": [], "mtu": None}
    assert clean["console"] == {"serial": "ttyS0,115200", "shell": False}
    assert clean["poweroff_when_done"] is False
    assert validate_config(clean) == clean


def test_static_network_is_normalised(site_config: dict[str, Any]) -> None:
    clean = validate_config({**site_config, "network": STATIC})["network"]
    assert clean["interfaces"][0]["match"] == {"mac": "52:54:00:aa:bb:cc"}
    assert clean["dns"] == ["10.0.0.2", "2001:db8::1"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", 2, "this version writes 1"),
        ("site.url", "http://site.example", "https://host:port"),
        ("site.url", "https://user:secret@site.example", "must not hold a user name"),
        ("site.url", "https://site.example/api", "without a path"),
        ("site.ca_pem", "nothing", "PEM certificates"),
        ("site.proxy", "socks5://p:1", "http://host:port"),
        ("template.name", "", "1 to 255 characters"),
        ("template.colour", "red", "allowed are id, name, organization"),
        ("network.mode", "bridge", '"dhcp", "static"'),
        ("network.mtu", 20, "from 576 to 9216"),
        ("network.dns", "10.0.0.1", "must be a list"),
        ("network.dns", ["ns.example"], "IPv4 or IPv6 address"),
        ("console.serial", "com1", "ttyS0,115200"),
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
        ("network.interfaces.0.gateway", "10.9.9.9", "in none of the networks"),
        ("network.interfaces.0.vlan", 5000, "from 1 to 4094"),
        ("network.interfaces.0.match", {"mac": "52:54:00:aa:bb:cc", "name": "eno1"}, "exactly one of"),
        ("network.interfaces.0.match.mac", "none", "MAC address"),
        ("network.interfaces.0.match.mac", "41135085296", "in quotes"),
        ("network.interfaces", [], "at least one interface"),
    ],
)
def test_error_in_a_static_interface_names_it(site_config: dict[str, Any], path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.interfaces") as caught:
        validate_config(changed({**site_config, "network": STATIC}, path, value))
    assert any(words in problem.message for problem in caught.value.problems)


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
