"""Where somebody is logged in from by SSH, no network leads that the controller tells meanwhile."""

from __future__ import annotations

import sys

import pytest

from tests.mesh import ROOT
from tests.namespaces import connect, namespace

pytestmark = pytest.mark.root
PEER, VM, PORT = "198.18.0.1", "198.18.0.2", 22
SESSION = f"""
import asyncio, ipaddress, pathlib, socket
from harness import limits
from harness.daemon.surroundings import with_networks
from harness.messages import ClusterFacts
from harness.paths import Paths
from tests import builders

with socket.create_server(("{VM}", {PORT})) as server:
    print("ready", flush=True)
    session, _ = server.accept()
    none = pathlib.Path("/nonexistent")
    found = asyncio.run(with_networks(builders.machine(), Paths(none, none, none)))
    networks = tuple(map(ipaddress.ip_network, ("198.0.0.0/8", "10.43.0.0/16")))
    told = builders.registration(facts=ClusterFacts(service_cidrs=networks))
    taken, refused = limits.within(builders.config(), found, told, None)
    print(*taken.facts.service_cidrs, "|", *refused, flush=True)
"""
LOGIN = f"import socket; c = socket.create_connection(('{VM}', {PORT}), 5); c.recv(1)"


def test_a_told_network_does_not_take_the_way_of_a_live_session() -> None:
    with namespace() as vm, namespace() as peer:
        connect(vm, peer, [(f"{VM}/24", f"{PEER}/24")])
        session = vm.start(sys.executable, "-c", SESSION, env={"PYTHONPATH": str(ROOT)})
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        login = peer.start(sys.executable, "-c", LOGIN)
        said, _ = session.communicate(timeout=30)
        login.wait(10)
    assert said.startswith("10.43.0.0/16 |"), said
    assert f"198.0.0.0/8 has the address {PEER}, from where somebody is logged in by SSH" in said
