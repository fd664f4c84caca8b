"""The embedded server and the child as processes: how they start, refuse, and end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import h2.connection
import h2.events
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness import values
from harness.clock import SystemClock
from harness.errors import ConfigError
from harness.system import workload_api as api
from harness.system import workload_api_authority as authority
from harness.system import workload_api_issuer as issuer
from harness.system import workload_api_server as server
from harness.system import workload_api_wire as wire
from harness.system.workload_api_child import FRAME_HEADER
from tests.waiting import wait
from tests.workload_api_support import REPOSITORY, SPIFFE_ID, accepts, make_ca, raw_call, write_pem

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
METADATA = {"workload.spiffe.io": "true"}
DEBIAN_PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that every start needs; the API is at api/api.sock."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, private = write_pem(tmp_path / "ca.crt", make_ca("root", key)), write_pem(tmp_path / "ca.key", key)
    return ["--socket", str(tmp_path / "api" / "api.sock"), "--ca-cert", str(certificate), "--ca-key", str(private)]


SERVER = (sys.executable, "-m", "harness.system.workload_api_server")


def refusal(*options: str) -> tuple[int, str]:
    done = subprocess.run([*SERVER, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ((), 78, "at least one is needed"),
        (("--entry", "uid:0=spiffe://example.org/face"), 78, "uid 0"),
        (("--uid", "0", "--spiffe-id", "spiffe://example.org/face"), 78, "uid 0"),
        (("--entry", "user:face=spiffe://example.org/face"), 78, "is not an entry such as"),
        (("--entry", "uid:1=https://example.org"), 78, "is not a SPIFFE ID"),
        (("--uid", "7"), 64, "belong together"),
        (("--svid-ttl", "soon"), 64, "--svid-ttl"),
    ],
)
def test_bad_entries_are_refused(files: list[str], options: tuple[str, ...], code: int, text: str) -> None:
    exit_code, message = refusal(*files, *options)
    assert exit_code == code, message
    assert text in message


def test_an_unusable_ca_is_refused(files: list[str], tmp_path: Path) -> None:
    write_pem(tmp_path / "ca.key", ec.generate_private_key(ec.SECP256R1()))
    code, text = refusal(*files, "--entry", f"uid:7={SPIFFE_ID}")
    assert code == 78
    assert "is not the key of the first certificate" in text


def test_a_live_servers_socket_is_left_alone_and_a_clean_end_removes_it(files: list[str]) -> None:
    path = Path(files[1])
    with subprocess.Popen([*SERVER, *files, "--entry", f"uid:7={SPIFFE_ID}"], cwd=REPOSITORY) as first:
        wait(lambda: accepts(path))
        code, text = refusal(*files, "--entry", f"uid:7={SPIFFE_ID}")
        assert code == 75
        assert "another server listens there" in text
        assert accepts(path)
        first.terminate()
        assert first.wait(60) == 0
    assert not path.exists()


def test_a_ca_that_runs_out_ends_the_server_with_the_reason(files: list[str], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_pem(tmp_path / "ca.crt", make_ca("root", key, life=(-60, 3)))
    write_pem(tmp_path / "ca.key", key)
    code, text = refusal(*files, "--entry", f"uid:7={SPIFFE_ID}")
    assert code == 78
    assert "expired" in text
    assert not Path(files[1]).exists()


def test_a_dead_servers_socket_is_replaced_and_any_other_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "new" / "api.sock"
    os.umask(0o077)
    try:
        server.listen(path).close()
        with server.listen(path):
            assert accepts(path)
            assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o777, 0o755)
    finally:
        os.umask(0o022)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="in use"):
        server.listen(path)
    assert path.read_text() == "precious"


def make_issuer(ttl: float, now: float) -> issuer.Issuer:
    """An identity for our own uid: the command line refuses root, which these tests may well be."""
    key = ec.generate_private_key(ec.SECP256R1())
    entry = issuer.Entry(os.getuid(), values.parse_spiffe_id(SPIFFE_ID))
    return issuer.Issuer(authority.Authority((make_ca("root", key),), key), (entry,), ttl, now)


def with_server(directory: Path, client: Callable[[Path], None], ttl: float = 3600) -> None:
    """Runs `client` in a thread, beside a server in this one."""

    async def scenario() -> None:
        clock, path = SystemClock(), directory / "api.sock"
        serving = asyncio.create_task(server.serve(server.listen(path), make_issuer(ttl, clock.wall()), clock))
        try:
            await asyncio.to_thread(client, path)
        finally:
            serving.cancel()
            await serving

    asyncio.run(scenario())


def test_svids_are_replaced_around_half_of_their_life() -> None:
    now, uid = time.time(), os.getuid()
    identities = make_issuer(3600, now)
    first = identities.response(uid)
    assert identities.response(uid + 1) is None
    assert identities.renew(now + 0.44 * 3600) == frozenset()
    assert identities.response(uid) == first
    assert identities.renew(now + 0.56 * 3600) == {uid}
    assert identities.response(uid) != first


def test_a_stream_brings_each_rotation(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        (first,), (second,) = itertools.islice(api.stream(str(path)), 2)
        assert first.key_der != second.key_der

    with_server(tmp_path, client, ttl=2)


def test_a_client_with_a_tiny_window_gets_whole_messages(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        buffer, messages = bytearray(), []
        for chunk in raw_call(path, METHOD, METADATA, window=7):
            assert isinstance(chunk, bytes) and len(chunk) <= 7
            buffer += chunk
            while (message := wire.take_grpc_message(buffer)) is not None:
                messages.append(api.parse_response(message))
            if len(messages) == 2:
                return
        raise AssertionError("the server hung up")

    with_server(tmp_path, client, ttl=2)


def test_a_client_that_breaks_http2_harms_nobody(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64)):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(noise)
                connection.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    while connection.recv(65536):
                        pass
        assert next(api.stream(str(path)))

    with_server(tmp_path, client)


def test_a_call_that_was_cancelled_at_once_does_not_end_the_connection(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        http = h2.connection.H2Connection()
        http.initiate_connection()
        headers = {":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": "localhost", **METADATA}
        http.send_headers(1, list(headers.items()), end_stream=True)
        http.reset_stream(1)
        http.send_headers(3, list(headers.items()), end_stream=True)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            connection.sendall(http.data_to_send())
            while data := connection.recv(65536):
                if any(isinstance(event, h2.events.DataReceived) for event in http.receive_data(data)):
                    return
        raise AssertionError("the server hung up")

    with_server(tmp_path, client)


def start_child(path: Path, python: Path = Path(sys.executable)) -> subprocess.Popen[bytes]:
    command = [str(python), "-m", "harness.system.workload_api_child", str(path)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)


def read_frame(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    length, kind = FRAME_HEADER.unpack(process.stdout.read(FRAME_HEADER.size))
    return kind, process.stdout.read(length)


@pytest.mark.parametrize("calling", [True, False], ids=["in a call", "between calls"])
@pytest.mark.parametrize("way", ["SIGTERM", "closed output"])
def test_the_child_ends_cleanly(tmp_path: Path, way: str, calling: bool) -> None:
    def client(path: Path) -> None:
        with start_child(path if calling else tmp_path / "none") as process:
            kind, payload = read_frame(process)
            assert kind == (b"S" if calling else b"E"), payload
            if way == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            else:
                cast(IO[bytes], process.stdout).close()
            assert process.wait(60) == 0

    with_server(tmp_path, client)


@pytest.mark.skipif(not DEBIAN_PYTHON.exists(), reason="the bar is for Debian's Python, which is not here")
def test_the_child_takes_less_than_13_mib(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        with start_child(path, DEBIAN_PYTHON) as process:
            assert read_frame(process)[0] == b"S"
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()
        (kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        assert kib < 13 * 1024

    with_server(tmp_path, client)
