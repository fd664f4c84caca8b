"""Background work, and errors that no code expected: bugs. A bug is told at once, and ends nothing but the step that met it.

`keep` runs work next to the cycle, and runs it again after a bug. `persist` does so for a result. `unexpected` turns a bug into
an InternalError, which is a failure like any other for those who call. Whom a bug is told is set by `on_bug`.

This is the one place that catches every exception: the layout test allows it nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from harness.backoff import Backoff
from harness.clock import Clock, SystemClock
from harness.errors import HarnessError, InternalError

T = TypeVar("T")
BACKOFF = Backoff(first=0.5, most=15.0, spread=0.2)
STEADY_SECONDS = 60.0
"""Work that ran for so long before it failed has not failed in a row."""

Tell = Callable[[str, BaseException], None]
"""Takes what failed, and the error."""


@contextlib.contextmanager
def unexpected(what: str, tell: Tell | None = None) -> Iterator[None]:
    """Raises InternalError in place of an error that is no HarnessError, once that was told.

    What cancels the current task passes; a cancelled task that it only waited for is a bug. `tell`: whom, in place of on_bug's.
    """
    try:
        yield
    except HarnessError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _told(what, error, tell) from error
    except Exception as error:
        raise _told(what, error, tell) from error


def _told(what: str, error: BaseException, tell: Tell | None) -> InternalError:
    if tell is not None:
        tell(what, error)
    else:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})
    return InternalError(f"{what} failed: {sentence(error)}", "a bug; `meshexp logs` has more: please report it")


def sentence(error: BaseException) -> str:
    """The error in one line of at most 200 characters, as the last line of a traceback has it."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__


def keep(what: str, work: Callable[[], Coroutine[Any, Any, None]], clock: Clock | None = None) -> asyncio.Task[None]:
    """Runs `work` next to the caller until it returns. After any error it is run again, when a pause has passed."""

    async def whole() -> None:
        try:
            await work()
        except InternalError:
            raise
        except HarnessError as error:  # nobody is there to handle it
            asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})
            raise InternalError(error.message) from error

    return asyncio.get_running_loop().create_task(persist(what, whole, clock))


async def persist(
    what: str, work: Callable[[], Awaitable[T]], clock: Clock | None = None, again: Callable[[], bool] = lambda: True
) -> T:
    """The result of `work`, which is run again after each bug, unless not `again()`: then InternalError. HarnessErrors pass."""
    time = clock or SystemClock()
    failures = 0
    while True:
        began = time.now()
        try:
            with unexpected(what):
                return await work()
        except InternalError:
            if not again():
                raise
        failures = failures + 1 if time.now() - began < STEADY_SECONDS else 1
        await time.sleep(BACKOFF.pause(failures, random.random()))  # noqa: S311 (spreads load, guards nothing)


async def within(seconds: float | None, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when it takes longer. In a task of its own: anyio, below httpx, has timeouts that work by
    cancelling the current task too, and of two cancellations at one moment the second would end the caller.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_looked_at)  # what is cut off may end by an error of its own, which nobody awaits then
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
    return task.result() if done else None


def _looked_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def on_bug(tell: Tell) -> None:
    """Has the running loop tell `tell` of every error that no code expected, also of those in its own callbacks."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        message = str(context.get("message", ""))
        if not isinstance(error, BaseException) or loop.is_closed():
            loop.default_exception_handler(context)
        elif asyncio._get_running_loop() is loop:
            tell(message, error)
        else:  # of a task that nobody awaited: it was collected in another thread, or while the loop began or ended
            loop.call_soon_threadsafe(tell, message, error)

    asyncio.get_running_loop().set_exception_handler(handle)
