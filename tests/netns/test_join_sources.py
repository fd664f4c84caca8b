"""Where `meshexp join` takes an invitation from, apart from a file."""

from __future__ import annotations

import http.server
import os
import ssl
import subprocess
import sys
import threading

import pytest

from harness.errors import UnavailableError
from harness.system import https
from tests.check.lab import leaf
from tests.mesh import Mesh
from tests.netns.test_join import (
    invite,
    vm_fixture,  # noqa: F401
)
from tests.spire_support import MISSING, SPIRE

pytestmark = pytest.mark.skipif(not SPIRE, reason=MISSING)


def test_by_https_and_by_standard_input(vm: Mesh) -> None:
    text = invite(vm).read_text()
    vm.start_controller()
    certs = vm.folder / "certs"
    leaf(certs, "web", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "web.crt", certs / "web.key")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UnavailableError, match="certificate"):
            https.fetch(f"https://localhost:{server.server_port}/secret-path")
        os.environ["SSL_CERT_FILE"] = str(certs / "ca.crt")
        with pytest.raises(UnavailableError, match="certificate"):
            https.fetch(f"https://127.0.0.1:{server.server_port}/secret-path")
        assert https.fetch(f"https://localhost:{server.server_port}/secret-path") == text
    finally:
        os.environ.pop("SSL_CERT_FILE", None)
        server.shutdown()
        server.server_close()
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "join", "-"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, env=vm.environment, timeout=60)
    assert done.returncode == 0 and "4 files" not in done.stderr, done.stderr
