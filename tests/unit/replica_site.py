"""Several replicas on one store and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from controller.embedded_store import EmbeddedStore
from controller.manifest import GROUP_API
from controller.model import Key
from controller.registry import Caller
from harness.errors import TemporaryError
from harness.messages import Registration
from tests.controller_support import StandingClock, group, settle
from tests.unit.controller_world import FACE, World


class Site:
    """One store, and replicas that can be killed."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.store = EmbeddedStore(self.clock)
        self.worlds: dict[str, World] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> World:
        made = World(self.store, name, self.clock)
        self.worlds[name] = made
        self._tasks[name] = asyncio.create_task(made.upkeep.run())
        await made.upkeep.ready.wait()
        await settle()
        return made

    async def kill(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del self.worlds[name]

    def leaders(self) -> list[str]:
        return [name for name, made in self.worlds.items() if made.replicas.leads]


@contextlib.asynccontextmanager
async def site(*names: str) -> AsyncIterator[Site]:
    made = Site()
    await made.store.groups.create(group(api=GROUP_API))
    try:
        async with asyncio.timeout(60):
            for name in names:
                await made.start(name)
            yield made
    finally:
        for name in tuple(made.worlds):
            await made.kill(name)


def run(body: Callable[[Site], Awaitable[None]], *names: str) -> None:
    async def main() -> None:
        async with site(*names) as made:
            await body(made)

    asyncio.run(main())


async def transitions(s: Site) -> list[tuple[str, bool]]:
    return [(item.metadata.name, item.ready) for item in (await s.store.workloads.list()).items]


async def hold(world: World, made: Registration) -> None:
    await world.registry.hold(Caller(FACE, made.secret), Key(made.namespace, made.name), "", 60)


class Lost:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def fail(*_: object) -> None:
            raise TemporaryError("lost")

        return fail
