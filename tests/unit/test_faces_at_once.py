"""The face asks for its two parts at once: shown by parts that answer only when both have been asked."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

from tests.unit.test_faces import call, faces


@contextlib.contextmanager
def meeting(count: int) -> Iterator[str]:
    """host:port of a server that answers nobody before `count` have asked."""
    everybody = threading.Barrier(count)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            everybody.wait()
            body = json.dumps({"smiley": "&#x1F603;", "color": "#66CCEE"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            everybody.abort()
            server.shutdown()


def test_face_asks_both_at_once() -> None:
    with meeting(2) as both, faces("face", SMILEY_SERVICE=both, COLOR_SERVICE=both) as port:
        status, headers, data = call(port, "/edge/?row=0&col=0")
        assert (status, data["smiley"], data["color"], headers["X-Faces-Pod"]) == (200, "&#x1F603;", "#66CCEE", "face-1")
        assert "errors" not in data
