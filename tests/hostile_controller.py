"""`python3 -m tests.hostile_controller CERTS ADDRESS FILE`: has the controller's certificate, and answers what FILE says.

FILE is JSON: `fields` stand over those of a right registration, `body` in place of all of it; `changes`: each answer has another
version; `hold`: seconds; `endless`: the body never ends; `reach`: the answer to that call, with its status before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from pathlib import Path
from typing import Any

RIGHT: dict[str, Any] = {
    "name": "face-1", "namespace": "faces", "version": "v", "identity": "spiffe://root.linkerd.cluster.local/face",
    "server_name": "face.faces", "template": {"ports": [{"name": "http", "port": 8000}]}, "probes": [], "facts": {},
    "lease_seconds": 30, "report_seconds": 5, "drain_seconds": 0.1, "secret": "secret",
}  # fmt: skip


class Hostile:
    def __init__(self, file: Path) -> None:
        self._file, self.held = file, 0

    def _told(self) -> dict[str, Any]:
        return dict(json.loads(self._file.read_text()))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((line for line in head.splitlines() if line.lower().startswith("content-length:")), ":0")
                await reader.readexactly(int(length.partition(":")[2]))
                await self._answer(head.partition("\r\n")[0], writer)
        writer.close()

    async def _answer(self, line: str, writer: asyncio.StreamWriter) -> None:
        if line.startswith("DELETE") or "/state" in line:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        told, held = self._told(), line.startswith("GET")
        if "/reach" in line:
            status, answer = told["reach"]
            data = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} Told\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            return
        if held:
            self.held += 1
            print(f"held {self.held}", flush=True)
            if not line.partition("after=")[2].startswith(" "):
                await asyncio.sleep(told.get("hold", 0.0))
        if held and told.get("endless"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
                await asyncio.sleep(0)  # drain() may not wait at all; without this nothing else here would ever run
        fields = told.get("fields", {}) | ({"version": f"v{self.held}"} if told.get("changes") else {})
        body = str(told.get("body") if held and "body" in told else json.dumps(RIGHT | fields)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


async def main(certificates: str, address: str, file: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificates}/controller.crt", f"{certificates}/controller.key")
    server = await asyncio.start_server(Hostile(Path(file)).serve, address, 8081, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
