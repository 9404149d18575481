# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks that are wrong by a year: of an old machine without battery, and of the site."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from faults.lab import Lab
from support.gateway import Gateway
from support.images import MIB, mixed_image, random_image
from support.relay import Relay

LIBRARY = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")
YEAR = 365 * 24 * 3600


def clock(seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is wrong by so many seconds; its intervals are right."""
    assert LIBRARY.exists(), "install the Debian package libfaketime"
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{seconds:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.parametrize("years", [-1, 1, 3])  # after three the site's certificate seems to have expired
def test_a_machine_whose_clock_is_years_off_is_copied(lab: Lab, years: int) -> None:
    image = mixed_image(lab.work / "disk.img", 12, 1)
    agent = lab.boot(lab.iso(), image, env=clock(years * YEAR))
    lab.assert_copied(agent, image)
    # The site's clock counts, not the machine's.
    made, now = (one["created_at"] for one in (lab.migration(agent), lab.gateway.template(f"{lab.template}-after")))
    assert made[:7] == now[:7]


@pytest.mark.parametrize("years", [-1, 1])
def test_a_site_whose_clock_is_set_right_by_a_year_in_a_copy_goes_on_with_it(tmp_path: Path, years: int) -> None:
    image = random_image(tmp_path / "disk.img", 24, 2)
    with (
        Gateway(tmp_path / "g", env=clock(years * YEAR)).init().start() as wrong,
        Relay(wrong.port) as relay,
        Lab(wrong, tmp_path, "clock") as lab,
    ):
        wrong.activate()
        relay.crawl(after=8 * MIB)
        agent = lab.boot(lab.iso(url=relay.url), image)
        lab.wait_stored(agent, 4)
        wrong.stop()
        for name in clock(0):
            del wrong.env[name]
        relay.hurry()
        wrong.start()
        lab.assert_copied(agent, image)
        assert len(wrong.migrations("clock")) == 1
