"""The playground: the cluster side, a pod in it, machines that join by the real daemon, their workloads, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from demo import cluster, machine, shell
from demo.cluster import Cluster
from demo.machine import APP_UID, DNS_UID, PROXY_UID, PYTHON, SOURCE, Link, Machine
from demo.report import Report, table

ADDRESSES = {"face-1": 21, "face-2": 22, "smiley-1": 31, "smiley2-1": 32, "color-1": 41, "gui-1": 51}
SHOWN = {"color-1": {"COLOR": "green"}, "smiley2-1": {"SMILEY": "HeartEyes"}}  # unlike the others, so that they can be told apart
POD = "color-0"
PACKAGES = ("harness", "controller", "demo")


class Playground:
    """`host_proc`: a descriptor of the host's /proc."""

    def __init__(self, folder: Path, page: socket.socket, host_proc: int, report: Report) -> None:
        self.report, self._page, self._host_proc = report, page, host_proc
        self._source = folder / "src"
        self._folder = folder
        self.cluster = Cluster(folder)
        self.machines: dict[str, Machine] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._pod: Machine | None = None
        self._stopping = False

    async def start(self) -> None:
        self._copy_source()
        await self.cluster.start()
        self.report.step("cluster", f"controller at {cluster.NODE}:{cluster.CONTROLLER_PORT}, DNS at {cluster.CLUSTER_DNS}")
        await self._start_pod()
        self.report.step("cluster", f"the pod {POD} shows blue, at {cluster.POD_ADDRESS}")

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

    async def _start_pod(self) -> None:
        """The Deployment of color, with its one pod."""
        link = Link(cluster.POD_ADDRESS, "cbr0", cluster.POD_GATEWAY)
        self._pod = await machine.boot(POD, link, self._source, None, cluster.CLUSTER_DNS)
        await self._start_faces(self._pod, "color")
        self.cluster.pods.append(cluster.pod(POD, "color", cluster.POD_ADDRESS))
        await self.cluster.publish()

    async def scale_to_zero(self) -> None:
        """Out of the endpoints, and the process ends a little later, as Kubernetes does it."""
        self.cluster.pods.clear()
        await self.cluster.publish()
        await asyncio.sleep(1.0)
        if self._pod is not None:
            await self._pod.stop()

    async def boot(self, name: str) -> Machine:
        """An empty machine, which knows its site's own DNS and nothing of the cluster."""
        link = Link(f"10.77.0.{ADDRESSES[name]}")
        here = await machine.boot(name, link, self._source, self.cluster.certs, cluster.SITE_DNS)
        shell.install(here.path("/run/vm"), "/run/vm", name, PYTHON, {"PYTHONPATH": SOURCE, **environment(name)})
        self.machines[name] = here
        return here

    async def start_workload(self, name: str) -> None:
        await self._start_faces(self.machines[name], kind_of(name))

    async def _start_faces(self, here: Machine, kind: str) -> None:
        """The application, plain HTTP, which knows nothing of the mesh."""
        name = here.name
        environment = {
            **SHOWN.get(name, {}),
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
        with self.log(name).open("ab") as log:
            process = await here.start("harness", [PYTHON, "-s", "-m", "harness", "run"], environment(name), output=log)
        task = asyncio.create_task(self._show(here, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def log(self, name: str) -> Path:
        """What a machine's daemon and its children log; `meshexp logs` reads it too."""
        return self._folder / f"{name}.log"

    async def _show(self, here: Machine, process: asyncio.subprocess.Process) -> None:
        """One line when the machine is a member, and one for each fault that comes or goes later."""
        began = time.monotonic()
        news = News()
        while process.returncode is None and not self._stopping:
            with contextlib.suppress(OSError, ValueError):
                status = json.loads(here.path("/run/meshexp/status.json").read_text())
                for text in news.of(status, time.monotonic() - began):
                    self.report.step(here.name, text)
            await asyncio.sleep(0.05)

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
        for name, here in sorted(self.machines.items()):
            if found := workloads.get(here.address):
                identity, ready = found["spec"]["meshTLS"]["identity"], "yes" if cluster.is_ready(found) else "no"
                rows.append((name, found["metadata"]["name"], here.address, identity, ready))
        lines = [table(("machine", "ExternalWorkload", "address", "identity", "ready"), rows), ""]
        lines.append(table(("component", "here", "what it is"), COMPONENTS))
        return "\n".join(lines)

    def shells(self) -> list[tuple[str, str]]:
        """Each machine's name, and the command that leads into it."""
        pids = {name: shell.host_pid(self._host_proc, here.pid) for name, here in sorted(self.machines.items())}
        return [(name, shell.command(pid, "/run/vm")) for name, pid in pids.items()]

    async def stop(self) -> None:
        """Every daemon leaves in good order, then the machines go."""
        self._stopping = True
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
        for here in (*self.machines.values(), *([self._pod] if self._pod else [])):
            await here.stop()
        await self.cluster.stop()
        for task in list(self._tasks):
            task.cancel()


COMPONENTS = (
    ("daemon, routes, redirect", "real", "meshexp run, netlink, nftables"),
    ("split DNS", "real", "resolv.conf and dnsmasq on the machine; dnsmasq again in place of kube-dns"),
    ("controller", "real", "its store is the embedded one; Kubernetes is another"),
    ("SPIFFE Workload API", "stand-in", "embedded, in place of SPIRE"),
    ("proxy", "stand-in", "development proxy, in place of linkerd2-proxy"),
    ("endpoints, HTTPRoute", "stand-in", "in place of Linkerd's destination and policy controllers"),
    (f"pod {POD}", "stand-in", "a namespace with the workload; it has no proxy, and is called in plain text"),
)


def service_of(name: str) -> str:
    return name.partition("-")[0]


def kind_of(name: str) -> str:
    """Which of Faces' programs it is."""
    return service_of(name).rstrip("2")


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
        "MESHEXP_DNS_USER": str(DNS_UID),
        "MESHEXP_LOG_FORMAT": "console",
    }


async def until(what: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether `what` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await what():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


class News:
    """Which changes of a machine's status get a line."""

    def __init__(self) -> None:
        self._joined = False
        self._phase = ""
        self._faults: dict[str, str] = {}

    def of(self, status: Mapping[str, Any], seconds: float) -> Iterator[str]:
        if status["phase"] == "Draining" and self._phase != "Draining":
            yield "drains: no new requests, and those that are under way are finished"
        self._phase = status["phase"]
        if not self._joined and self._phase == "Ready":
            self._joined = True
            workload = status["workload"]
            yield f"Ready after {seconds:.1f} s as {workload['identity']}, ExternalWorkload {workload['name']}"
        if self._joined:
            yield from self._gone({condition["name"] for condition in status["conditions"]})
            for condition in status["conditions"]:
                yield from self._condition(condition)

    def _gone(self, there: set[str]) -> Iterator[str]:
        """Some conditions exist only while something is wrong: a cordon, an unread configuration."""
        for name in [name for name, problem in self._faults.items() if problem and name not in there]:
            del self._faults[name]
            yield f"{name}: no longer"

    def _condition(self, condition: Mapping[str, Any]) -> Iterator[str]:
        name, problem = condition["name"], condition["problem"] or ""
        if problem != self._faults.get(name, ""):
            yield f"{name}: {condition['message']}" + (f" [{problem}]" if problem else "")
        self._faults[name] = problem


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
