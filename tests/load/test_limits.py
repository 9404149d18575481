# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits that are changed while copies run take effect, and are shared as they should be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from load.lab import LIMITS_SECONDS, MIB, Fleet, confirm_all, random_file, staged, started
from support.gateway import Gateway
from support.processes import wait_until

_SECONDS = 4.0
_LOOKS = 5


def rates(gateway: Gateway, migrations: Sequence[str], seconds: float = _SECONDS) -> list[float]:
    """MiB per second of each copy that arrive, averaged over some seconds."""
    begun, before = time.monotonic(), [staged(gateway, migration) for migration in migrations]
    time.sleep(seconds)
    after, passed = [staged(gateway, migration) for migration in migrations], time.monotonic() - begun
    return [(late - early) / passed / MIB for late, early in zip(after, before, strict=True)]


def assert_shared(gateway: Gateway, migrations: Sequence[str], expected: Sequence[float]) -> None:
    """Each copy gets its share (MiB/s) soon; all together never get more than theirs, however busy this machine is."""
    seen: list[list[float]] = []
    while len(seen) < _LOOKS:
        seen.append(rates(gateway, migrations))
        assert sum(seen[-1]) <= sum(expected) * 1.2, seen
        if seen[-1] == [pytest.approx(rate, rel=0.25) for rate in expected]:
            return
    raise AssertionError(f"{expected} MiB/s were to be seen, these were: {seen}")


def limit_template(gateway: Gateway, template: dict[str, Any], mib: int) -> None:
    """Sets the bandwidth of a template's copies."""
    fields = {key: template[key] for key in ("name", "organization", "destination", "auto_start")}
    gateway.call("PUT", f"/templates/{template['id']}", {**fields, "limits": {"bandwidth_limit": mib * MIB}})
    time.sleep(LIMITS_SECONDS)


def limit_site(gateway: Gateway, mib: int | None) -> None:
    """Sets the bandwidth of the site."""
    gateway.call("PATCH", "/site/limits", {"bandwidth_limit": None if mib is None else mib * MIB})
    time.sleep(LIMITS_SECONDS if mib else 0)


def test_bandwidth_follows_the_limits_and_is_shared_equally(tmp_path: Path, in_memory: Path) -> None:
    disk = random_file(in_memory / "disk.img", 800)
    with ExitStack() as stack:
        gateway = stack.enter_context(started(in_memory / "site"))
        templates = [gateway.template(name, auto_start=False) for name in ("one", "two")]
        isos = [gateway.iso("", template=template) for template in (templates[0], templates[0], templates[1])]
        gateway.call("PATCH", "/site/limits", {"bandwidth_limit": 12 * MIB})
        fleet = stack.enter_context(Fleet(tmp_path / "fleet", [(iso, [disk]) for iso in isos]))
        migrations = fleet.migrations()
        confirm_all(gateway, migrations)
        wait_until(lambda: min(staged(gateway, migration) for migration in migrations) > MIB, "all three copies")
        # The site's 12 MiB/s, a third for each copy.
        assert_shared(gateway, migrations, [4, 4, 4])
        # The first template's two copies get 4 MiB/s together, the third all the rest.
        limit_template(gateway, templates[0], 4)
        assert_shared(gateway, migrations, [2, 2, 8])
        # More for the site is more for the one that no template limits.
        limit_site(gateway, 20)
        assert_shared(gateway, migrations, [2, 2, 16])
        # And none at all lets it run.
        begun, before = time.monotonic(), staged(gateway, migrations[2])
        limit_site(gateway, None)
        wait_until(lambda: staged(gateway, migrations[2]) > before + 150 * MIB, "150 MiB more", step=0.02)
        assert 150 / (time.monotonic() - begun) > 1.25 * 16


def test_more_copies_may_run_as_soon_as_it_is_allowed(tmp_path: Path, in_memory: Path) -> None:
    disk = random_file(in_memory / "disk.img", 600)
    with started(in_memory / "site") as gateway:
        isos = [gateway.iso(f"machine-{number}", auto_start=False) for number in range(4)]
        gateway.call("PATCH", "/site/limits", {"max_concurrent_copies": 1, "bandwidth_limit": 4 * MIB})
        with Fleet(tmp_path / "fleet", [(iso, [disk]) for iso in isos]) as fleet:
            migrations = fleet.migrations()

            def copying() -> int:
                return sum(gateway.migration(migration)["state"] == "copying" for migration in migrations)

            for migration in migrations:
                gateway.call("POST", f"/migrations/{migration}/confirm")
            wait_until(lambda: copying() == 1, "the first copy")
            wait_until(lambda: all("place" in fleet.text(number) for number in (1, 2, 3)), "places on the consoles")
            assert copying() == 1
            gateway.call("PATCH", "/site/limits", {"max_concurrent_copies": 3})
            wait_until(lambda: copying() == 3, "two more copies")
            assert gateway.migration(migrations[3])["state"] == "confirmed"
            # Fewer stop nobody.
            gateway.call("PATCH", "/site/limits", {"max_concurrent_copies": 1})
            assert min(rates(gateway, migrations[:3], 6.0)) > 0
            assert copying() == 3
