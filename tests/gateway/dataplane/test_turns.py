# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import asyncio

import pytest

from coldmig_gateway.dataplane.turns import Bounded, Turns


def test_migrations_take_turns_however_many_wait_for_each() -> None:
    async def main() -> list[str]:
        turns, served = Turns(1), []
        await turns.acquire("first")

        async def work(whose: str) -> None:
            await turns.acquire(whose)
            served.append(whose)
            await asyncio.sleep(0)
            turns.release()

        tasks = [asyncio.create_task(work(whose)) for whose in "aaaaaabbc"]
        await asyncio.sleep(0)
        turns.release()
        await asyncio.gather(*tasks)
        return served

    assert "".join(asyncio.run(main())) == "abcabaaaa"


def test_a_place_that_was_waited_for_in_vain_is_not_lost() -> None:
    async def main() -> None:
        turns = Turns(1)
        await turns.acquire("a")
        waiting = [asyncio.create_task(turns.acquire(whose)) for whose in "bc"]
        await asyncio.sleep(0)
        turns.release()  # b's turn has come, but b does not know yet
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        async with asyncio.timeout(20):
            await waiting[1]

    asyncio.run(main())


def test_a_migration_has_no_more_at_a_time_than_it_may_and_others_are_not_held_up() -> None:
    async def main() -> tuple[int, int]:
        bounded, now, most = Bounded(3), [0], [0]

        async def work() -> None:
            async with bounded.one("a"):
                now[0] += 1
                most[0] = max(most[0], now[0])
                await asyncio.sleep(0.01)
                now[0] -= 1

        tasks = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(0)
        async with bounded.one("b"):
            running = now[0]
        await asyncio.gather(*tasks)
        assert not bounded._turns
        return most[0], running

    assert asyncio.run(main()) == (3, 3)
