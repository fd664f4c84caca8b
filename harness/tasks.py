"""Background work that must not fail in silence: an error that nobody expected is a bug, and ends the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Runs `work` beside the caller; if it raises, the loop's exception handler is told at once."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "background work failed", "exception": error, "task": task})


async def within(seconds: float | None, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when it takes longer. In a task of its own: anyio, below httpx, has timeouts that work by
    cancelling the current task too, and of two cancellations at one moment the second would end the caller.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
    return task.result() if done else None


def on_bug(stop: Callable[[BaseException], None]) -> None:
    """Has the running loop call `stop` for every error that no code expected."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            stop(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)
