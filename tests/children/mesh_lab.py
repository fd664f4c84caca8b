"""A small mesh in network namespaces: machines on a bridge, redirect rules, development proxies with SVIDs of a CA made here.

Everything in a namespace runs in a thread of this process that has entered it, but the proxies, which are real processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from demo.endpoints import EndpointServer
from demo.machine import BRIDGE
from demo.services import Objects
from harness import values
from harness.proxy_environment import DESTINATION_IDENTITY
from harness.system import workload_api
from harness.system.workload_api_authority import Authority
from harness.system.workload_api_connection import Connection
from harness.system.workload_api_issuer import Issuer
from tests import linkerd_lab_pki as pki
from tests.children.mesh_namespace import APP_PORT, Namespace, run
from tests.waiting import wait
from tests.workload_api_support import REPOSITORY, TRUST_DOMAIN, make_ca, write_pem

CLUSTER, ENDPOINTS_PORT = "10.99.0.1", 8086
VIP, VIP6 = "10.43.0.10", "fd43::10"
REDIRECTED_GID = 2105  # the clients' group; the proxies keep ours, which the rules leave alone
_RULES = f"""
table inet mx {{
  chain outbound {{
    type nat hook output priority -110;
    meta skgid {REDIRECTED_GID} ip daddr {{ 10.43.0.0/16, 10.99.0.0/24 }} meta l4proto tcp redirect to :4140
    meta skgid {REDIRECTED_GID} ip6 daddr {{ fd43::/16, fd99::/16 }} meta l4proto tcp redirect to :4140
  }}
  chain inbound {{
    type nat hook prerouting priority -110;
    tcp dport {APP_PORT} redirect to :4143
  }}
}}
"""


def new_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority((make_ca("mesh root", key),), key)


def spiffe(name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/{name}"


class SvidSource:
    """A Workload API whose answers the test chooses, on Connection, the embedded server's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._response = b""
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        factory = self._loop.create_unix_server(lambda: Connection(cast(Issuer, self), self._connections), str(path))
        self._server = asyncio.run_coroutine_threadsafe(factory, self._loop).result(5)

    def response(self, uid: int) -> bytes | None:
        return self._response or None

    def give(self, authority: Authority, name: str, ttl: float = 3600.0) -> workload_api.Svid:
        svid = authority.issue(values.parse_spiffe_id(spiffe(name)), time.time(), ttl)
        self._response = workload_api.encode_response([svid])

        def push() -> None:
            for connection in self._connections:
                connection.push()

        self._loop.call_soon_threadsafe(push)
        return svid

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class Machine:
    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.name, self.address, self.address6 = name, f"10.99.0.{number}", f"fd99::{number}"
        self.namespace = Namespace(f"{lab.prefix}{name}")
        self.svids = SvidSource(lab.folder / f"{name}.sock")
        self.log = lab.folder / f"{name}.log"
        self.proxy: subprocess.Popen[bytes] | None = None
        link, here = f"{lab.prefix}{number}", self.namespace.name
        run("ip", "-n", lab.cluster.name, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", here)
        run("ip", "-n", lab.cluster.name, "link", "set", link, "master", "br0", "up")
        run("ip", "-n", here, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", here, "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")
        run("ip", "-n", here, "link", "set", "eth0", "up")
        run("ip", "-n", here, "route", "add", "10.43.0.0/16", "via", CLUSTER)
        run("ip", "-n", here, "route", "add", "fd43::/64", "dev", "eth0")
        run("ip", "netns", "exec", here, "nft", "-f", "-", stdin=_RULES)

    def environment(self, identity: str, anchors: str) -> dict[str, str]:
        variables = {
            "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": f"unix://{self.svids.path}",
            "IDENTITY_SERVER_ID": spiffe(identity),
            "IDENTITY_SERVER_NAME": f"{identity}.cluster.local",
            "IDENTITY_TRUST_ANCHORS": anchors,
            "DESTINATION_SVC_ADDR": f"{CLUSTER}:{ENDPOINTS_PORT}",
            "DESTINATION_SVC_NAME": DESTINATION_IDENTITY,
            "POLICY_WORKLOAD": '{"ns":"faces","external_workload":"x"}',
            "OUTBOUND_LISTEN_ADDRS": "127.0.0.1:4140,[::1]:4140",
            "INBOUND_LISTEN_ADDR": "[::]:4143",
            "SHUTDOWN_GRACE_PERIOD": "10s",
            "LOG": "debug",
        }
        return {f"LINKERD2_PROXY_{name}": value for name, value in variables.items()}

    def spawn(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        argv = ["ip", "netns", "exec", self.namespace.name, sys.executable, "-s", "-m", "demo.proxy"]
        base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
        with self.log.open("ab") as log:
            self.proxy = subprocess.Popen(argv, env=base | dict(environment), stdout=log, stderr=subprocess.STDOUT, cwd="/")
        return self.proxy

    def admin(self, path: str) -> tuple[int, str]:
        """Status 0 when nothing listens."""

        def get() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", 4191, timeout=5)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except OSError:
                return 0, ""
            finally:
                connection.close()

        return self.namespace.call(get)

    def metrics(self, *parts: str) -> list[str]:
        _, text = self.admin("/metrics")
        return [line for line in text.splitlines() if all(part in line for part in parts)]

    def until_ready(self) -> None:
        wait(lambda: self.admin("/ready")[0] == 200)

    def stop(self, seconds: float = 15.0) -> int:
        assert self.proxy is not None
        self.proxy.send_signal(signal.SIGTERM)
        return self.proxy.wait(seconds)

    def close(self) -> None:
        if self.proxy is not None and self.proxy.poll() is None:
            self.proxy.kill()
            self.proxy.wait(60)
        self.svids.close()
        self.namespace.delete()


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"mxA-{secrets.token_hex(3)}"  # a link is named after it too: no more than 15 letters
        self.cluster = Namespace(f"{self.prefix}net")
        self.authority = new_authority()
        self.anchors = write_pem(folder / "root.crt", *self.authority.certificates).read_text()
        write_pem(folder / "root.key", self.authority.key)
        pki.leaf(folder, "destination", "root", "/CN=destination", f"DNS:{DESTINATION_IDENTITY}")
        self.machines: dict[str, Machine] = {}
        self.endpoints = EndpointServer()
        for words in (BRIDGE, ("addr", "add", f"{CLUSTER}/24", "dev", "br0")):
            run("ip", "-n", self.cluster.name, *words)
        run("ip", "-n", self.cluster.name, "link", "set", "br0", "up")
        self._serving = threading.Event()
        self._thread = self.cluster.start(lambda: asyncio.run(self._serve()))
        assert self._serving.wait(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "destination.crt", self.folder / "destination.key")
        await self.endpoints.start(CLUSTER, ENDPOINTS_PORT, tls)
        self._serving.set()
        await self._stop.wait()
        await self.endpoints.stop()

    def machine(self, name: str, identity: str | None = None, start: bool = True) -> Machine:
        """A machine with a certified proxy as `identity`, by default its name."""
        number = 11 + len(self.machines)
        machine = self.machines[name] = Machine(self, name, number)
        machine.svids.give(self.authority, identity or name)
        if start:
            machine.spawn(machine.environment(identity or name, self.anchors))
            machine.until_ready()
        return machine

    def publish(self, *machines: Machine, identity: str = "app", port: int = APP_PORT) -> None:
        """Makes them the ready endpoints of the service, all as `identity`."""
        ports = [{"name": "http", "port": 80, "targetPort": "http"}]
        services = [
            {
                "metadata": {"name": "app", "namespace": "faces"},
                "spec": {"clusterIP": address, "selector": {"service": "app"}, "ports": ports},
            }
            for address in (VIP, VIP6)
        ]
        workloads = [
            {
                "metadata": {"name": machine.name, "namespace": "faces", "labels": {"service": "app"}},
                "spec": {
                    "meshTLS": {"identity": spiffe(identity), "serverName": f"{identity}.cluster.local"},
                    "workloadIPs": [{"ip": machine.address}, {"ip": machine.address6}],
                    "ports": [{"name": "http", "port": port}],
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }
            for machine in machines
        ]
        self.update(Objects(services, workloads))

    def update(self, objects: Objects) -> None:
        """Tells the proxies what there is."""
        self._loop.call_soon_threadsafe(self.endpoints.update, objects)

    def close(self) -> None:
        for machine in self.machines.values():
            machine.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self.cluster.delete()


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    made = Lab(folder)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(name="mesh")
def mesh_fixture() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="mxA-", dir="/tmp") as folder, lab(Path(folder)) as made:
        yield made
