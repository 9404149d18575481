# SPDX-License-Identifier: GPL-3.0-or-later
"""What the copy makes of what limits it. Seconds are told, none pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coldmig_agent.copying.controller import MAX_DEPTH, Controller, Plan, Sample

MIB = 1 << 20
LINK = Sample(starved=0.1, computing=0.3, blocked=4.6, unread=0.1, cpu_idle=0.8, progress=20 * MIB, sent=10 * MIB)
DISK = Sample(starved=4.5, computing=0.3, blocked=0.2, unread=0.0, cpu_idle=0.8, progress=20 * MIB, sent=10 * MIB)
CPU = Sample(starved=0.2, computing=4.5, blocked=0.3, unread=0.0, cpu_idle=0.02, progress=20 * MIB, sent=10 * MIB)
SITE = replace(LINK, unread=0.9)
CODECS = ("grains", "zstd")


def after(controller: Controller, sample: Sample, seconds: int) -> Plan:
    for _second in range(seconds):
        controller.tick(sample)
    return controller.plan


@pytest.mark.parametrize(("sample", "limit"), [(LINK, "link"), (DISK, "disk"), (CPU, "cpu"), (SITE, "site")])
def test_what_limits_is_named(sample: Sample, limit: str) -> None:
    assert after(Controller(4, CODECS), sample, 2).limited_by == limit


def test_a_balanced_copy_is_left_alone() -> None:
    controller = Controller(4, CODECS)
    before = controller.plan
    even = Sample(starved=1, computing=1.2, blocked=1, unread=0.0, cpu_idle=0.5, progress=MIB, sent=MIB)
    assert after(controller, even, 10) == before


def test_readers_without_a_processor_are_no_slow_disk() -> None:
    starved = replace(DISK, cpu_idle=0.01)
    assert after(Controller(4, CODECS), starved, 3).limited_by == "cpu"


def test_a_slow_link_gets_zstd_and_more_effort_while_processors_idle() -> None:
    controller = Controller(4, CODECS)
    # Before anything was sent nobody knows how fast the link is.
    assert after(controller, replace(LINK, sent=0), 2).level == 0
    assert after(controller, LINK, 1).level == 3
    assert after(controller, LINK, 6).level == 6
    assert controller.plan.codec == "zstd-6"


def glanced(controller: Controller, *samples: Sample) -> Plan:
    for sample in samples:
        controller.glance(sample)
    return controller.plan


#: 0.15 s of a link with 100 Mbit/s.
GLANCE = replace(LINK, sent=1_800_000, progress=0, seconds=0.15)


@pytest.mark.parametrize(
    ("processors", "idle", "level"),
    [(1, 0.9, 3), (2, 0.9, 6), (2, 0.5, 3), (8, 0.3, 6), (2, 0.1, 0)],
)
def test_a_slow_link_gets_zstd_at_the_second_glance_as_strong_as_processors_idle(
    processors: int, idle: float, level: int
) -> None:
    controller = Controller(4, CODECS, processors)
    sample = replace(GLANCE, cpu_idle=idle)
    assert glanced(controller, sample).level == 0
    assert glanced(controller, sample).level == level


@pytest.mark.parametrize(
    "sample",
    [
        replace(GLANCE, sent=5_000_000),
        replace(GLANCE, sent=0),
        replace(GLANCE, unread=0.9),
        replace(GLANCE, starved=4.0, blocked=1.0),
        replace(GLANCE, computing=2.5, blocked=2.5),
    ],
    ids=["a fast link", "nothing sent yet", "the site limits", "the disk limits", "in between"],
)
def test_what_is_not_clearly_a_slow_link_is_left_to_whole_seconds(sample: Sample) -> None:
    controller = Controller(4, CODECS, 2)
    before = controller.plan
    assert glanced(controller, *[sample] * 10) == before


def test_connections_that_have_just_begun_are_no_slow_link() -> None:
    growing = [replace(GLANCE, sent=200_000 << doubled) for doubled in range(4)]
    assert glanced(Controller(4, CODECS, 2), *growing).level == 0


def test_glances_end_soon_once_something_is_sent_and_at_last_in_any_case() -> None:
    sending, silent = Controller(4, CODECS, 2), Controller(4, CODECS, 2)
    for glances in range(100):
        if not sending.glancing:
            break
        glanced(sending, replace(GLANCE, sent=0) if glances < 5 else replace(GLANCE, sent=9_000_000))
    assert 10 < glances < 20
    glanced(silent, *[replace(GLANCE, sent=0)] * 30)
    assert silent.glancing
    glanced(silent, *[replace(GLANCE, sent=0)] * 30)
    assert not silent.glancing


def test_a_site_without_zstd_gets_none_at_a_glance_either() -> None:
    assert glanced(Controller(4, ("grains",), 2), *[GLANCE] * 5).level == 0


def test_a_slow_link_that_was_a_mistake_is_taken_back_by_whole_seconds() -> None:
    controller = Controller(4, CODECS, 2)
    assert glanced(controller, GLANCE, GLANCE).level == 6
    assert after(controller, CPU, 2).level == 0


def test_one_busy_second_at_the_end_of_a_trial_does_not_take_its_effort_back() -> None:
    controller = Controller(4, CODECS)
    assert after(controller, LINK, 5).level == 3
    assert after(controller, replace(CPU, progress=30 * MIB), 1).level == 3


def test_little_idle_time_is_enough_for_zstd_3_but_for_no_more() -> None:
    controller = Controller(4, CODECS)
    assert after(controller, replace(LINK, cpu_idle=0.4), 30).level == 3


@pytest.mark.parametrize(
    ("sample", "codecs"),
    [
        (LINK, ("grains",)),
        (replace(LINK, cpu_idle=0.1), CODECS),
        (replace(LINK, sent=100 * MIB, progress=200 * MIB), CODECS),
    ],
    ids=["the site does not take it", "no idle processors", "a fast link"],
)
def test_zstd_is_not_tried_where_it_cannot_pay(sample: Sample, codecs: tuple[str, ...]) -> None:
    assert after(Controller(4, codecs), sample, 30).codec == "grains"


def test_zstd_is_taken_back_when_it_makes_the_copy_slower() -> None:
    controller = Controller(4, CODECS)
    after(controller, LINK, 3)
    assert controller.plan.level == 3
    after(controller, replace(LINK, progress=10 * MIB), 5)
    assert controller.plan.level == 0
    assert after(controller, LINK, 60).level == 0


def test_zstd_is_taken_back_when_processors_become_the_limit() -> None:
    controller = Controller(4, CODECS)
    assert after(controller, LINK, 20).level == 6
    assert after(controller, CPU, 3).level < 6
    assert after(controller, CPU, 10).level == 0


def test_a_site_that_does_not_read_may_hold_us_to_a_bandwidth_so_fewer_bytes_are_tried_later() -> None:
    controller = Controller(4, CODECS)
    assert after(controller, SITE, 2).level == 0
    assert after(controller, SITE, 3).level == 3
    # It helped: it stays, but never more than that.
    assert after(controller, replace(SITE, progress=25 * MIB), 60).level == 3


def test_a_link_gets_more_connections_and_keeps_them_if_they_help() -> None:
    controller = Controller(8, ("grains",))
    assert controller.plan.connections == 4
    after(controller, LINK, 2)
    assert controller.plan.connections == 8
    assert after(controller, replace(LINK, progress=30 * MIB), 60).connections == 8


def test_connections_that_bring_nothing_are_given_back_and_not_tried_again_soon() -> None:
    controller = Controller(8, ("grains",))
    assert after(controller, LINK, 2).connections == 8
    assert after(controller, LINK, 6).connections == 4
    assert after(controller, LINK, 60).connections == 4


def test_there_are_never_more_connections_than_the_site_allows() -> None:
    for most in (1, 2, 3):
        controller = Controller(most, CODECS)
        for sample in (LINK, SITE, DISK, CPU, LINK):
            assert 1 <= after(controller, sample, 20).connections <= most


def test_a_slow_disk_gets_more_reads_at_once_and_fewer_connections() -> None:
    controller = Controller(8, CODECS)
    plan = after(controller, DISK, 20)
    assert (plan.connections, plan.depth) == (2, MAX_DEPTH)


def test_nothing_to_measure_changes_nothing() -> None:
    controller = Controller(4, CODECS)
    before = controller.plan
    assert after(controller, Sample(0, 0, 0, None, 1.0, 0, 0), 10) == before
