"""`python3 -m tests.package.destination ADDRESS FOLDER`: tells development proxies that no destination is meshed.

FOLDER has the certificate of Linkerd's destination service.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from demo.endpoints import EndpointServer


async def serve(host: str, folder: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{folder}/destination.crt", f"{folder}/destination.key")
    await EndpointServer().start(host, 8086, tls)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
