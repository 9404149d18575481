# SPDX-License-Identifier: GPL-3.0-or-later
"""The ISO's settings: what is accepted, and that an error names field, value and what is allowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from agent_lab import Authority

from coldmig_agent.config import ConfigError, load_config, parse_config
from support.agent import iso_settings

CA = Authority.create().pem


def parse(change: Any = None) -> Any:
    document = copy.deepcopy(iso_settings("https://site.example:8443", CA))
    if change is not None:
        change(document)
    return parse_config(json.dumps(document).encode())


def test_a_complete_document_is_taken_over() -> None:
    config = parse()
    assert (config.site.endpoint.host, config.site.endpoint.port) == ("site.example", 8443)
    assert config.site.proxy is None
    assert config.template.organization == "acme"
    assert config.network.interfaces == ()
    assert not config.access.ssh
    assert not config.poweroff_when_done


def test_port_443_is_the_default() -> None:
    assert parse(lambda d: d["site"].update(url="https://192.0.2.1/")).site.endpoint.port == 443


def test_an_ipv6_site_is_accepted() -> None:
    assert parse(lambda d: d["site"].update(url="https://[2001:db8::1]:8443")).site.endpoint.host == "2001:db8::1"


def proxy(**more: object) -> Any:
    return lambda d: d["site"].update(proxy={"url": "http://proxy.example:3129", **more})


def test_a_proxy_may_have_a_user() -> None:
    found = parse(proxy(username="user", password="p@ss:w")).site.proxy
    assert (found.host, found.port, found.user, found.password) == ("proxy.example", 3129, "user", "p@ss:w")


def static(**interface: object) -> Any:
    entry = {
        "match": {"mac": "00-50-56-AA-BB-CC"},
        "addresses": ["192.0.2.10/24"],
        "gateway": "192.0.2.1",
        "vlan": None,
    }
    entry.update(interface)
    return lambda d: d.update(network={"interfaces": [entry], "dns": ["192.0.2.53"], "mtu": 1400})


def test_static_addresses_are_taken_over() -> None:
    network = parse(static(vlan=100)).network
    assert network.interfaces[0].match.mac == "00:50:56:aa:bb:cc"
    assert not network.interfaces[0].dhcp
    assert network.interfaces[0].vlan == 100
    assert network.mtu == 1400


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        (lambda d: d.update(format=1), "format", "2"),
        (lambda d: d.update(format=True), "format", "2"),
        (lambda d: d.pop("site"), "site", "an object"),
        (lambda d: d["site"].update(url="http://site.example"), "site.url", "https://HOST:PORT"),
        (lambda d: d["site"].update(url="https://site.example/path"), "site.url", "https://HOST:PORT"),
        (lambda d: d["site"].update(url="https://site.example:99999"), "site.url", "https://HOST:PORT"),
        (lambda d: d["site"].update(ca_pem="none"), "site.ca_pem", "PEM"),
        (lambda d: d["site"].update(proxy="socks://x"), "site.proxy.url", "http://HOST:PORT"),
        (proxy(password="x"), "site.proxy.username", "because there is a password"),
        (proxy(username="a:b"), "site.proxy.username", "without a colon"),
        (lambda d: d["site"].update(verify=False), "site.verify", "ca_pem"),
        (lambda d: d.update(extra=1), "extra", "known fields"),
        (lambda d: d["template"].update(name=""), "template.name", "not empty"),
        (lambda d: d["network"].update(mode="auto"), "network.mode", "known fields"),
        (lambda d: d["network"].update(dns=["name.example"]), "network.dns[0]", "an IP address"),
        (lambda d: d["network"].update(mtu=20), "network.mtu", "576"),
        (static(addresses=["192.0.2.10"]), "network.interfaces[0].addresses[0]", "prefix length"),
        (static(addresses=[], dhcp=False), "network.interfaces[0].addresses", "because dhcp is false"),
        (static(match={"bond": "bond1"}), "network.interfaces[0].match.bond", "there are none"),
        (static(gateway6="192.0.2.1"), "network.interfaces[0].gateway6", "IPv6"),
        (static(routes=[{"to": "default"}]), "network.interfaces[0].routes[0].via", "router"),
        (static(routes=[{"to": "192.0.2.1/24", "via": "192.0.2.1"}]), "network.interfaces[0].routes[0].to", "network"),
        (lambda d: d.update(time={"zone": "../etc"}), "time.zone", "Europe/Berlin"),
        (lambda d: d.update(time={"ntp": ["a b"]}), "time.ntp[0]", "host name"),
        (lambda d: d.update(keyboard="../de"), "keyboard", "keymap"),
        (lambda d: d.update(access={"ssh_keys": ["command=x ssh-rsa AAAA"]}), "access.ssh_keys[0]", "public SSH key"),
        (lambda d: d.update(disks={"leave_out": [{}]}), "disks.leave_out[0]", "at least one of"),
        (lambda d: d.update(disks={"leave_out": [{"path": "sdb"}]}), "disks.leave_out[0].path", "/dev/"),
        (lambda d: d.update(disks={"leave_out": [{"size": "4 apples"}]}), "disks.leave_out[0].size", "4TB"),
        (lambda d: d.update(machines=[{"match": {}}]), "machines[0].match", "exactly one"),
        (lambda d: d.update(machines=[{"match": {"mac": "x"}}]), "machines[0].match.mac", "MAC"),
        (lambda d: d.update(machines=[{"match": {"serial": "x"}, "site": 1}]), "machines[0].site", "known fields"),
        (lambda d: d["console"].update(mode="braille"), "console.mode", "auto, plain, screen"),
        (static(match={}), "network.interfaces[0].match", "exactly one"),
        (static(match={"mac": "zz"}), "network.interfaces[0].match.mac", "MAC"),
        (static(match={"name": "a/b"}), "network.interfaces[0].match.name", "15 characters"),
        (static(gateway="router"), "network.interfaces[0].gateway", "an IP address"),
        (static(vlan=4095), "network.interfaces[0].vlan", "4094"),
        (lambda d: d.update(poweroff_when_done="yes"), "poweroff_when_done", "true or false"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_what_is_allowed(change: Any, field: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(change)
    assert caught.value.field == field
    assert allowed in str(caught.value)


def test_a_wrong_credential_is_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(lambda d: d.update(credential="cm1_iso_secretsecret"))
    assert caught.value.field == "credential"
    assert "secretsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["site"].update(proxy="http://user:hunter2@proxy/path"),
        lambda d: d["site"].update(proxy="http://user:hunter2@proxy:99999"),
        lambda d: d["site"].update(proxy={"url": "http://user:hunter2@proxy"}),
        proxy(username="u", password="hunter2\n"),
        proxy(username="u", passwort="hunter2"),
        lambda d: d.update(access={"root_password_hash": "hunter2"}),
        lambda d: d.update(access={"root_password_hash": ["hunter2"]}),
    ],
)
def test_a_wrong_secret_is_never_shown(change: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(change)
    assert "hunter2" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    def change(document: dict[str, Any]) -> None:
        proxy(username="user", password="hunter2")(document)
        document["access"] = {"root_password_hash": "$6$saltsalt$hunter2hunter2"}
        document["machines"] = [{"match": {"serial": "S"}, "proxy": {"url": "http://p:1", "password": "hunter2"}}]

    config = parse(change)
    assert config.site.proxy.password == "hunter2"
    assert "hunter2" not in repr(config)
    assert config.credential not in repr(config)


@pytest.mark.parametrize(
    ("text", "number", "exact"),
    [
        (512, 512, True),
        ("512", 512, True),
        ("512B", 512, True),
        ("4TB", 4 * 10**12, False),
        ("1.5 GiB", 3 << 29, False),
        ("100g", 100 * 10**9, False),
    ],
)
def test_sizes_are_decimal_or_binary_as_their_units_say(text: Any, number: int, exact: bool) -> None:
    rule = parse(lambda d: d.update(disks={"leave_out": [{"size": text}]})).disks.leave_out[0]
    assert (rule.size_bytes, rule.exact) == (number, exact)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(data)


def test_an_iso_without_settings_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made for a template"):
        load_config(tmp_path / "absent.json")
