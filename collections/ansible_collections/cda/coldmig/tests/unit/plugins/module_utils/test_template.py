# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError
from ansible_collections.cda.coldmig.plugins.module_utils._template import HARDWARE, check_options, wanted_template


def network(**changes: t.Any) -> dict[str, t.Any]:
    return {"network": "lan", "ip_mode": "DHCP", "ip": None, "keep_mac": False, "connected": True, **changes}


def destination(*networks: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    return {"vdc": "vdc-1", "storage_profile": None, "vapp": None, "networks": list(networks), **changes}


def options(**changes: t.Any) -> dict[str, t.Any]:
    names = (
        "organization",
        "description",
        "destination",
        "auto_start",
        "power_on",
        "name_pattern",
        "skip_free",
        "mode",
        "system",
        "accept_warnings",
        "hardware",
        "at_end",
        "collect_logs",
        "limits",
    )
    return {"name": "erp", **dict.fromkeys(names), **changes}


GOOD: list[dict[str, t.Any]] = [
    options(),
    options(organization="acme.org_1"),
    options(destination=destination(network(), network(ip_mode="MANUAL", ip="192.0.2.5"))),
    options(destination=destination(network(ip_mode="MANUAL", ip="2001:db8::1"))),
    options(destination=destination(import_as="shared", vapp="erp {template}")),
    options(destination=destination(import_as="standalone")),
    options(destination=destination(vapp="kept {as} it was")),
    options(destination=destination(metadata={"cost center": "4711"}, disks=[{"storage_profile": None}])),
    options(name_pattern="web-{serial}.{id}"),
    options(limits={"max_migrations": 1, "max_disk_bytes": None, "max_total_bytes": 1 << 60}),
    options(limits={"bandwidth_limit": 65536}, skip_free="never"),
    options(mode="assess", system="windows*", accept_warnings=["tpm-sealed"]),
    options(system=""),
    options(at_end={"success": "poweroff", "failure": None}, collect_logs=True),
    options(hardware=dict.fromkeys(HARDWARE)),
    options(hardware={"firmware": "efi", "secure_boot": True, "cpus": 8, "cores_per_socket": 4, "memory_mb": 4096}),
    options(hardware={"firmware": "bios", "secure_boot": False, "guest_id": "other3xLinux64Guest"}),
]


@pytest.mark.parametrize("given", GOOD)
def test_good_options_pass(given: dict[str, t.Any]) -> None:
    check_options(given)


BAD: list[tuple[dict[str, t.Any], str, str]] = [
    (options(name=""), "name", "1 to 63"),
    (options(name="a b"), "name", "1 to 63"),
    (options(organization="-acme"), "organization", "1 to 63"),
    (options(organization="a" * 64), "organization", "1 to 63"),
    (options(destination=destination(vdc=" ")), "destination.vdc", "not empty"),
    (options(destination=destination(storage_profile="")), "destination.storage_profile", "not empty"),
    (options(destination=destination(owner=" ")), "destination.owner", "not empty"),
    (options(destination=destination(import_as="shared")), "destination.vapp", "the name of a vApp is needed"),
    (options(destination=destination(import_as="standalone", vapp="a")), "destination.vapp", "such a VM has no vApp"),
    (options(destination=destination(import_as="vapp", vapp="{x}")), "destination.vapp", "no braces but those of"),
    (options(destination=destination(metadata={"coldmig.id": "1"})), "destination.metadata", "not beginning with"),
    (options(destination=destination(metadata={"a": 1})), "destination.metadata[a]", "one line of text"),
    (options(destination=destination(description="x" * 257)), "destination.description", "at most 256"),
    (
        options(destination=destination(disks=[{"storage_profile": ""}])),
        "destination.disks[0].storage_profile",
        "not empty",
    ),
    (options(destination=destination(network(network=""))), "destination.networks[0].network", "not empty"),
    (
        options(destination=destination(network(), network(ip_mode="MANUAL"))),
        "destination.networks[1].ip",
        "needed with ip_mode MANUAL",
    ),
    (
        options(destination=destination(network(ip_mode="POOL", ip="192.0.2.5"))),
        "destination.networks[0].ip",
        "only with ip_mode MANUAL, which is POOL here",
    ),
    (
        options(destination=destination(network(ip_mode="MANUAL", ip="192.0.2.5/24"))),
        "destination.networks[0].ip",
        "without a prefix length",
    ),
    (options(name_pattern="always-the-same"), "name_pattern", "at least one of {name}, {serial}, {id}"),
    (options(name_pattern="{name}-{user}"), "name_pattern", "at least one of"),
    (options(name_pattern="{name"), "name_pattern", "at least one of"),
    (options(name_pattern="{name} x"), "name_pattern", "beside them only letters"),
    (options(limits={"max_migrations": 0}), "limits.max_migrations", "from 1 on"),
    (options(system="two\nlines"), "system", "one line of 1 to 256"),
    (options(accept_warnings=["tpm_sealed"]), "accept_warnings[0]", "the code of a warning"),
    (options(accept_warnings=["a"] * 101), "accept_warnings", "at most 100"),
    (options(hardware={"guest_id": "windows 11"}), "hardware.guest_id", "a guest id of vSphere"),
    (options(hardware={"cpus": 0}), "hardware.cpus", "from 1 to 768"),
    (options(hardware={"cores_per_socket": 769}), "hardware.cores_per_socket", "from 1 to 768"),
    (options(hardware={"cpus": 6, "cores_per_socket": 4}), "hardware.cpus", "a multiple of cores_per_socket"),
    (options(hardware={"memory_mb": 4098}), "hardware.memory_mb", "a multiple of 4"),
    (options(hardware={"memory_mb": 1 << 40}), "hardware.memory_mb", "a multiple of 4"),
    (options(hardware={"firmware": "bios", "secure_boot": True}), "hardware.secure_boot", "only with firmware efi"),
    (options(limits={"bandwidth_limit": 65535}), "limits.bandwidth_limit", "at least 65536 bytes per second"),
]


@pytest.mark.parametrize(("given", "field", "expected"), BAD)
def test_bad_option_is_named_with_what_is_right(given: dict[str, t.Any], field: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        check_options(given)
    assert caught.value.field == field
    assert expected in str(caught.value)


def test_new_template_gets_defaults() -> None:
    wanted = wanted_template(options(destination=destination()), None)
    assert wanted == {
        "name": "erp",
        "description": "",
        "destination": destination(),
        "auto_start": False,
        "power_on": False,
        "name_pattern": "{name}",
        "skip_free": "auto",
        "mode": "migrate",
        "system": None,
        "accept_warnings": [],
        "hardware": dict.fromkeys(HARDWARE),
        "at_end": {"success": None, "failure": None},
        "collect_logs": False,
        "limits": {
            "max_migrations": None,
            "max_disk_bytes": None,
            "max_total_bytes": None,
            "bandwidth_limit": None,
        },
    }


def test_new_template_needs_a_destination() -> None:
    with pytest.raises(InputError, match="destination: None is not valid: needed to create a template"):
        wanted_template(options(), None)


def test_option_that_is_left_out_keeps_what_is_there() -> None:
    current = {
        **wanted_template(options(destination=destination(), power_on=True), None),
        "id": "7",
        "organization": "acme",
    }
    wanted = wanted_template(options(auto_start=True), current)
    assert wanted == {**{name: value for name, value in current.items() if name != "id"}, "auto_start": True}


def test_address_is_brought_into_the_form_of_the_gateway() -> None:
    given = destination(network(ip_mode="MANUAL", ip="2001:DB8:0:0::1"))
    wanted = wanted_template(options(destination=given), None)
    assert wanted["destination"]["networks"][0]["ip"] == "2001:db8::1"


def test_hardware_is_replaced_as_a_whole_and_a_system_can_be_taken_away() -> None:
    first = options(destination=destination(), hardware={"cpus": 4, "firmware": None}, system="disk0/2")
    current = wanted_template(first, None)
    assert current["hardware"] == {**dict.fromkeys(HARDWARE), "cpus": 4}
    assert wanted_template(options(), current) == current
    later = wanted_template(options(hardware={"memory_mb": 4096}, system="", accept_warnings=["b", "a", "b"]), current)
    assert later["hardware"] == {**dict.fromkeys(HARDWARE), "memory_mb": 4096}
    assert (later["system"], later["accept_warnings"]) == (None, ["a", "b"])
