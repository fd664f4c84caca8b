"""`python3 -m tests.package.destination ADDRESS`: tells development proxies that no destination is meshed."""

from __future__ import annotations

import asyncio
import sys

from demo.endpoints import EndpointServer


async def serve(host: str) -> None:
    await EndpointServer().start(host, 8086)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
