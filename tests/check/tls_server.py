"""`python3 tls_server.py ADDRESS PORT CERT KEY [CLOCK]`: a TLS server whose answers have a Date that is CLOCK seconds off."""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import sys
import time


async def serve(address: str, port: str, certificate: str, key: str, clock: str = "0") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readline():
                date = email.utils.formatdate(time.time() + float(clock), usegmt=True)
                writer.write(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
            writer.close()
        except OSError:
            return

    async with await asyncio.start_server(answer, address, int(port), ssl=context) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
