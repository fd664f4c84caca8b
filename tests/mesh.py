"""A controller in one network namespace, the real daemon in another: what the fault tests stand on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests import waiting
from tests.cache import pycache
from tests.namespaces import Namespace, connect, namespace

ROOT = Path(__file__).resolve().parents[1]
NODE, VM = "10.9.0.1", "10.9.0.2"
IDENTITY = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"
TRUST_DOMAIN = "root.linkerd.cluster.local"
PROXY_UID = "2102"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPATH": str(ROOT),
    "PYTHONPYCACHEPREFIX": str(pycache()),
    "MESHEXP_DEMO": "1",
}


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def certificates(folder: Path, controller_identity: str = IDENTITY) -> None:
    """ca.{crt,key}, and controller.{crt,key} signed by it."""
    folder.mkdir(exist_ok=True)
    common = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    if not (folder / "ca.crt").exists():
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", f"/CN={TRUST_DOMAIN}")
        openssl(*common, *usage, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
    openssl(
        *common, "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-addext", f"subjectAltName=DNS:{controller_identity}",
        "-addext", "basicConstraints=critical,CA:FALSE", "-subj", "/CN=controller",
        "-keyout", f"{folder}/controller.key", "-out", f"{folder}/controller.crt",
    )  # fmt: skip


@dataclass(slots=True)
class Mesh:
    """One node and one VM. `folder` holds the configuration, the state and the logs of both."""

    folder: Path
    node: Namespace
    vm: Namespace
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        names = {"CONFIG": "etc", "RUN": "run", "STATE": "state"}
        folders = {f"MESHEXP_{name}_DIR": str(self.folder / part) for name, part in names.items()}
        # The machine's own file is the real one: these namespaces share it.
        return {**ENVIRONMENT, **folders, "MESHEXP_RESOLV_CONF": str(self.folder / "resolv.conf")}

    def configure(self, **sections: Any) -> None:
        certs = self.folder / "certs"
        base: dict[str, Any] = {
            "workload": {"group": "face", "namespace": "faces"},
            "controller": {"address": f"{NODE}:8081", "identity": IDENTITY, "trust_anchors": f"{self.folder}/certs/ca.crt"},
            "identity": {
                "mode": "embedded",
                "embedded": {"ca_cert": f"{certs}/ca.crt", "ca_key": f"{certs}/ca.key"},
            },
            "network": {"node": NODE, "pod_cidrs": ["10.42.0.0/24"], "service_cidrs": ["10.43.0.0/16"]},
            "proxy": {"user": PROXY_UID, "path": str(self.folder / "development-proxy"), "shutdown_grace": "1s"},
            "log": {"format": "json"},
        }
        for name, section in sections.items():
            base[name] = {**base.get(name, {}), **section}
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "harness.yaml").write_text(yaml.safe_dump(base))

    def group(self, **spec: Any) -> None:
        """The group that the VM joins; without probes unless given."""
        (self.folder / "groups").mkdir(exist_ok=True)
        manifest = {
            "apiVersion": "workload.buoyant.io/v1alpha1",
            "kind": "ExternalGroup",
            "metadata": {"name": "face", "namespace": "faces"},
            "spec": {
                "template": {"metadata": {"labels": {"service": "face"}}, "ports": [{"name": "http", "port": 8000}]},
                **spec,
            },
        }
        (self.folder / "groups" / "face.yaml").write_text(yaml.safe_dump(manifest))

    def start(self, name: str, where: Namespace, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [*where.enter, *argv],
                stdout=log,
                stderr=log,
                env={**self.environment, **(env or {})},
                start_new_session=True,
                cwd="/",
            )
        return self.processes[name]

    def start_controller(self, **settings: Any) -> None:
        certs = self.folder / "certs"
        config = {
            "tls_cert": f"{certs}/controller.crt", "tls_key": f"{certs}/controller.key", "trust_anchors": f"{certs}/ca.crt",
            "trust_domain": TRUST_DOMAIN, "listen": f"{NODE}:8081", "groups": f"{self.folder}/groups",
            "lease": "3s", "drain": "100ms",
        }  # fmt: skip
        (self.folder / "controller.yaml").write_text(yaml.safe_dump({**config, **settings}))
        self.start(
            "controller", self.node, sys.executable, "-m", "controller", "run", "--config", f"{self.folder}/controller.yaml"
        )

    def start_daemon(self) -> subprocess.Popen[bytes]:
        return self.start("harness", self.vm, sys.executable, "-s", "-m", "harness", "run")

    def meshexp(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.vm.enter, sys.executable, "-s", "-m", "harness", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=self.environment, timeout=60)

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "run" / "status.json").read_text()))
        except (OSError, ValueError):
            return {"phase": "Stopped", "conditions": []}

    def condition(self, name: str) -> dict[str, Any]:
        return next((dict(c) for c in self.status()["conditions"] if c["name"] == name), {})

    def proxy_pid(self) -> int:
        """0 while it does not run."""
        return int(self.status()["children"]["proxy"]["pid"] or 0)

    def wait(self, what: Callable[[], object], seconds: float = 60.0) -> float:
        return waiting.wait(what, seconds, lambda: f"{json.dumps(self.status(), indent=1)}\n{self.logs()}", every=0.02)

    def wait_ready(self) -> None:
        self.wait(lambda: bool(self.status().get("phase") == "Ready" and self.status().get("ready")))

    def wait_problem(self, condition: str, problem: str | None) -> None:
        self.wait(lambda: bool(self.condition(condition)) and self.condition(condition)["problem"] == problem)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the controller's log says of these events, in its order."""
        lines = map(json.loads, (self.folder / "controller.log").read_text().splitlines())
        return [line for line in lines if line["event"] in names]

    def addresses(self, name: str = "") -> list[str]:
        """By which the controller has told peers to come, in their order: all, or those of one workload."""
        return [line["address"] for line in self.events("registered") if line["workload"].endswith(name)]

    def reaches(self, address: str, *words: str) -> bool:
        """Whether the node gets an answer there from the application. `words`: for curl."""
        argv = ("curl", "-fsS", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", *words, f"http://{address}:8000/")
        return self.node.run(*argv, check=False) == "200"

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{(self.folder / f'{name}.log').read_text()[-3000:]}" for name in self.processes)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        self.processes[name].send_signal(number)
        return self.processes[name].wait(60)


@contextlib.contextmanager
def mesh(**sections: Any) -> Iterator[Mesh]:
    """Configured and connected; nothing started yet. Its folder is open to every uid, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="meshexp-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield from _mesh(Path(name), sections)


def _mesh(folder: Path, sections: dict[str, Any]) -> Iterator[Mesh]:
    with namespace() as vm, namespace() as node:
        connect(vm, node, [(f"{VM}/24", f"{NODE}/24"), ("fd09::2/64", "fd09::1/64")])
        found = Mesh(folder, node, vm)
        certificates(folder / "certs")
        proxy = folder / "development-proxy"
        proxy.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -s -m demo.proxy\n")
        proxy.chmod(0o755)
        found.configure(**sections)
        found.group()
        try:
            yield found
        finally:
            for process in found.processes.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def on_path(name: str) -> str | None:
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
