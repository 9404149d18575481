# SPDX-License-Identifier: GPL-3.0-or-later
"""Which settings count: the ISO's, the machine's row of the fleet table, the kernel's command line."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agent_lab import Authority
from hypothesis import given
from hypothesis import strategies as st

from coldmig_agent import cli, settings
from coldmig_agent.config import Config, parse_document
from coldmig_agent.netsettings import Match, Route
from support.agent import iso_settings, write_smbios

CA = Authority.create().pem
STATIC = {
    "match": {"name": "eno1"},
    "addresses": ["192.0.2.10/24"],
    "gateway": "192.0.2.1",
    "vlan": 7,
}


def config(**more: Any) -> Config:
    return parse_document(iso_settings("https://site.example:8443", CA, **more))


def typed(line: str, base: Config | None = None, serial: str = "", macs: tuple[str, ...] = ()) -> settings.Effective:
    return settings.effective(base or config(), settings.read_arguments(line), serial, macs)


def test_without_row_and_arguments_the_isos_settings_count() -> None:
    base = config(network={"interfaces": [STATIC]})
    found = typed("quiet coldmig.volume=X coldmig.inspect=no coldmig.shell=1 coldmig.console=plain", base)
    assert found == settings.Effective(base)


def test_arguments_are_words_with_a_prefix_and_the_last_one_counts() -> None:
    line = (
        'BOOT_IMAGE=/x coldmig.dns=192.0.2.1 "coldmig.keyboard=de" notcoldmig.dns=9 coldmig.dns=192.0.2.2 coldmig.ssh'
    )
    assert settings.read_arguments(line) == {"dns": "192.0.2.2", "keyboard": "de", "ssh": ""}
    assert settings.read_arguments("coldmig.dns='192.0.2.1") == {"dns": "'192.0.2.1"}  # a quote that never ends


@pytest.mark.parametrize(
    ("line", "read", "value"),
    [
        ("coldmig.site=gw.example:9443", lambda c: c.site.url, "https://gw.example:9443"),
        ("coldmig.site=https://192.0.2.9", lambda c: c.site.endpoint.port, 443),
        ("coldmig.proxy=192.0.2.3:3128", lambda c: (c.site.proxy.host, c.site.proxy.port), ("192.0.2.3", 3128)),
        ("coldmig.proxy=none", lambda c: c.site.proxy, None),
        ("coldmig.dns=192.0.2.53,2001:db8::53", lambda c: c.network.dns, ("192.0.2.53", "2001:db8::53")),
        ("coldmig.search=a.example,b.example", lambda c: c.network.search, ("a.example", "b.example")),
        ("coldmig.mtu=9000", lambda c: c.network.mtu, 9000),
        ("coldmig.ntp=192.0.2.4", lambda c: c.time.ntp, ("192.0.2.4",)),
        ("coldmig.ntp=none", lambda c: c.time.ntp, ()),
        ("coldmig.timezone=Europe/Berlin", lambda c: c.time.zone, "Europe/Berlin"),
        ("coldmig.keyboard=fr", lambda c: c.keyboard, "fr"),
        ("coldmig.poweroff=yes", lambda c: c.poweroff_when_done, True),
        ("coldmig.interface=eno2", lambda c: c.network.interfaces[0].match, Match(name="eno2")),
        (
            "coldmig.interface=00-50-56-AA-BB-CC",
            lambda c: c.network.interfaces[0].match,
            Match(mac="00:50:56:aa:bb:cc"),
        ),
        ("coldmig.interface=driver:ixgbe", lambda c: c.network.interfaces[0].match, Match(driver="ixgbe")),
        ("coldmig.interface=carrier", lambda c: c.network.interfaces[0].match, Match(first_with_carrier=True)),
        ("coldmig.vlan=120", lambda c: (c.network.interfaces[0].vlan, c.network.interfaces[0].dhcp), (120, True)),
        (
            "coldmig.ip=192.0.2.9/24,2001:db8::9/64 coldmig.gateway=192.0.2.1,fe80::1",
            lambda c: (c.network.interfaces[0].addresses, c.network.interfaces[0].gateways),
            (("192.0.2.9/24", "2001:db8::9/64"), ("192.0.2.1", "fe80::1")),
        ),
        (
            "coldmig.ip=192.0.2.9/24 coldmig.routes=10.0.0.0/8,192.0.2.2;default,192.0.2.1,100",
            lambda c: c.network.interfaces[0].routes,
            (Route("10.0.0.0/8", "192.0.2.2"), Route("default", "192.0.2.1", 100)),
        ),
        (
            "coldmig.bond=bond0:eno1,00-50-56-aa-bb-cc:active-backup",
            lambda c: (c.network.bonds[0].mode, c.network.bonds[0].members, c.network.interfaces[0].match),
            ("active-backup", (Match(name="eno1"), Match(mac="00:50:56:aa:bb:cc")), Match(bond="bond0")),
        ),
        (
            "coldmig.leave_out=serial=S1;label=BACKUP;larger_than=4TB",
            lambda c: [rule.text for rule in c.disks.leave_out],
            ["serial S1", "label BACKUP", "larger than 4TB"],
        ),
    ],
)
def test_an_argument_replaces_a_setting(line: str, read: Any, value: Any) -> None:
    found = typed(line)
    assert found.problems == ()
    assert read(found.config) == value
    assert {origin.field for origin in found.origins} == set(settings.read_arguments(line))


def test_arguments_change_the_first_interface_of_the_settings_and_keep_the_rest_of_it() -> None:
    base = config(network={"interfaces": [STATIC, {"match": {"name": "eno2"}}], "dns": ["192.0.2.53"]})
    first, second = typed("coldmig.vlan=8", base).config.network.interfaces
    assert (first.vlan, first.addresses, second.match) == (8, ("192.0.2.10/24",), Match(name="eno2"))
    (only,) = typed("coldmig.interface=eno3 coldmig.vlan=none coldmig.ip=dhcp", base).config.network.interfaces
    assert (only.match, only.vlan, only.dhcp, only.addresses, only.gateways) == (Match(name="eno3"), None, True, (), ())


def test_what_is_wrong_is_left_out_and_named_and_the_rest_counts() -> None:
    found = typed("coldmig.ip=192.0.2.9 coldmig.vlan=4095 coldmig.dns=192.0.2.53 coldmig.colour=red coldmig.ssh=yes")
    assert found.config.network.dns == ("192.0.2.53",)
    assert found.config.network.interfaces == ()
    assert [origin.field for origin in found.origins] == ["dns"]
    assert [problem.split(" is not ")[0] for problem in found.problems] == [
        "coldmig.colour",
        "coldmig.ip=192.0.2.9",
        "coldmig.vlan=4095",
        "coldmig.ssh=yes",
    ]
    assert "prefix length" in found.problems[1]
    assert "4094" in found.problems[2]


def test_another_proxy_never_sees_the_login_of_the_isos() -> None:
    proxy = {"url": "http://192.0.2.3:3128", "username": "u", "password": "hunter2"}
    base = config(site={"url": "https://site.example", "ca_pem": CA, "proxy": proxy})
    other = typed("coldmig.proxy=192.0.2.4:3128", base).config.site.proxy
    assert other is not None
    assert (other.user, other.password) == (None, None)
    same = typed("coldmig.proxy=http://192.0.2.3:3128/", base).config.site.proxy
    assert same is not None
    assert (same.user, same.password) == ("u", "hunter2")
    problem = typed("coldmig.proxy=http://me:hunter3@192.0.2.3:3128", base).problems[0]
    assert "site.proxy.url" in problem


def test_ssh_can_be_switched_off_and_not_on() -> None:
    base = config(access={"root_password_hash": "$6$saltsalt$hashhash"})
    assert base.access.ssh
    assert not typed("coldmig.ssh=no", base).config.access.ssh


ROWS = [
    {"match": {"serial": "S 1"}, "network": {"dns": ["192.0.2.1"]}, "banner": "one"},
    {
        "match": {"mac": "00:50:56:00:00:02"},
        "network": {"interfaces": [STATIC]},
        "disks": {"leave_out": [{"serial": "D"}]},
    },
    {"match": {"serial": "S 3"}, "proxy": {"url": "http://192.0.2.3:3128"}, "keyboard": "de", "time": {"zone": "UTC"}},
]


@pytest.mark.parametrize(
    ("serial", "macs", "line", "banner"),
    [
        ("S 1", (), "", "one"),
        (" S 1 ", (), "", "one"),
        ("S", (), "", "all"),
        ("", ("00:50:56:00:00:01", "00:50:56:00:00:02"), "", "all"),
        ("S 1", ("00:50:56:00:00:02",), "", "one"),
        ("S 9", (), '"coldmig.machine=S 1"', "one"),
        ("S 1", (), "coldmig.machine=00-50-56-00-00-02", "all"),
    ],
)
def test_a_machine_is_known_by_its_serial_number_before_its_mac_address(
    serial: str, macs: tuple[str, ...], line: str, banner: str
) -> None:
    base = config(machines=ROWS, banner="all", network={"search": ["a.example"]})
    found = typed(line, base, serial, macs)
    assert found.config.banner == banner
    assert found.config.network.search == ("a.example",)
    if banner == "all" and (macs or line):
        assert found.config.network.interfaces[0].vlan == 7
        assert found.config.disks.leave_out[0].serial == "D"


def test_arguments_win_over_the_row_and_the_row_over_the_iso() -> None:
    base = config(machines=ROWS, network={"dns": ["192.0.2.9"], "mtu": 1400}, time={"ntp": ["192.0.2.8"]})
    found = typed("coldmig.dns=192.0.2.2", base, "S 1")
    assert (found.config.network.dns, found.config.network.mtu) == (("192.0.2.2",), 1400)
    assert [(origin.field, origin.source) for origin in found.origins] == [
        ("network", "the ISO's table, machine S 1"),
        ("banner", "the ISO's table, machine S 1"),
        ("dns", "kernel argument coldmig.dns"),
    ]
    third = typed("", base, "S 3").config
    assert (third.site.proxy.host, third.keyboard) == ("192.0.2.3", "de")  # type: ignore[union-attr]
    assert (third.time.zone, third.time.ntp) == ("UTC", ("192.0.2.8",))


def test_a_machine_that_is_named_and_not_in_the_table_is_a_problem() -> None:
    found = typed("coldmig.machine=S9", config(machines=ROWS), "S 1")
    assert found.config.banner is None
    assert found.problems == ("coldmig.machine=S9 is not used: the ISO's table has no such machine",)


def test_everything_is_read_from_the_machine_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            iso_settings("https://site.example:8443", CA, machines=[{"match": {"serial": "S-9"}, "banner": "nine"}])
        )
    )
    write_smbios(tmp_path / "sys/firmware/dmi/tables", uuid.UUID(int=1), "S-9")
    for name, text in {
        "proc/cmdline": "quiet coldmig.keyboard=de\n",
        "run/coldmig/medium.json": '{"device": null, "in_ram": true, "volume_id": "COLDMIG_2_0123456789ABCDEF"}',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = settings.load(tmp_path / "config.json", tmp_path / "sys", tmp_path / "proc", tmp_path / "run").config
    assert (found.banner, found.keyboard) == ("nine", "de")
    assert (found.image.build_id, found.image.volume_id) == ("0123456789ABCDEF", "COLDMIG_2_0123456789ABCDEF")
    assert found.image.version


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.dictionaries(st.sampled_from([*settings.OVERRIDES, "machine", "other"]), WORDS, max_size=6))
def test_whatever_is_typed_gives_sound_settings_and_sentences(values: Mapping[str, str]) -> None:
    found = settings.effective(config(machines=ROWS), values, "S 1", [])
    assert settings.effective(found.config, {}, "", []).config.network == found.config.network
    assert all(problem.startswith("coldmig.") for problem in found.problems)


def test_a_certificate_that_is_none_is_said_at_the_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    console, path = tmp_path / "console", tmp_path / "config.json"
    console.touch()
    path.write_text(json.dumps(iso_settings("https://site.example", "-----BEGIN CERTIFICATE-----\nMAoC\n")))
    assert cli.main(["--config", str(path), "--console", str(console), "--once"]) == 2
    assert "site.ca_pem holds no certificate" in console.read_text()
