"""Requests that wait together are carried out together, in one worker thread.

An nft commit waits for RCU and a WireGuard dump reads the whole device, so what many tunnels ask at once is done once.
The event loop never waits for a system call.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")
Answer = TypeVar("Answer")


class Coalescer(Generic[Request, Result]):
    """One worker thread and the requests that wait for it.

    A batch holds what was submitted before it began, in order, and nothing later. A caller that is cancelled only stops
    listening: what it asked for is still done whole.
    """

    def __init__(self, carry_out: Callable[[Sequence[Request]], Sequence[Result | Exception]], name: str) -> None:
        """`carry_out` runs in the worker and gives one result, or one exception, for each request."""
        self._carry_out = carry_out
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """Do `request` with the next batch; raises what it failed with."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def call(self, function: Callable[[], Answer]) -> Answer:
        """Run `function` in the worker, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    def close(self) -> None:
        """Let the worker finish what it does and end."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    results = await self.call(partial(self._carry_out, [request for request, _ in batch]))
                except Exception as error:
                    results = [error] * len(batch)
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._running = None
            left, self._waiting = batch + self._waiting, []
            for _, future in left:  # none is open here unless the loop is being shut down
                future.cancel()
