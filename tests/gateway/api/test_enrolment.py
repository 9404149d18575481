# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest

from coldmig_gateway import space
from coldmig_gateway.space import Space
from gateway.sitekit import GIB, MACHINE, TEMPLATE, Caller, SiteKit, machine

OTHER = machine(smbios_uuid="4c4c4544-0042-3510-8051-b4c04f4a4e32")


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


def _iso(site: SiteKit, acme: Caller, options: dict[str, Any] | None = None, **template: Any) -> Caller:
    made = acme.ok("POST", "/templates", copy.deepcopy(TEMPLATE) | template)
    return site.iso(acme, made["id"], **(options or {}))


def test_a_registered_machine_waits_and_shows_what_the_agent_found(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, power_on=True)
    answer = iso.ok("POST", "/enrolments", MACHINE)
    assert (answer["state"], answer["name"], answer["poll_seconds"]) == ("waiting", "erp-db-01", 5)
    seen = acme.ok("GET", f"/migrations/{answer['migration_id']}")
    assert seen["machine"] == MACHINE
    assert (seen["organization"], seen["template"]["name"], seen["power_on"]) == ("acme", "linux", True)
    assert seen["source_ip"] == "testclient"
    assert [(disk["size_bytes"], disk["chunks"], disk["verified"]) for disk in seen["disks"]] == [
        (3 * GIB // 2 + 512, 1537, False),
        (4096, 1, False),
    ]
    assert seen["disks"][0]["source"] == {"path": "/dev/sda", "serial": "S1", "model": "DISK"}
    assert "session_token" not in str(seen)


def test_auto_start_needs_no_confirmation(site: SiteKit, acme: Caller) -> None:
    migration, agent = site.enrol(_iso(site, acme, auto_start=True))
    assert agent.ok("GET", "/session")["state"] == "confirmed"
    trail = acme.ok("GET", f"/migrations/{migration}/audit")["items"]
    assert [(entry["event"], entry["from"], entry["to"]) for entry in trail] == [
        ("enrol", None, "waiting"),
        ("confirm", "waiting", "confirmed"),
    ]


def test_every_boot_is_a_new_migration(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme)
    assert site.enrol(iso)[0] != site.enrol(iso)[0]
    assert len(acme.ok("GET", "/migrations")["items"]) == 2


def test_repeating_a_registration_with_its_key_gives_the_same_migration(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, {"max_registrations": 1})
    first = iso.ok("POST", "/enrolments", MACHINE, headers={"Idempotency-Key": "boot-0001"})
    second = iso.ok("POST", "/enrolments", MACHINE, headers={"Idempotency-Key": "boot-0001"})
    assert second["migration_id"] == first["migration_id"]
    site.caller(first["session_token"]).problem(401, "session-unknown", "GET", "/session")
    site.caller(second["session_token"]).ok("GET", "/session")
    iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE, headers={"Idempotency-Key": "boot-0002"})
    problem = iso.problem(422, "validation", "POST", "/enrolments", MACHINE, headers={"Idempotency-Key": "short"})
    assert problem["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("pattern", "name", "serial", "expected"),
    [
        ("{name}", "erp-db-01", None, "erp-db-01"),
        ("mig-{serial}", "x", "B5 QJ/NJ1", "mig-B5-QJ-NJ1"),
        ("{name}", "10.0.2.15", None, "10.0.2.15"),
        ("{name}", "../../etc/passwd", None, "etc-passwd"),
        ("{name}", "München\x1b[31m", None, "M-nchen-31m"),
        ("{name}", "a" * 200, None, "a" * 80),
    ],
)
def test_the_name_is_made_from_the_pattern_and_is_safe(  # noqa: PLR0917 - pytest passes by name
    site: SiteKit, acme: Caller, pattern: str, name: str, serial: str | None, expected: str
) -> None:
    iso = _iso(site, acme, name_pattern=pattern)
    assert iso.ok("POST", "/enrolments", machine(name=name, serial=serial))["name"] == expected


def test_a_name_that_is_nothing_but_dirt_becomes_the_id(site: SiteKit, acme: Caller) -> None:
    answer = _iso(site, acme).ok("POST", "/enrolments", machine(name="???"))
    assert answer["name"] == f"migration-{answer['migration_id'][:8]}"


def test_control_characters_in_what_firmware_says_are_blanked(site: SiteKit, acme: Caller) -> None:
    migration, _ = site.enrol(_iso(site, acme), vendor="Bad\x00 Vendor\x1b[2J\n")
    assert acme.ok("GET", f"/migrations/{migration}")["machine"]["vendor"] == "Bad  Vendor [2J"


def test_an_iso_registers_no_more_machines_than_it_may(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, {"max_registrations": 1})
    site.enrol(iso)
    problem = iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)
    assert (problem["limit"], problem["allowed"]) == ("max_registrations", 1)
    assert len(acme.ok("GET", "/migrations")["items"]) == 1


def test_the_limit_of_a_template_counts_migrations_that_have_not_ended(site: SiteKit, acme: Caller) -> None:
    iso = _iso(site, acme, limits={"max_migrations": 1})
    migration, _ = site.enrol(iso)
    problem = iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)
    assert (problem["limit"], problem["allowed"]) == ("max_migrations", 1)
    acme.ok("POST", f"/migrations/{migration}/cancel", {})
    site.enrol(iso)


def test_the_sizes_that_a_template_allows(site: SiteKit, acme: Caller) -> None:
    size = MACHINE["disks"][0]["size_bytes"]
    iso = _iso(site, acme, limits={"max_disk_bytes": size - 1})
    problem = iso.problem(413, "disk-too-large", "POST", "/enrolments", MACHINE)
    assert (problem["needed_bytes"], problem["allowed_bytes"]) == (size, size - 1)
    iso = _iso(site, acme, name="second", limits={"max_disk_bytes": size, "max_total_bytes": size + 4095})
    problem = iso.problem(409, "limit-reached", "POST", "/enrolments", MACHINE)
    assert problem["limit"] == "max_total_bytes"
    assert acme.ok("GET", "/migrations")["items"] == []


def test_a_disk_larger_than_the_staging_area_is_refused_for_good(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=GIB, free=GIB // 2))
    problem = _iso(site, acme).problem(413, "disk-too-large", "POST", "/enrolments", MACHINE)
    assert problem["allowed_bytes"] == GIB
    assert GIB < problem["needed_bytes"] < 1.01 * GIB  # what is used of it, and a little
    iso = _iso(site, acme, name="whole", skip_free="never")
    problem = iso.problem(413, "disk-too-large", "POST", "/enrolments", MACHINE)
    assert problem["needed_bytes"] > MACHINE["disks"][0]["size_bytes"]
    assert f"{GIB} bytes for copies" in problem["detail"]
    assert acme.ok("GET", "/migrations")["items"] == []


def test_space_that_was_promised_to_one_machine_is_not_given_to_another(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=8 * GIB, free=2 * GIB))
    iso = _iso(site, acme, auto_start=True)
    migration, _ = site.enrol(iso)
    problem = iso.problem(507, "staging-full", "POST", "/enrolments", OTHER)
    assert problem["free_bytes"] < GIB < problem["needed_bytes"]
    assert str(problem["needed_bytes"]) in problem["detail"]
    assert str(problem["free_bytes"]) in problem["detail"]
    acme.ok("POST", f"/migrations/{migration}/cancel", {})
    iso.ok("POST", "/enrolments", OTHER)


def test_a_machine_that_waits_is_promised_nothing_before_it_is_confirmed(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=8 * GIB, free=2 * GIB))
    iso = _iso(site, acme)
    first, _ = site.enrol(iso)
    second, agent = site.enrol(iso, smbios_uuid=OTHER["smbios_uuid"])
    assert acme.ok("POST", f"/migrations/{first}/confirm")["reserved_bytes"] > GIB
    acme.problem(507, "staging-full", "POST", f"/migrations/{second}/confirm")
    assert agent.ok("GET", "/session")["state"] == "waiting"
    acme.ok("POST", f"/migrations/{first}/cancel", {})
    acme.ok("POST", f"/migrations/{second}/confirm")


def test_a_machine_that_boots_again_is_not_in_its_own_way(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=8 * GIB, free=GIB + (32 << 20)))
    iso = _iso(site, acme, auto_start=True)
    site.enrol(iso)
    site.enrol(iso)
    iso.problem(507, "staging-full", "POST", "/enrolments", OTHER)


def test_what_an_earlier_attempt_holds_needs_no_room_again(
    site: SiteKit, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    iso = _iso(site, acme)
    first, _ = site.enrol(iso)
    acme.ok("POST", f"/migrations/{first}/cancel", {})
    pack = site.context.settings.staging / first / "disk-0.pack"
    pack.parent.mkdir()
    pack.write_bytes(b"x" * (64 << 20))
    second, _ = site.enrol(iso)
    whole = space.needed_for(MACHINE["disks"][0]["size_bytes"], GIB) + space.needed_for(4096)
    monkeypatch.setattr(space, "measure", lambda *_: Space(total=8 * GIB, free=whole - 1))
    seen = acme.ok("POST", f"/migrations/{second}/confirm")
    assert whole - (65 << 20) < seen["reserved_bytes"] <= whole - (64 << 20)
    assert seen["disks"][0]["earlier"] == [{"migration_id": first, "index": 0}]


def _with(path: str, value: Any) -> dict[str, Any]:
    """The machine with one field changed; ``path`` is like ``disks.0.size_bytes``."""
    document = copy.deepcopy(MACHINE)
    *parents, last = path.split(".")
    here: Any = document
    for part in parents:
        here = here[int(part)] if part.isdigit() else here[part]
    here[last] = value
    return document


BAD_MACHINES: list[tuple[str, Any, str]] = [
    ("name", "", "name"),
    ("name", "x" * 257, "name"),
    ("name", None, "name"),
    ("agent_version", 1, "agent_version"),
    ("smbios_uuid", "not-a-uuid", "smbios_uuid"),
    ("firmware", "coreboot", "firmware"),
    ("live_boot_firmware", None, "live_boot_firmware"),
    ("secure_boot", "on", "secure_boot"),
    ("memory_bytes", 0, "memory_bytes"),
    ("memory_bytes", 1 << 60, "memory_bytes"),
    ("memory_bytes", 1.5, "memory_bytes"),
    ("memory_bytes", True, "memory_bytes"),
    ("cpu.sockets", 0, "cpu.sockets"),
    ("cpu.cores_per_socket", 5000, "cpu.cores_per_socket"),
    ("nics.0.mac", "52:54:00:12:34", "nics[0].mac"),
    ("nics.0.speed_mbps", -1, "nics[0].speed_mbps"),
    ("nics", [MACHINE["nics"][0]] * 65, "nics"),
    ("disks", [], "disks"),
    ("disks", [MACHINE["disks"][0]] * 2, "disks"),
    ("disks", [MACHINE["disks"][0]] * 65, "disks"),
    ("disks.0.size_bytes", 0, "disks[0].size_bytes"),
    ("disks.0.size_bytes", 1025, "disks[0].size_bytes"),
    ("disks.0.size_bytes", 63 << 40, "disks[0].size_bytes"),
    ("disks.0.size_bytes", -512, "disks[0].size_bytes"),
    ("disks.0.logical_sector", 520, "disks[0].logical_sector"),
    ("disks.0.table", "apm", "disks[0].table"),
    ("disks.0.partitions.0.number", 0, "disks[0].partitions[0].number"),
    ("disks.0.surprise", 1, "disks[0].surprise"),
    ("disks.0.used_bytes", -1, "disks[0].used_bytes"),
    ("disks.0.physical_sector", 0, "disks[0].physical_sector"),
    ("disks.0.free_map.digest", "no", "disks[0].free_map.digest"),
    ("disks.0.free_map.areas", [MACHINE["disks"][0]["free_map"]["areas"][0]] * 513, "disks[0].free_map.areas"),
    ("disks.0.free_map.areas.0.decision", "guessed", "disks[0].free_map.areas[0].decision"),
    ("guest.os_type", "plan9", "guest.os_type"),
    ("guest.drivers", ["../../x"], "guest.drivers[0]"),
    ("addresses", ["10.0.0.256"], "addresses[0]"),
    ("warnings.0.code", "Not A Slug", "warnings[0].code"),
    ("warnings.0.message", "x" * 2001, "warnings[0].message"),
    ("warnings.0.severity", "fatal", "warnings[0].severity"),
    ("guests", [MACHINE["guest"]] * 33, "guests"),
    ("guests.1.product_type", "Toaster", "guests[1].product_type"),
    ("guests.1.build", -1, "guests[1].build"),
    ("guests.1.readiness.0.device", "floppy", "guests[1].readiness[0].device"),
    ("guests.1.readiness.0.verdict", "perhaps", "guests[1].readiness[0].verdict"),
    ("guests.1.readiness.0.evidence", ["x"] * 17, "guests[1].readiness[0].evidence"),
    ("disks.0.paths", ["/dev/sdc"] * 65, "disks[0].paths"),
    ("inspection.seconds", -1.0, "inspection.seconds"),
    ("inspection.volumes", [MACHINE["inspection"]["volumes"][0]] * 257, "inspection.volumes"),
    ("inspection.writes.0.sectors", -1, "inspection.writes[0].sectors"),
    ("tpm.version", 2, "tpm.version"),
    ("unknown", "x", "unknown"),
]


@pytest.mark.parametrize(("path", "value", "field"), BAD_MACHINES, ids=lambda value: str(value)[:40])
def test_a_bad_machine_is_refused_by_field_and_leaves_nothing(
    site: SiteKit, acme: Caller, path: str, value: Any, field: str
) -> None:
    problem = _iso(site, acme).problem(422, "validation", "POST", "/enrolments", _with(path, value))
    assert [error["field"] for error in problem["errors"]] == [field]
    assert acme.ok("GET", "/migrations")["items"] == []


def test_an_agent_that_knows_nothing_of_free_space_is_taken_as_well(site: SiteKit, acme: Caller) -> None:
    old = machine()
    for disk in old["disks"]:
        for name in ("physical_sector", "used_bytes", "free_map"):
            del disk[name]
    answer = _iso(site, acme).ok("POST", "/enrolments", old)
    disk = acme.ok("GET", f"/migrations/{answer['migration_id']}")["disks"][0]
    assert (disk["used_bytes"], disk["earlier"]) == (None, [])


@pytest.mark.parametrize("field", [name for name in MACHINE if name in ("cpu", "disks", "firmware", "guest", "nics")])
def test_a_machine_without_a_needed_field_is_refused(site: SiteKit, acme: Caller, field: str) -> None:
    document = machine()
    del document[field]
    problem = _iso(site, acme).problem(422, "validation", "POST", "/enrolments", document)
    assert problem["errors"] == [{"field": field, "message": "Field required"}]


def test_a_secret_in_the_wrong_place_is_not_repeated(site: SiteKit, acme: Caller) -> None:
    problem = _iso(site, acme).problem(422, "validation", "POST", "/enrolments", machine(password="hunter2"))
    assert "hunter2" not in str(problem)
