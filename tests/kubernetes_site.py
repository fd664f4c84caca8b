"""Replicas of the controller as processes, under the rights of the manifests, and a fleet that joins them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from controller.manifest import GROUP_API
from tests.controller_support import TRUST_DOMAIN, Authority, group_object
from tests.kubernetes_support import ROOT, Cluster, end, spawn
from tests.ports import free_port
from tests.waiting import wait

SERVER_NAME = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"
LEASES = "coordination.k8s.io/v1/namespaces/meshexp/leases"


@dataclass
class Replica:
    process: subprocess.Popen[bytes]
    address: str
    health: str
    log: pathlib.Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for text in self.log.read_text().splitlines() if (line := _json(text)).get("event") == event]

    def memory_mib(self) -> float:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass
class Site:
    cluster: Cluster
    folder: pathlib.Path
    python: str = sys.executable
    replicas: dict[str, Replica] = field(default_factory=dict)
    fleets: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder, "mesh")
        self.server = self.authority.issue("server", dns=(SERVER_NAME,))
        self.cluster.kubectl("create", "namespace", "linkerd", check=False)
        self.cluster.apply(ROOT / "deploy" / "manifests" / "meshexp-controller.yaml")
        self.cluster.kubectl("create", "namespace", "faces", check=False)
        self.kubeconfig = self.cluster.kubeconfig("controller", token=self.cluster.token("meshexp-controller"))

    def group(self, name: str = "face", **spec: Any) -> None:
        given = yaml.safe_dump(group_object(name, api=GROUP_API) | ({"spec": spec} if spec else {}))
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)

    def start(self, name: str, **config: Any) -> Replica:
        address, health = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        data = {
            "kubernetes": True, "kubeconfig": self.kubeconfig, "tls_cert": self.server[0], "tls_key": self.server[1],
            "trust_anchors": self.authority.anchors, "trust_domain": TRUST_DOMAIN, "replica": name,
            "listen": address, "health_listen": health, **config,
        }  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        log = self.folder / f"controller-{name}.log"
        log.unlink(missing_ok=True)
        process = spawn(
            self.folder,
            f"controller-{name}",
            "env",
            f"PYTHONPATH={ROOT}",
            self.python,
            "-m",
            "controller",
            "run",
            f"--config={path}",
        )
        made = self.replicas[name] = Replica(process, address, health, log)
        wait(lambda: bool(made.lines("controller ready")), why=lambda: log.read_text()[-2000:])
        return made

    def kill(self, name: str) -> None:
        end(self.replicas.pop(name).process)

    def fleet(self, *replicas: str) -> Callable[..., Any]:
        """Commands of tests.fleet, such as `fleet("join", count=10)`."""
        certificate, key = self.authority.issue("vm", f"spiffe://{TRUST_DOMAIN}/faces/face")
        flags = {
            "addresses": ",".join(self.replicas[name].address for name in replicas), "group": "face", "namespace": "faces",
            "server-name": SERVER_NAME, "anchors": self.authority.anchors, "certificate": certificate, "key": key,
        }  # fmt: skip
        command = ["setpriv", "--pdeathsig", "KILL", self.python, "-m", "tests.fleet", *(f"--{k}={v}" for k, v in flags.items())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.fleets.append(process)

        def ask(do: str, **arguments: Any) -> Any:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"the fleet ended at {do}"
            return json.loads(line)

        return ask

    def close(self) -> None:
        for process in self.fleets:
            process.kill()
            process.communicate()
        for name in tuple(self.replicas):
            self.kill(name)
        self.cluster.kubectl("-n", "faces", "delete", "externalgroups.workload.meshexp.io", "--all", "--wait=false")
        self.empty()

    def empty(self) -> None:
        """Each kind by one call: kubectl would delete thousands one by one, fifty a second."""
        for path in ("workload.linkerd.io/v1beta1/namespaces/faces/externalworkloads", LEASES):
            self.cluster.kubectl("delete", "--raw", f"/apis/{path}")


def _json(text: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return read
