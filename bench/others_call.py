"""The slowest of another machine's calls while eight connections of a hostile one do their worst: bodies full of faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import pathlib
import ssl
import tempfile
import time
from typing import Any

from bench.record import Record, record
from harness.values import HostPort
from tests.children.controller_site import REQUEST, site
from tests.controller_support import TRUST_DOMAIN, Client

HOSTILE = 8
SECONDS = 8.0
_HEAD_START = 1.0
_WORST = json.dumps({**REQUEST, "addresses": [0] * 32_000}, separators=(",", ":")).encode()[: 64 * 1024]


def run() -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(pathlib.Path(folder)))


async def _run(folder: pathlib.Path) -> list[Record]:
    """Attackers and the other machine are processes of their own, so what they cost themselves is not the controller's."""
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[list[float]] = spawn.Queue()
    async with site(folder) as made:
        where = (made.controller.address.host, made.controller.address.port)
        hostile = made.authority.issue("hostile", f"spiffe://{TRUST_DOMAIN}/smiley")
        attacks = spawn.Value("L", 0)
        attacker = spawn.Process(target=_attack, args=(where, str(folder), hostile, attacks), daemon=True)
        attacker.start()
        other = spawn.Process(target=_call, args=(where, str(folder), made.certificate, answers), daemon=True)
        other.start()
        times = sorted(await asyncio.to_thread(answers.get, True, 30))
        attacker.kill()
        await asyncio.to_thread(other.join)
    if not attacks.value:
        raise RuntimeError("the controller answered none of the hostile calls: nothing was measured")
    return [record("hostile.others_call_seconds", times[-1], "s")]


def _context(folder: str, certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=f"{folder}/anchor.pem")
    context.check_hostname = False
    context.load_cert_chain(*certificate)
    return context


def _attack(where: tuple[str, int], folder: str, certificate: tuple[str, str], attacks: Any) -> None:
    """Counts the answers in `attacks`."""

    async def one(context: object) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                async with await Client.connect(HostPort(*where), context) as client:  # type: ignore[arg-type]
                    while True:
                        await client.call("POST", "/v1/workloads", _WORST)
                        attacks.value += 1

    async def main() -> None:
        context = _context(folder, certificate)
        await asyncio.gather(*(one(context) for _ in range(HOSTILE)))

    asyncio.run(main())


def _call(where: tuple[str, int], folder: str, certificate: tuple[str, str], answers: multiprocessing.Queue[list[float]]) -> None:
    async def main() -> list[float]:
        context = _context(folder, certificate)
        times = []
        async with await Client.connect(HostPort(*where), context) as client:
            await asyncio.sleep(_HEAD_START)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                began = time.monotonic()
                await client.call("GET", "/v1", None)
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.01)
        return times

    answers.put(asyncio.run(main()))
