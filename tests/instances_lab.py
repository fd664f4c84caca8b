"""A machine with two workloads in one network namespace, and in another the cluster that both are members of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from demo import cluster
from demo.cluster import Cluster
from tests import redirect_support as support
from tests import waiting
from tests.mesh import ENVIRONMENT
from tests.namespaces import Namespace
from tests.spire_support import AGENT_UID, SERVER_UID

ADDRESS, SMILEY = "10.77.0.21", ("--instance", "smiley")
PORTS = {"face": 8000, "smiley": 8001}
USERS = {"face": 2300, "smiley": 2301}
APP = """
import http.server, pathlib, sys
name, ready = sys.argv[1], pathlib.Path(sys.argv[3])
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = name.encode()
        self.send_response(503 if self.path == "/ready" and not ready.exists() else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), App).serve_forever()
"""
GET = """
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10)
c.request("GET", sys.argv[3], headers={"Connection": "close"})
print(c.getresponse().read().decode())
"""


class Site(Cluster):
    """Two groups with a port each, probed every second, and leases that a busy machine does not miss."""

    def _write_groups(self) -> None:
        super()._write_groups()
        for name, port in PORTS.items():
            file = self._folder / "groups" / f"{name}.yaml"
            group = yaml.safe_load(file.read_text())
            group["spec"]["template"]["ports"][0]["port"] = group["spec"]["probes"][0]["httpGet"]["port"] = port
            group["spec"]["leaseSeconds"] = 30
            file.write_text(yaml.safe_dump(group))


class Lab:
    """`first` is `face`, the machine's first workload; `smiley` is the instance of that name."""

    def __init__(self, folder: Path, node: Namespace, vm: Namespace, proxy: str) -> None:
        self.folder, self.node, self.vm, self.real = folder, node, vm, bool(proxy)
        self.proxy = proxy or str(folder / "development-proxy")
        self.site = Site(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._up, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._up.wait(30)
        vm.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "vm", "netns", str(node.pid))
        node.run("ip", "link", "set", "vm", "master", "br0", "up")
        vm.run("ip", "address", "add", f"{ADDRESS}/24", "dev", "eth0")
        vm.run("ip", "link", "set", "eth0", "addrgenmode", "none", "up")

    def _serve(self) -> None:
        enter(self.node)

        async def run() -> None:
            await self.site.start()
            self._loop = asyncio.get_running_loop()
            self._up.set()
            await asyncio.to_thread(self._stop.wait)
            await self.site.stop()

        asyncio.run(run())

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._stop.set()
        self._thread.join(30)

    @property
    def environment(self) -> dict[str, str]:
        folders = {f"MESHEXP_{name.upper()}_DIR": str(self.folder / name) for name in ("config", "state", "run")}
        return {**ENVIRONMENT, **folders, "MESHEXP_RESOLV_CONF": str(self.folder / "resolv.conf")}

    def configure(self, name: str, folder: Path, **sections: Any) -> None:
        certs = self.site.certs
        base: dict[str, Any] = {
            "workload": {"group": name, "namespace": cluster.NAMESPACE},
            "controller": {
                "address": f"{cluster.NODE}:{cluster.CONTROLLER_PORT}", "identity": cluster.IDENTITY,
                "trust_anchors": f"{certs}/ca.crt",
            },
            "identity": self._identity(PORTS[name] + 1000),
            "network": {"node": cluster.NODE, "pod_cidrs": [cluster.POD_CIDR]},
            "proxy": {"path": self.proxy, "shutdown_grace": "1s"},
            "log": {"format": "json"},
        }  # fmt: skip
        if name == "face":  # names are the first workload's, and no concern of these tests
            base["dns"] = {"mode": "off"}
        folder.mkdir(parents=True, exist_ok=True)
        merged = {key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}}
        (folder / "harness.yaml").write_text(yaml.safe_dump(merged))

    def _identity(self, port: int) -> dict[str, Any]:
        """With real programs a SPIRE for each workload, whose server listens on `port`."""
        authority = {"ca_cert": f"{self.site.certs}/ca.crt", "ca_key": f"{self.site.certs}/ca.key"}
        if not self.real:
            return {"mode": "embedded", "embedded": authority}
        users = {"server_user": str(SERVER_UID), "agent_user": str(AGENT_UID)}
        return {"mode": "local", "spire": users, "local": {**authority, "allow_root_key": True, "port": port}}

    def start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.vm.enter, *argv], stdout=log, stderr=log, env=self.environment, start_new_session=True, cwd="/"
            )

    def start_daemon(self, *instance: str) -> None:
        self.start(instance[-1] if instance else "first", sys.executable, "-s", "-m", "harness", *instance, "run")

    def meshexp(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.vm.enter, sys.executable, "-s", "-m", "harness", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=self.environment, timeout=120)

    def status(self, *instance: str) -> dict[str, Any]:
        folder = self.folder / ("run-smiley" if instance else "run")
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((folder / "status.json").read_text()))
        return {}

    def endpoints(self) -> dict[str, Any]:
        """The ready ExternalWorkloads by group."""
        found = asyncio.run_coroutine_threadsafe(self.site.workloads(), self._loop).result(30)
        return {o["metadata"]["labels"]["service"]: o for o in found if cluster.is_ready(o)}

    def wait(self, what: Callable[[], object]) -> None:
        waiting.wait(what, why=self.logs)

    def logs(self) -> str:
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))

    def call(self, who: str, address: str, port: int, path: str = "/") -> str:
        """The answer to an application of this machine."""
        drop = ("setpriv", f"--reuid={USERS[who]}", f"--regid={USERS[who]}", "--clear-groups")
        return self.vm.run(*drop, sys.executable, "-c", GET, address, str(port), path).strip()

    def peer_sees(self, workload: dict[str, Any]) -> tuple[str, str]:
        """Who answers a peer by mutual TLS at the application's port, as in Linkerd's mode `transparent`, and what."""
        spec, answer = workload["spec"], []

        def dial() -> None:
            enter(self.node)
            context = ssl.create_default_context(cafile=str(self.site.certs / "ca.crt"))
            context.check_hostname = False
            context.load_cert_chain(self.site.certs / "controller.crt", self.site.certs / "controller.key")
            plain = socket.create_connection((spec["workloadIPs"][0]["ip"], spec["ports"][0]["port"]), 10)
            with plain, context.wrap_socket(plain, server_hostname=spec["meshTLS"]["serverName"]) as tls:
                tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                body = b"".join(iter(lambda: tls.recv(65536), b"")).rpartition(b"\r\n\r\n")[2]
                answer.append((tls.getpeercert(binary_form=True) or b"", body.decode()))

        thread = threading.Thread(target=dial)
        thread.start()
        thread.join(30)
        certificate = x509.load_der_x509_certificate(answer[0][0])
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0], answer[0][1]

    def proxy_metrics(self, port: int, *parts: str) -> list[str]:
        text = self.vm.run(sys.executable, "-c", GET, "127.0.0.1", str(port), "/metrics")
        return [line for line in text.splitlines() if all(part in line for part in parts)]


def enter(where: Namespace) -> None:
    """This thread, and what it starts."""
    with Path(f"/proc/{where.pid}/ns/net").open() as file:
        assert support._libc.setns(file.fileno(), support._CLONE_NEWNET) == 0
