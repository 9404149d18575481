# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coldmig_gateway.staging.disk import DiskStaging
from coldmig_gateway.staging.verify import verify_disk
from gateway.sitekit import MACHINE, TEMPLATE, SiteKit, running_site
from gateway.staging.content import data_frame, raw_chunk, store, zero_frame

Run = Callable[..., tuple[int, str, str]]
MIB = 1 << 20


def test_tokens_are_made_listed_and_revoked(run: Run, site: Path) -> None:
    code, provider, _ = run("token", "add", "--description", "second")
    assert (code, provider[:8]) == (0, "cm1_pro_")
    code, tenant, _ = run("token", "add", "--organization", "acme")
    assert (code, tenant[:8]) == (0, "cm1_org_")
    _, listing, _ = run("token", "list")
    rows = listing.splitlines()
    assert len(rows) == 3
    assert provider.strip() not in listing
    (row,) = [row for row in rows if "acme" in row]
    assert run("token", "revoke", row.split()[0])[0] == 0
    assert "revoked" in next(row for row in run("token", "list")[1].splitlines() if "acme" in row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token", "add", "--organization", "two words"], "'two words'"),
        (["token", "add", "--description", "x" * 201], "200 characters"),
        (["token", "revoke", "nonsense"], "no token 'nonsense'"),
        (["activate", "a/b"], "'a/b'"),
        (["verify", "nonsense"], "no migration 'nonsense'"),
    ],
)
def test_wrong_arguments_are_named(run: Run, site: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert message in err


def test_activation_from_the_command_line(run: Run, site: Path) -> None:
    assert run("activate", "acme", "globex")[1] == "active; organizations: acme, globex\n"
    assert run("deactivate")[1] == "not active; organizations: acme, globex\n"
    assert run("activate")[1] == "active; organizations: acme, globex\n"


def test_version_and_openapi_need_no_site(run: Run) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("version")[1])
    document = json.loads(run("openapi")[1])
    assert document["openapi"].startswith("3.")
    assert "/api/v1/enrolments" in document["paths"]


@pytest.fixture
def kit(run: Run, site: Path, tmp_path: Path) -> Iterator[SiteKit]:
    token = run("init", "--new-token")[1]
    (site / "provider.token").write_text(token)
    with running_site(tmp_path) as made:
        made.activate("acme")
        yield made


def _staged(kit: SiteKit, *, frames: int = 3) -> tuple[str, DiskStaging]:
    acme = kit.tenant("acme")
    iso = kit.iso(acme, acme.ok("POST", "/templates", TEMPLATE | {"auto_start": True})["id"])
    disk = MACHINE["disks"][0] | {"size_bytes": 4 * MIB}
    migration, _ = kit.enrol(iso, disks=[disk])
    staging = DiskStaging(kit.context.settings.staging, migration, 0, 4 * MIB)
    store(staging, [data_frame(0, raw_chunk(1)), data_frame(1, raw_chunk(2, stored=5000)), zero_frame(2, 2)][:frames])
    return migration, staging


def test_a_good_copy_is_verified_against_the_database(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit)
    found = verify_disk(staging)
    kit.data_plane.begin_copying(migration)
    kit.data_plane.disk_verified(migration, 0, found.merkle_root, found.vmdk_bytes, 2, found.stored_bytes, 0)
    staging.close()
    code, out, _ = run("verify", migration)
    assert (code, out) == (0, f"disk 0: good: Merkle root {found.merkle_root}\n")


def test_a_changed_byte_is_found(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit)
    staging.close()
    pack = kit.context.settings.staging / migration / "disk-0.pack"
    content = bytearray(pack.read_bytes())
    content[100_000] ^= 1
    pack.write_bytes(content)
    code, out, _ = run("verify", migration)
    assert code == 1
    assert out.startswith("disk 0: NOT GOOD: chunk 0")


def test_another_disk_s_content_is_found(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit)
    kit.data_plane.begin_copying(migration)
    kit.data_plane.disk_verified(migration, 0, "00" * 32, 1, 2, 1, 0)
    staging.close()
    code, out, _ = run("verify", migration)
    assert code == 1
    assert f"was {'00' * 32}" in out


def test_what_is_missing_is_told(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit, frames=2)
    staging.close()
    code, out, _ = run("verify", migration)
    assert (code, out) == (1, "disk 0: NOT GOOD: 2 of 4 chunks are there\n")


def test_a_disk_that_the_service_still_holds_is_waited_for(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit)
    letting_go = threading.Timer(0.5, staging.close)
    letting_go.start()
    code, out, _ = run("verify", migration)
    letting_go.join()
    assert code == 0
    assert out.startswith("disk 0: good")


def test_a_disk_that_is_being_copied_is_not_verified(run: Run, kit: SiteKit) -> None:
    migration, staging = _staged(kit)
    kit.data_plane.begin_copying(migration)
    try:
        code, _, err = run("verify", migration)
    finally:
        staging.close()
    assert code == 1
    assert "disk 0" in err
    assert "in use" in err


def test_a_migration_without_staging_is_not_given_an_empty_one(run: Run, kit: SiteKit) -> None:
    acme = kit.tenant("acme")
    migration, _ = kit.enrol(kit.iso(acme, acme.ok("POST", "/templates", TEMPLATE)["id"]))
    code, _, err = run("verify", migration)
    assert code == 1
    assert "nothing is staged of disk 0" in err
    assert list(kit.context.settings.staging.iterdir()) == []
