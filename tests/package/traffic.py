"""`traffic.py serve ADDRESS` answers on port 8000, at /slow after 12 s; `call ADDRESS FROM` calls it until SIGINT.

The caller prints a line after every ten requests, and what came of all requests at the end, in the last line.
"""

from __future__ import annotations

import http.client
import http.server
import json
import sys
import time

PORT, PAUSE, PATIENCE, SOME = 8000, 0.03, 10.0, 10


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"hello\n"
        if self.path == "/slow":
            time.sleep(12)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


def call(address: str, source: str) -> dict[str, object]:
    """Requests one after the other, each on a connection of its own; the longest took `slowest` seconds."""
    requests, slowest = 0, 0.0
    failed: list[str] = []
    try:
        while True:
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection(address, PORT, timeout=PATIENCE, source_address=(source, 0))
                connection.request("GET", "/")
                answer = connection.getresponse()
                if answer.status != 200 or answer.read() != b"hello\n":
                    failed.append(str(answer.status))
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{time.strftime('%T')} {error!r}")
            requests += 1
            if requests % SOME == 0:
                print("begun", flush=True)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return {"requests": requests, "failed": failed, "slowest": round(slowest, 3)}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server((sys.argv[2], PORT), Answer).serve_forever()
    else:
        print(json.dumps(call(sys.argv[2], sys.argv[3])))
