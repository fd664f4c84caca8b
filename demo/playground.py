"""The playground: the cluster side, machines that join by the real daemon, their workloads, and the page."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from demo import cluster, machine
from demo.cluster import Cluster
from demo.machine import APP_UID, PROXY_UID, PYTHON, SOURCE, Machine
from demo.report import Report, table

ADDRESSES = {"face-1": 21, "smiley-1": 31, "color-1": 41, "gui-1": 51, "face-2": 22}
PAGE_PORT = 8000
PACKAGES = ("harness", "controller", "demo")


class Playground:
    def __init__(self, folder: Path, page: socket.socket, report: Report) -> None:
        self.report, self._page = report, page
        self._source = folder / "src"
        self._folder = folder
        self.cluster = Cluster(folder)
        self.machines: dict[str, Machine] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._copy_source()
        await self.cluster.start()
        self.report.step("cluster", f"controller at {cluster.NODE}:{cluster.CONTROLLER_PORT} (embedded store), names, endpoints")

    def _copy_source(self) -> None:
        """Where every uid can read it: a clone may lie in a home directory that only its owner enters."""
        root = Path(__file__).resolve().parent.parent
        for package in PACKAGES:
            shutil.copytree(root / package, self._source / package, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([PYTHON, "-m", "compileall", "-q", str(self._source)], check=True)
        proxy = self._source / "development-proxy"
        proxy.write_text(f"#!/bin/sh\nPYTHONPATH={SOURCE} exec {PYTHON} -s -m demo.proxy\n")
        subprocess.run(["chmod", "-R", "a+rX", str(self._folder)], check=True)
        proxy.chmod(0o755)
        self._folder.chmod(0o711)

    async def boot(self, name: str) -> Machine:
        """An empty machine."""
        address = f"10.77.0.{ADDRESSES[name]}"
        self.machines[name] = await machine.boot(name, address, self._source, self.cluster.certs, cluster.NODE)
        return self.machines[name]

    async def start_workload(self, name: str) -> None:
        """The application, plain HTTP, which knows nothing of the mesh."""
        kind, here = service_of(name), self.machines[name]
        environment = {
            "HOSTNAME": name,
            "HOST_IP": name,
            "SMILEY_SERVICE": f"smiley.{cluster.NAMESPACE}.svc.cluster.local",
            "COLOR_SERVICE": f"color.{cluster.NAMESPACE}.svc.cluster.local",
            "FACE_SERVICE": f"face.{cluster.NAMESPACE}.svc.cluster.local",
        }
        process = await here.start("workload", [PYTHON, "-m", "demo.faces", kind, "--port", "8000"], environment, APP_UID)
        self._drain(process)

    async def join(self, name: str) -> None:
        """`meshexp run` with the playground's container environment; returns when its child is started."""
        here = self.machines[name]
        process = await here.start("harness", [PYTHON, "-s", "-m", "harness", "run"], environment(name))
        task = asyncio.create_task(self._show(name, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show(self, name: str, process: asyncio.subprocess.Process) -> None:
        """The daemon's own log: every line to a file, every change of a condition to the terminal."""
        log = (self._folder / f"{name}.log").open("wb")
        while process.stdout is not None and (line := await process.stdout.readline()):
            log.write(line)
            log.flush()
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if text := _told(event):
                self.report.step(name, text)
        log.close()

    def _drain(self, process: asyncio.subprocess.Process) -> None:
        async def drain() -> None:
            while process.stdout is not None and await process.stdout.read(65536):
                pass

        task = asyncio.create_task(drain())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def serve_page(self) -> None:
        """The page on the host's own loopback: a listener made outside hands its connections to gui-1."""
        address = f"10.77.0.{ADDRESSES['gui-1']}"

        async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                inner_reader, inner_writer = await asyncio.open_connection(address, 8000)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

        self._server = await asyncio.start_server(hand_on, sock=self._page)

    @property
    def page_address(self) -> tuple[str, int]:
        host, port = self._page.getsockname()
        return host, port

    async def summary(self) -> str:
        rows = []
        workloads = {o["spec"]["workloadIPs"][0]["ip"]: o for o in await self.cluster.workloads()}
        for name, here in self.machines.items():
            if found := workloads.get(here.address):
                identity, ready = found["spec"]["meshTLS"]["identity"], "yes" if cluster.is_ready(found) else "no"
                rows.append((name, found["metadata"]["name"], here.address, identity, ready))
        lines = [table(("machine", "ExternalWorkload", "address", "identity", "ready"), rows), ""]
        lines.append(table(("component", "here", "what it is"), COMPONENTS))
        return "\n".join(lines)

    async def stop(self) -> None:
        """Every daemon leaves in good order, then the machines go."""
        leaving = [here for here in self.machines.values() if _runs(here)]
        for here in leaving:
            here.signal("harness", signal.SIGTERM)
        for here in leaving:
            try:
                await asyncio.wait_for(here.children["harness"].wait(), 15)
            except TimeoutError:
                self.report.step(here.name, "does not leave in time")
        if self._server is not None:
            self._server.close()
        for here in self.machines.values():
            await here.stop()
        await self.cluster.stop()
        for task in list(self._tasks):
            task.cancel()


COMPONENTS = (
    ("daemon, routes, redirect", "real", "meshexp run, netlink, nftables"),
    ("controller", "real", "its store is the embedded one; Kubernetes is another"),
    ("SPIFFE Workload API", "stand-in", "embedded, in place of SPIRE"),
    ("proxy", "stand-in", "development proxy, in place of linkerd2-proxy"),
    ("endpoints", "stand-in", "in place of Linkerd's destination controller"),
    ("service names", "stand-in", "dnsmasq, in place of kube-dns"),
)


def service_of(name: str) -> str:
    return name.partition("-")[0]


def environment(name: str) -> dict[str, str]:
    """The playground's container interface, and what differs on this machine as MESHEXP_ variables."""
    return {
        "WORKLOAD_NAME": service_of(name),
        "WORKLOAD_NAMESPACE": cluster.NAMESPACE,
        "NODE_NAME": "$(hostname)",
        "NODE_IP": cluster.NODE,
        "POD_CIDR": cluster.POD_CIDR,
        "SVC_CIDR": cluster.SERVICE_CIDR,
        "MESHEXP_DEMO": "1",
        "MESHEXP_CONFIG_DIR": "/run/vm/etc",
        "MESHEXP_STATE_DIR": "/run/vm/state",
        "MESHEXP_CONTROLLER_ADDRESS": f"{cluster.NODE}:{cluster.CONTROLLER_PORT}",
        "MESHEXP_CONTROLLER_IDENTITY": cluster.IDENTITY,
        "MESHEXP_CONTROLLER_TRUST_ANCHORS": "/run/vm/certs/ca.crt",
        "MESHEXP_IDENTITY_MODE": "embedded",
        "MESHEXP_IDENTITY_EMBEDDED_CA_CERT": "/run/vm/certs/ca.crt",
        "MESHEXP_IDENTITY_EMBEDDED_CA_KEY": "/run/vm/certs/ca.key",
        "MESHEXP_PROXY_PATH": f"{SOURCE}/development-proxy",
        "MESHEXP_PROXY_USER": str(PROXY_UID),
        "MESHEXP_PROXY_SHUTDOWN_GRACE": "5s",
        "MESHEXP_LOG_FORMAT": "json",
    }


def page_listener() -> socket.socket:
    """A listener on the host's loopback, made before the demo leaves the host's network namespace."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", PAGE_PORT))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    os.set_inheritable(listener.fileno(), True)
    return listener


async def until(what: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether `what` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await what():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _told(event: Mapping[str, Any]) -> str | None:
    message = str(event.get("msg", ""))
    if message.startswith("condition ") and event.get("status") == "True":
        return f"{message.removeprefix('condition ')}: {event.get('detail')}"
    if message.startswith("condition ") and event.get("problem"):
        return f"{message.removeprefix('condition ')}: {event.get('detail')} [{event.get('problem')}]"
    return f"phase {event['phase']}" if message == "phase" else None


def _runs(here: Machine) -> bool:
    return "harness" in here.children and here.children["harness"].returncode is None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
