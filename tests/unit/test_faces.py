"""The Faces workload: its contract over real sockets, its faults by an injected clock, its page as text."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from demo.faces import palette
from tests.workload_api_support import REPOSITORY


@contextlib.contextmanager
def faces(program: str, **environment: str) -> Iterator[int]:
    """The program as a process; yields its port. It must end with 0 on SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-s", "-m", "demo.faces", program, "--port", "0"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOSTNAME": f"{program}-1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "listens on port" in line
            yield int(line.split()[-1])
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def call(port: int, path: str = "/center/", method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers, body as JSON where it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        data = response.read()
        is_json = response.headers["Content-Type"] == "application/json" and data
        return response.status, response.headers, json.loads(data) if is_json else data.decode()
    finally:
        connection.close()


def test_smiley_answers_by_the_contract() -> None:
    with faces("smiley", HOST_IP="10.1.2.3") as port:
        status, headers, data = call(port, "/center/?row=1&col=2", **{"X-Faces-User": "ada", "User-Agent": "test"})
        assert status == data["status"] == 200
        assert (data["path"], data["method"], data["smiley"]) == ("/center/", "GET", "&#x1F603;")
        assert data["headers"]["X-Faces-User"] == ["ada"]
        assert data["client_address"].startswith("127.0.0.1:")
        assert headers["Content-Type"] == "application/json"
        assert (headers["X-Faces-Pod"], headers["X-Faces-User"], headers["User-Agent"]) == ("10.1.2.3", "ada", "test")
        assert call(port, "/ready")[2]["smiley"] == "&#x1F603;"  # any path is center
        status, headers, body = call(port, method="HEAD")
        assert (status, body, headers["X-Faces-Pod"]) == (200, "", "10.1.2.3")
        assert [call(port, method=verb)[0] for verb in ("POST", "DELETE", "PATCH", "OPTIONS")] == [405] * 4


def test_smiley_takes_a_new_face_by_put() -> None:
    with faces("smiley", SMILEY="HeartEyes") as port:
        assert call(port)[2]["smiley"] == "&#x1F60D;"
        assert call(port, method="PUT", body={"which": "edge", "smiley": "Screaming"})[0] == 200
        assert (call(port)[2]["smiley"], call(port, "/edge/")[2]["smiley"]) == ("&#x1F60D;", "&#x1F631;")
        call(port, method="PUT", body={"which": "all", "smiley": "U+1F610"})
        assert (call(port)[2]["smiley"], call(port, "/edge/")[2]["smiley"]) == ("&#x1F610;", "&#x1F610;")
        for bad in ({"which": "corner", "smiley": "Neutral"}, {"which": "all"}, ["all"], "all"):
            assert call(port, method="PUT", body=bad)[0] == 400


def test_ready_can_be_switched_off_alone() -> None:
    with faces("color", COLOR="green") as port:
        assert call(port, method="PUT")[0] == 405  # color takes no new colour
        assert call(port, "/ready", "PUT", {"ready": False})[2]["ready"] is False
        assert call(port, "/ready")[0] == 503
        assert (call(port)[0], call(port)[2]["color"]) == (200, "#228833")
        assert call(port, "/ready", "PUT", {"ready": "yes"})[0] == 400
        assert call(port, "/ready", "PUT", {"ready": True})[0] == 200
        assert call(port, "/ready")[0] == 200


def test_face_hands_on_what_it_gets() -> None:
    with (
        faces("smiley") as smiley,
        faces("color") as color,
        faces("face", SMILEY_SERVICE=f"127.0.0.1:{smiley}", COLOR_SERVICE=f"127.0.0.1:{color}") as port,
    ):
        status, headers, data = call(port, "/edge/?row=0&col=0")
        assert (status, data["smiley"], data["color"], headers["X-Faces-Pod"]) == (200, "&#x1F603;", "#66CCEE", "face-1")
        assert "errors" not in data
        call(smiley, method="PUT", body={"which": "edge", "smiley": "Neutral"})
        assert call(port, "/edge/")[2]["smiley"] == "&#x1F610;"  # the segment is handed on


def test_face_answers_200_when_its_parts_fail() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with (
            faces("smiley", ERROR_FRACTION="100") as smiley,
            faces("face", SMILEY_SERVICE=f"127.0.0.1:{smiley}", COLOR_SERVICE=f"127.0.0.1:{nobody.getsockname()[1]}") as port,
        ):
            status, _, data = call(port)
            assert (status, data["smiley"], data["color"]) == (200, palette.SMILEYS["Cursing"], palette.COLORS["grey"])
            assert [error.partition(":")[0] for error in data["errors"]] == ["smiley", "color"]
            assert "answered 500" in data["errors"][0]
            status, _, data = call(port, "/ready")  # of face alone
            assert (status, data["status"], data.get("errors")) == (200, 200, None)


def test_faults_show_as_statuses() -> None:
    with faces("smiley", ERROR_FRACTION="100", LATCH_FRACTION="100") as port:
        status, _, data = call(port)
        assert status == data["status"] == 599
        assert data["errors"]
        assert "smiley" not in data
    with faces("smiley", MAX_RATE="0.1") as port:
        assert [call(port)[0] for _ in range(3)] == [200, 429, 429]


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("", 0)) as taken:
        argv = [sys.executable, "-s", "-m", "demo.faces", "color", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(argv, cwd=REPOSITORY, env={}, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 69
        assert "Address already in use" in ended.stderr


def test_connections_are_kept_and_bad_requests_do_no_harm() -> None:
    with faces("color") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        locals_seen = set()
        for _ in range(5):
            connection.request("GET", "/center/")
            connection.getresponse().read()
            locals_seen.add(connection.sock.getsockname() if connection.sock else None)
        assert len(locals_seen) == 1
        assert None not in locals_seen
        connection.close()
        for raw in (
            b"GET http://[x HTTP/1.1\r\n\r\n",
            b"PUT /ready HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"PUT /ready HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"PUT /ready HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"nonsense\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as broken:
                broken.sendall(raw)
                answer = b""
                while part := broken.recv(4096):
                    answer += part
                assert b"400" in answer[:400]
        folded = b"GET / HTTP/1.1\r\nX-Faces-User: a\r\n b\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(folded)
            assert b"X-Faces-User: a b\r\n" in client.makefile("rb").read()
        with ThreadPoolExecutor(32) as pool:
            assert list(pool.map(lambda _: call(port)[0], range(200))) == [200] * 200


def test_a_request_in_flight_at_sigterm_is_answered() -> None:
    argv = [sys.executable, "-s", "-m", "demo.faces", "color", "--port", "0"]
    environment = {"DELAY_BUCKETS": "2000"}
    with subprocess.Popen(argv, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        threading.Timer(1.0, process.send_signal, (signal.SIGTERM,)).start()
        assert call(port)[0] == 200
        assert process.wait(60) == 0


def test_the_gui_serves_one_page_and_the_way_to_face() -> None:
    with faces("smiley") as smiley, faces("color") as color:
        services = {"SMILEY_SERVICE": f"127.0.0.1:{smiley}", "COLOR_SERVICE": f"127.0.0.1:{color}"}
        with faces("face", **services) as face, faces("gui", FACE_SERVICE=f"127.0.0.1:{face}") as port:
            status, headers, page = call(port, "/")
            assert status == 200
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert call(port, "/ready")[::2] == (200, "ready\n")
            assert call(port, "/other")[0] == 404
            assert call(port, "/", "POST")[0] == 405
            status, headers, data = call(port, "/face/edge/?row=0&col=1", **{"X-Faces-User": "ada"})
            assert (status, data["smiley"], data["color"], data["path"]) == (200, "&#x1F603;", "#66CCEE", "/edge/")
            assert (headers["X-Faces-Pod"], headers["X-Faces-PodName"], headers["X-Faces-User"]) == ("face-1", "gui-1", "ada")
            assert int(headers["X-Faces-Latency"]) >= 0
    assert not re.findall(r"""(?:src|href)="(?!data:)|https?://|@import|url\(""", page)  # self-contained
    assert 'const USER_HEADER = "X-Faces-User"' in page
    assert "innerHTML" not in page


def test_the_gui_says_when_face_is_away() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with faces("gui", FACE_SERVICE=f"127.0.0.1:{nobody.getsockname()[1]}") as port:
            assert call(port, "/face/center/")[0] == 502
