# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest

from coldmig_gateway.dataplane.shaping import Shaper
from coldmig_gateway.dataplane.site import Rates
from coldmig_wire.frames import CHUNK
from gateway.dataplane.front import Front, wait_until
from gateway.staging.content import data_frame, raw_chunk

FIRST = "11111111-2222-4333-8444-555555555555"
SECOND = "22222222-2222-4333-8444-555555555555"
PIECE = 16 << 10


def taken(rates: Rates, connections: dict[tuple[str, str], int], seconds: float) -> Counter[str]:
    """What migrations (with their template and number of connections) take in a while."""

    async def main() -> Counter[str]:
        shaper, count = Shaper(), Counter[str]()
        shaper.set_rates(rates)

        async def connection(migration: str, template: str) -> None:
            while True:
                await shaper.take(migration, template, PIECE)
                count[migration] += PIECE
                await asyncio.sleep(0)

        everybody = [who for who, number in connections.items() for _connection in range(number)]
        tasks = [asyncio.create_task(connection(*who)) for who in everybody]
        # What the buckets hold at first goes to who comes first.
        await asyncio.sleep(0.3)
        count.clear()
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return count

    return asyncio.run(main())


def test_migrations_have_equal_shares_however_many_connections_they_have() -> None:
    found = taken(Rates(site=4 << 20), {("a", "t"): 8, ("b", "t"): 1, ("c", "u"): 1}, 1.0)
    assert max(found.values()) <= min(found.values()) + 2 * PIECE
    assert min(found.values()) > 10 * PIECE


def test_what_a_limited_template_leaves_the_others_get() -> None:
    found = taken(Rates(site=4 << 20, templates={"slow": 512 << 10}), {("a", "slow"): 4, ("b", "other"): 4}, 1.0)
    assert found["b"] > 4 * found["a"]


def test_the_copies_of_a_template_share_its_limit() -> None:
    found = taken(Rates(templates={"slow": 1 << 20}), {("a", "slow"): 3, ("b", "slow"): 1, ("c", "free"): 1}, 0.5)
    assert abs(found["a"] - found["b"]) <= 2 * PIECE
    assert found["c"] > 4 * (found["a"] + found["b"])


def test_a_limit_holds(front: Front) -> None:
    front.site.limits = Rates(site=2 << 20)
    front.stop()
    front.start()
    front.migration(FIRST, 40 * CHUNK)
    session = front.session(FIRST)
    session.send([])
    begun = time.monotonic()
    session.send([data_frame(chunk, raw_chunk(chunk)) for chunk in range(4)])
    # What the bucket held at first comes at once.
    assert time.monotonic() - begun > 1.5


def test_limits_are_taken_up_while_copies_run(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldmig_gateway.dataplane.server._RATES_SECONDS", 0.05)
    front.site.limits = Rates(templates={"slow": 65536})
    front.stop()
    front.start()
    for migration_id in (FIRST, SECOND):
        front.migration(migration_id, 40 * CHUNK).template_id = "slow"
    answers = []

    def send(migration_id: str) -> None:
        frames = [data_frame(chunk, raw_chunk(chunk)) for chunk in range(20)]
        answers.append(front.session(migration_id).send(frames).json["durable"])

    senders = [threading.Thread(target=send, args=(migration_id,)) for migration_id in (FIRST, SECOND)]
    for sender in senders:
        sender.start()
    wait_until((front.staging / SECOND).exists, "both have begun")
    time.sleep(0.5)
    assert not answers  # it would take ten minutes
    front.site.limits = Rates()
    for sender in senders:
        sender.join(60)
    assert answers == [20, 20]
