"""A machine of the lab: an application under its own user, the configuration that its owner wrote, and `meshexp run`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tests import linkerd_lab_pki as pki
from tests.linkerd_lab_box import PATH, Box, which
from tests.linkerd_lab_cluster import NODE, PROXY_UID, TRUST_DOMAIN, Cluster
from tests.linkerd_lab_traffic import BEGUN
from tests.mesh import ENVIRONMENT as MESH_ENVIRONMENT
from tests.mesh import ROOT
from tests.waiting import wait

NAMESPACE, APP_PORT, APP_UID, SERVER_UID, AGENT_UID = "faces", 8000, 2105, 2106, 2107
MACHINES = "10.77.0.64/26"  # without the node's own address
ENVIRONMENT = {name: MESH_ENVIRONMENT[name] for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX")} | {"PATH": PATH}
TRAFFIC = ROOT / "tests" / "linkerd_lab_traffic.py"
PYTHON = "/usr/bin/python3"  # the application's; ours need not be open to its user


@dataclass(slots=True)
class Vm:
    box: Box
    cluster: Cluster
    group: str
    address: str

    @property
    def name(self) -> str:
        return self.box.name

    @property
    def spiffe_id(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/{self.group}"

    @property
    def folder(self) -> Path:
        return self.box.folder

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "MESHEXP_CONFIG_DIR": f"{self.folder}/etc", "MESHEXP_STATE_DIR": f"{self.folder}/state"}

    def set_up(self, anchor: str, **sections: Any) -> None:
        self.box.link(self.cluster.node, "br0", f"{self.address}/24")
        pki.for_machine(self.folder / "ca", self.cluster.pki / anchor, self.name)
        self.configure(**sections)
        self.box.start("app", PYTHON, str(TRAFFIC), "serve", self.name, str(APP_PORT), f"{self.folder}/unready", uid=APP_UID)

    def configure(self, **sections: Any) -> None:
        """`sections` stand over these, key by key."""
        local = {"ca_cert": f"{self.folder}/ca/ca.crt", "ca_key": f"{self.folder}/ca/ca.key"}
        base: dict[str, Any] = {
            "workload": {"group": self.group, "namespace": NAMESPACE},
            "controller": {"address": f"{NODE}:8081", "trust_anchors": f"{self.cluster.pki}/ta.crt"},
            "identity": {
                "mode": "local",
                "spire": {"server_user": str(SERVER_UID), "agent_user": str(AGENT_UID)},
                "local": local | sections.pop("local", {}),
            },
            "network": {"node": NODE, "mesh_cidrs": [MACHINES]},
            "proxy": {"user": str(PROXY_UID), "path": which("linkerd2-proxy")},
            "log": {"format": "json"},
        }
        for name, section in sections.items():
            base[name] = {**base.get(name, {}), **section}
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "harness.yaml").write_text(yaml.safe_dump(base))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-s", "-m", "harness", *words]

    def start(self) -> None:
        self.box.start("harness", *self.command("run"), env=self.environment)

    def join(self) -> None:
        self.start()
        self.await_ready()

    def leave(self) -> int:
        return self.box.stop("harness")

    def end(self) -> None:
        """Whatever still runs; the box takes the rest with it."""
        for name in tuple(self.box.processes):
            with contextlib.suppress(ProcessLookupError, AssertionError):
                self.box.stop(name, signal.SIGKILL)

    def meshexp(self, *words: str) -> tuple[int, str]:
        return self.box.run(*self.command(*words), env=self.environment)

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self.box.path("/run/meshexp/status.json").read_text()))
        return {"phase": "Stopped", "ready": False}

    def is_ready(self) -> bool:
        found = self.status()
        return found["phase"] == "Ready" and bool(found["ready"])

    def await_ready(self, seconds: float = 60.0) -> None:
        wait(
            self.is_ready,
            seconds,
            lambda: f"{self.name}: {json.dumps(self.status(), indent=1)}\n{self.box.log('harness')[-6000:]}",
        )

    def logged(self, text: str) -> float:
        """When the harness last logged a line that begins so; epoch seconds."""
        lines = (json.loads(line) for line in self.box.log("harness").splitlines() if line.startswith("{"))
        return max(datetime.fromisoformat(line["ts"]).timestamp() for line in lines if line["msg"].startswith(text))

    def child(self, name: str) -> int | None:
        """The process id, as inside."""
        found = self.status().get("children", {}).get(name, {}).get("pid")
        return int(found) if found else None

    def kill_child(self, name: str) -> None:
        self.box.do("kill", "-9", str(self.child(name)))

    def probe_fails(self, fails: bool) -> None:
        mark = self.folder / "unready"
        if fails:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def curl(self, url: str, *words: str) -> tuple[str, str]:
        """As the application: status code and body; 000 without an answer."""
        argv = ("curl", "-sS", "-m8", *words, "-w", "\\n%{http_code}", url)
        body, _, code = self.box.run(*argv, uid=APP_UID)[1].rpartition("\n")
        return code, body

    def metrics(self, series: str, *labels: str) -> float:
        """The sum of a counter over all lines with these labels."""
        text = self.box.do("curl", "-fsS", "-m5", "http://127.0.0.1:4191/metrics")
        found = re.findall(rf"^{series}\{{(.*)\}} ([0-9.e+]+)$", text, re.MULTILINE)
        return sum(float(value) for given, value in found if all(label in given for label in labels))

    @contextlib.contextmanager
    def load(self, host: str, rate: float) -> Iterator[Load]:
        """Calls `host` all the while, and is answered before this returns; the result is there afterwards."""
        result = Load()
        name = f"load-{os.urandom(4).hex()}"
        self.box.start(name, PYTHON, str(TRAFFIC), "call", host, str(rate), uid=APP_UID)
        try:
            wait(lambda: BEGUN in self.box.log(name), why=lambda: f"no call to {host} is answered\n{self.box.log(name)[-3000:]}")
            yield result
        finally:
            self.box.stop(name)
        result.take(self.box.log(name))


@dataclass(slots=True)
class Load:
    requests: int = 0
    failed: tuple[str, ...] = ()
    by: tuple[tuple[str, int], ...] = ()
    slowest: float = 0.0

    def take(self, output: str) -> None:
        """`output`: of `call`."""
        found = json.loads(output.splitlines()[-1])
        self.requests, self.failed, self.slowest = found["requests"], tuple(found["failed"]), found["slowest"]
        self.by = tuple(sorted(found["by"].items()))

    def check(self) -> None:
        """Every call was answered, and there were some."""
        assert self.requests > 0 and self.failed == (), f"{len(self.failed)} of {self.requests} failed: {self.failed[:8]}"
