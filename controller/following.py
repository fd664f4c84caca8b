"""List, then watch, then list again: how a mirror of the store is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from controller.store import Change, Collection, ConflictError, Listing, NotFoundError, RefusedCallError, Stored
from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import TemporaryError

log = structlog.get_logger()
T = TypeVar("T", bound=Stored)
BACKOFF = Backoff(first=1.0, most=5.0)
"""Between calls to an API server that fails. Short, because the machines' reports wait for it."""


async def _list(collection: Collection[T]) -> Listing[T] | None:
    """None: the server does not know the kind (and may come to know it)."""
    try:
        return await collection.list()
    except NotFoundError:
        return None


async def follow(
    collection: Collection[T],
    clock: Clock,
    replace: Callable[[Listing[T]], Awaitable[None]],
    apply: Callable[[Change[T]], Awaitable[None]],
) -> None:
    """Without end. Errors of the store, also those that `replace` and `apply` meet, lead to a new list.

    It goes on in the same way when somebody deletes the definition of the kind, and finds it when it is created again. Until then
    what was known stays: the objects that go with a definition are told of one by one.
    """
    failures = 0
    is_known = False
    told = ""
    while True:
        try:
            listing = await _list(collection)
            if listing is not None:
                is_known, told = True, ""
                await replace(listing)
                async for change in collection.watch(listing.resource_version):
                    failures = 0
                    await apply(change)
            elif not is_known:
                is_known = True
                await replace(Listing((), "0"))
        except RefusedCallError as error:
            if error.message != told:
                log.error("store refuses", error=error.message, hint=error.hint)
            told = error.message
        except (TemporaryError, NotFoundError, ConflictError) as error:
            log.warning("store lost", error=error.message, hint=error.hint)
        failures += 1
        await clock.sleep(BACKOFF.pause(failures))
