"""A machine that may be a copy, as its controllers see it."""

from __future__ import annotations

import asyncio

from controller.admission import RefusedError
from controller.model import Key
from controller.registry import Caller
from harness.messages import Registration
from tests.controller_support import settle
from tests.unit.controller_world import FACE, World

SECRET = "s" * 43
FIRST, SECOND, THIRD = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class Machine:
    """As the harness does it: it calls again when its held answer has come, and registers again when it was overtaken."""

    def __init__(self, world: World, boot: str, address: str, mark: str = "") -> None:
        self.world, self.boot, self.address, self.mark = world, boot, address, mark
        self.holds_at: World | None = None
        """Another replica, where it has one connection to each."""
        self.refused = ""
        self._joins = 0
        self._made: Registration | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def made(self) -> Registration:
        assert self._made is not None
        return self._made

    async def join(self) -> None:
        self._joins += 1
        mark = f"{self.boot}.{round(self.world.clock.boot() * 1000) + self._joins}.{self.address}"
        self._made = await self.world.join(ip=self.address, secret=SECRET, holder=mark, before=self.mark)
        self.mark = mark

    async def call(self) -> None:
        """One held call."""
        caller, key = Caller(FACE, SECRET, self.mark), Key("faces", self.made.name)
        self._made = await (self.holds_at or self.world).registry.hold(caller, key, self.made.version, 60)

    async def start(self) -> None:
        await self.join()
        self._task = asyncio.create_task(self._run())
        await settle()

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self.call()
                except RefusedError as ended:
                    assert ended.code == "overtaken"
                    await settle(5)  # it waits a moment
                    await self.join()
        except RefusedError as refusal:
            self.refused = refusal.code


async def address(world: World) -> str:
    (item,) = (await world.store.workloads.list()).items
    return str(item.spec.workload_ips[0].ip)


def warnings(world: World) -> list[str]:
    return [event.message for event in world.store.events if event.reason == "Copied"]
