"""Plaintext on the wire while daemon and proxy are killed and started again, with `on_proxy_loss: closed`.

A program calls the mesh all the time and sends a known word; the node, which is the next hop, looks at every frame.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.record import Record, record
from tests.mesh import Mesh, mesh

ROUNDS = int(os.environ.get("MESHEXP_KILLS", "200"))
POD, APP_UID, WORD = "10.42.0.10", "2105", "password=hunter2"

_CALLS = f"""
import socket, time
while True:
    try:
        with socket.create_connection(({POD!r}, 9000), 0.2) as made:
            made.sendall({WORD!r}.encode())
    except OSError:
        pass
    time.sleep(0.002)
"""
_SERVE = f"""
import socket
server = socket.create_server(({POD!r}, 9000), backlog=128)
while True:
    made, _ = server.accept()
    made.settimeout(0.2)
    try:
        made.recv(64)
    except OSError:
        pass
    made.close()
"""
# Frames to the pod, and bytes of the word in any frame; each line is the sum until then. It looks at them as they come.
_LOOK = f"""
import json, signal, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
wire.bind(("eth0", 0))
word, pod = {WORD!r}.encode(), socket.inet_aton({POD!r})
seen = dict(frames=0, attempts=0, plaintext=0)
def tell(*_):
    print(json.dumps(seen), flush=True)
signal.signal(signal.SIGUSR1, tell)
tell()
while True:
    frame = wire.recv(65536)
    seen["frames"] += 1
    seen["plaintext"] += len(word) * frame.count(word)
    syn = frame[12:14] == b"\\x08\\x00" and frame[30:34] == pod and frame[23] == 6 and frame[47] == 2
    seen["attempts"] += frame[36:38] == (9000).to_bytes(2, "big") if syn else 0
"""


class Wire:
    """What the node has seen so far."""

    def __init__(self, found: Mesh) -> None:
        argv = [*found.node.enter, sys.executable, "-c", _LOOK]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._read()

    def seen(self) -> dict[str, int]:
        """`attempts`: SYNs to the pod's port. `plaintext`: bytes of the word."""
        self._process.send_signal(signal.SIGUSR1)
        return self._read()

    def _read(self) -> dict[str, int]:
        if self._process.stdout is None:
            raise RuntimeError("the look at the wire has no output")
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def program(found: Mesh) -> None:
    """The pod, and the program of the machine that calls it."""
    found.node.run("ip", "address", "add", f"{POD}/32", "dev", "lo", check=False)
    found.start("pod", found.node, sys.executable, "-c", _SERVE)
    setpriv = ("setpriv", f"--reuid={APP_UID}", "--clear-groups")
    found.start("program", found.vm, *setpriv, sys.executable, "-c", _CALLS)


def kill_rounds(found: Mesh, rounds: int) -> dict[str, int]:
    """The member is Ready at first. By turns: the daemon killed, the proxy killed, both, and both while the proxy is not
    installed."""
    turns: list[Callable[[Mesh], None]] = [_daemon, _proxy, _both, _dead_proxy]
    wire = Wire(found)
    try:
        for number in range(rounds):
            turns[number % len(turns)](found)
            found.wait_ready()
        return wire.seen()
    finally:
        wire.close()


def _again(found: Mesh) -> None:
    old = found.status().get("pid")
    found.start_daemon()
    found.wait(lambda: found.status().get("pid") not in (None, old))


def _daemon(found: Mesh) -> None:
    found.stop("harness", signal.SIGKILL)
    _again(found)


def _proxy(found: Mesh) -> None:
    pid = found.proxy_pid()
    os.kill(pid, signal.SIGKILL)
    found.wait(lambda: found.proxy_pid() not in (0, pid))


def _both(found: Mesh) -> None:
    os.kill(found.proxy_pid(), signal.SIGKILL)
    found.stop("harness", signal.SIGKILL)
    _again(found)


def _dead_proxy(found: Mesh) -> None:
    """No proxy for a while: the next daemon cannot start one."""
    proxy = Path(found.folder / "development-proxy")
    away = proxy.with_name("proxy-away")
    pid = found.proxy_pid()
    proxy.rename(away)
    os.kill(pid, signal.SIGKILL)
    found.stop("harness", signal.SIGKILL)
    _again(found)
    time.sleep(0.2)
    away.rename(proxy)


def run() -> list[Record]:
    with mesh() as found:
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        program(found)
        seen = kill_rounds(found, ROUNDS)
    return [
        record("plaintext.bytes", seen["plaintext"], "bytes"),
        record("plaintext.attempts", seen["attempts"], "SYNs past the redirect"),
        record("plaintext.rounds", ROUNDS, "kills and restarts"),
    ]
