"""Many machines in one process, as small as they can be: a TLS connection each, held requests, reports on command.

`python -m tests.fleet OPTIONS` takes one JSON command a line and answers each with one JSON line. Machines turn to the next
controller when theirs breaks, and count what they had to do for it.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import ssl
import sys
import time
from typing import Any

_JOINING = 64


class Machine:
    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet, self.number = fleet, number
        self.registration: dict[str, Any] = {}
        self.secret = ""
        self.sequence = 0
        self.place = number % len(fleet.addresses)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.task: asyncio.Task[None] | None = None
        self.heard = 0.0
        self.connects = 0

    @property
    def path(self) -> str:
        return f"/v1/workloads/{self.registration['namespace']}/{self.registration['name']}"

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """On this machine's only connection; raises OSError or EOFError when that breaks."""
        if self.writer is None:
            host, _, port = self.fleet.addresses[self.place].rpartition(":")
            self.reader, self.writer = await asyncio.open_connection(
                host, int(port), ssl=self.fleet.context, server_hostname=self.fleet.server_name, limit=8192
            )
            self.connects += 1
        data = b"" if body is None else json.dumps(body).encode()
        secret = f"Meshexp-Secret: {self.secret}\r\n" if self.secret else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: c\r\n{secret}Content-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        assert self.reader is not None
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
        answer = await self.reader.readexactly(length)
        self.heard = time.time()
        status = int(lines[0].split()[1])
        self.fleet.answers[status] += 1
        return status, json.loads(answer) if answer else None

    def drop(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def join(self) -> None:
        high, middle, low = 128 + self.number // 65536, self.number // 256 % 256, self.number % 256
        name = f"m{self.number}"
        request = {
            "group": self.fleet.group, "namespace": self.fleet.namespace, "instance_id": name, "hostname": name,
            "addresses": [f"10.{high}.{middle}.{low}"], "versions": {"harness": "9.8.7"},
        }  # fmt: skip
        while True:
            status, answer = await self.again("POST", "/v1/workloads", lambda: {**request, **self._own_secret()})
            if status in (200, 201):
                break
            self.fleet.refusals.append(answer)
            await asyncio.sleep(1)
        self.registration = answer
        self.secret = self.registration.pop("secret")
        await self.report(True)

    def _next(self) -> int:
        """A report whose answer was lost may have been heard."""
        self.sequence += 1
        return self.sequence

    def _own_secret(self) -> dict[str, str]:
        return {"secret": self.secret} if self.secret else {}

    async def report(self, ready: bool, cordon: str = "") -> float:
        """When it was sent. `cordon`: an operator's reason."""
        sent = time.time()
        reason = "Cordoned" if cordon else "Ready" if ready else "ProbeFailed"
        state = {"ready": ready and not cordon, "reason": reason, "message": cordon}
        status, answer = await self.again("POST", self.path + "/state", lambda: {**state, "sequence": self._next()})
        assert status == 204, answer
        return sent

    async def again(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Tries until there is an answer that is no 503, at the next controller each time."""
        delay = 0.25
        while True:
            try:
                status, answer = await self.call(method, path, body())
                if status != 503:
                    return status, answer
            except (OSError, EOFError):
                self.drop()
                self.place = (self.place + 1) % len(self.fleet.addresses)
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(15.0, 2 * delay)

    async def hold(self) -> None:
        while True:
            broken = self.connects
            status, answer = await self.again("GET", f"{self.path}?after={self.registration['version']}", lambda: None)
            if status == 200:
                self.registration |= answer
            else:
                self.fleet.refusals.append(answer)
                await self.join()
            if self.connects != broken:
                await self.report(True)


class Fleet:
    def __init__(self, options: argparse.Namespace) -> None:
        self.addresses: list[str] = options.addresses.split(",")
        self.group, self.namespace, self.server_name = options.group, options.namespace, options.server_name
        self.context = ssl.create_default_context(cafile=options.anchors)
        self.context.load_cert_chain(options.certificate, options.key)
        self.machines: list[Machine] = []
        self.answers: collections.Counter[int] = collections.Counter()
        self.refusals: list[Any] = []

    async def join(self, count: int) -> dict[str, Any]:
        first = len(self.machines)
        fresh = [Machine(self, first + number) for number in range(count)]
        self.machines += fresh
        slots, began = asyncio.Semaphore(_JOINING), time.time()

        async def one(machine: Machine) -> None:
            async with slots:
                await machine.join()
            machine.task = asyncio.create_task(machine.hold())

        await asyncio.gather(*(one(machine) for machine in fresh))
        return {"began": began, "ended": time.time()}

    async def flip(self, number: int, ready: bool, cordon: str = "") -> dict[str, Any]:
        machine = self.machines[number]
        await self._pause(machine)
        sent = await machine.report(ready, cordon)
        machine.task = asyncio.create_task(machine.hold())
        return {"sent": sent, "name": machine.registration["name"]}

    async def silence(self, number: int) -> dict[str, Any]:
        machine = self.machines[number]
        await self._pause(machine)
        sent = await machine.report(True)
        machine.drop()
        return {"sent": sent, "name": machine.registration["name"]}

    async def state(self) -> dict[str, Any]:
        """How many are connected, the connections that each has made, the refusals so far, and what their group tells them."""
        connects = collections.Counter(machine.connects for machine in self.machines)
        held = sum(machine.writer is not None for machine in self.machines)
        places = collections.Counter(machine.place for machine in self.machines)
        drains = collections.Counter(machine.registration["drain_seconds"] for machine in self.machines)
        return {
            "connected": held, "connects": dict(connects), "refusals": self.refusals[:5], "answers": dict(self.answers),
            "last": min(machine.heard for machine in self.machines), "places": dict(places), "drains": dict(drains),
        }  # fmt: skip

    async def _pause(self, machine: Machine) -> None:
        if machine.task is not None:
            machine.task.cancel()
            await asyncio.wait([machine.task])
        machine.drop()


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("addresses", "group", "namespace", "server-name", "anchors", "certificate", "key"):
        parser.add_argument(f"--{name}", required=True)
    fleet = Fleet(parser.parse_args())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        answer = await getattr(fleet, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
