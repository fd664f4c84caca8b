"""The kernel finds a peer that is gone: one that is asked nothing, and one that does not acknowledge what was sent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.namespaces import connect, namespace
from tests.waiting import wait

pytestmark = pytest.mark.root
HERE, THERE = "10.9.0.2", "10.9.0.1"
SERVER = f"import socket, time; s = socket.create_server(('{THERE}', 9000)); c, _ = s.accept(); time.sleep(3600)"
CLIENT = f"""
import socket, sys
from harness.system import dead_peer
with socket.create_connection(("{THERE}", 9000)) as connection:
    dead_peer.watch(connection)
    print("begun", flush=True)
    if sys.stdin.readline() == "send\\n":
        connection.sendall(b"something")
    try:
        connection.recv(1)
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.parametrize("sends", ["send", "wait"])
def test_a_peer_that_is_gone(sends: str) -> None:
    """By default the kernel tries for a quarter of an hour to send data, and never asks a peer on an idle connection."""
    with namespace() as here, namespace() as there:
        connect(here, there, [(f"{HERE}/24", f"{THERE}/24")])
        server = there.start(sys.executable, "-c", SERVER)
        argv = [*here.enter, sys.executable, "-c", CLIENT]
        wait(lambda: ":9000" in there.run("ss", "-ltnH"))
        with server, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None and client.stdin is not None
                assert client.stdout.readline() == "begun\n"
                there.run("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }")
                assert client.communicate(f"{sends}\n", timeout=60)[0] == "Connection timed out\n"
            finally:
                server.kill()
                client.kill()
