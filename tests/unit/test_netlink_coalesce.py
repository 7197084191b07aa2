"""Batches: together what waits together, in order, whole, and nobody takes another's error."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from qhybridd.netlink.coalesce import Coalescer


def test_what_waits_together_is_done_together_and_later_requests_wait_for_the_next_batch() -> None:
    batches: list[list[int]] = []
    began, gate = threading.Event(), threading.Event()

    def carry_out(requests: Sequence[int]) -> Sequence[int | Exception]:
        batches.append(list(requests))
        began.set()
        gate.wait(5)
        return [-request for request in requests]

    async def work() -> None:
        coalescer = Coalescer(carry_out, "test")
        first = [asyncio.create_task(coalescer.submit(i)) for i in (1, 2)]
        await asyncio.to_thread(began.wait, 5)
        later = [asyncio.create_task(coalescer.submit(i)) for i in (3, 4, 5)]
        await asyncio.sleep(0.01)
        assert batches == [[1, 2]]
        gate.set()
        assert await asyncio.gather(*first, *later) == [-1, -2, -3, -4, -5]
        assert batches == [[1, 2], [3, 4, 5]]
        assert await coalescer.submit(6) == -6
        coalescer.close()

    asyncio.run(work())


def test_each_gets_its_own_error_and_a_cancelled_one_harms_nobody() -> None:
    done: list[int] = []

    def carry_out(requests: Sequence[int]) -> Sequence[int | Exception]:
        done.extend(requests)
        if 9 in requests:
            raise OSError("all of it")
        return [ValueError(str(request)) if request == 2 else request for request in requests]

    async def work() -> None:
        coalescer = Coalescer(carry_out, "test")
        tasks = [asyncio.create_task(coalescer.submit(i)) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        one, two, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert one == 1 and isinstance(two, ValueError) and isinstance(three, asyncio.CancelledError)
        assert done == [1, 2, 3]
        for task in [asyncio.create_task(coalescer.submit(i)) for i in (8, 9)]:
            with pytest.raises(OSError, match="all of it"):
                await task
        assert await coalescer.submit(1) == 1
        coalescer.close()

    asyncio.run(work())
