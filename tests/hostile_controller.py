"""`python3 -m tests.hostile_controller CERTS ADDRESS FILE`: has the controller's certificate, and answers what FILE says.

FILE is JSON: `fields` stand over those of a right registration, `body` in place of all of it; `changes`: each answer has another
version; `hold`: seconds; `endless`: the body never ends; `reach`: the answer to that call, with its status before it.
`attack`: what one held call is answered, once for each `number`: `fields` or `body` as above, or `raw` in place of HTTP itself.
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
        self._number = 0
        self._quick = 0
        """Right answers since the last one that was held."""
        self._attacked = False

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
            after = line.partition("after=")[2].partition(" ")[0]
            print(f"asked after {after}.", flush=True)
            if after:
                told = await self._hold(told.get("hold", 0.0))
            # A right answer between two attacks: otherwise the machine waits longer after each.
            if "attack" in told and told["number"] != self._number and not self._attacked:
                self._number = told["number"]
                await self._attack(told["attack"], writer)
                return
            self._attacked = False
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

    async def _hold(self, seconds: float) -> dict[str, Any]:
        """What is told after so long, or as soon as there is another attack."""
        ends = asyncio.get_running_loop().time() + seconds
        # Ten in a row that are not held make the machine wait, too.
        held = self._attacked and self._quick >= 8
        while asyncio.get_running_loop().time() < ends and (held or self._told().get("number", 0) == self._number):
            await asyncio.sleep(min(seconds, 0.02))
        self._quick = 0 if asyncio.get_running_loop().time() >= ends else self._quick + self._attacked
        return self._told()

    async def _attack(self, attack: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        body = str(attack.get("body", json.dumps(RIGHT | attack.get("fields", {}) | {"version": f"attack-{self._number}"})))
        if "version" in attack.get("fields", {}):
            body = json.dumps(RIGHT | attack["fields"])
        plain = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        print(f"attacked {self._number}.", flush=True)
        self._attacked = True
        writer.write(attack["raw"].encode("latin-1") if "raw" in attack else plain)
        await writer.drain()
        if "raw" in attack:
            writer.close()


async def main(certificates: str, address: str, file: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificates}/controller.crt", f"{certificates}/controller.key")
    server = await asyncio.start_server(Hostile(Path(file)).serve, address, 8081, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
