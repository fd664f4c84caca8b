"""The playground with a real container engine: one network, the images of docker/, and the cluster that the containers join."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.container.engine import Engine
from tests.container.images import FACES
from tests.linkerd_lab_box import PATH
from tests.linkerd_lab_cluster import DNS, NODE, POD_CIDR, SERVICE_CIDR, Cluster
from tests.mesh import ROOT
from tests.waiting import wait

NAMESPACE, NETWORK = "faces", "mesh-exp"
MANIFESTS = ROOT / "deploy" / "playground"
CONTROLLER_NAME = "meshexp-controller.meshexp.svc.cluster.local"
# Quick ones, in place of the playground's 3 and 10 seconds.
PROBES = {"initialDelaySeconds": 0, "periodSeconds": 1}
# Sends GETs over four connections at a time, each used once, and tells of the answers: status, pod, face, colour and errors.
_CALLER = """
import http.client, json, sys, threading, time
host, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end = time.monotonic() + seconds if seconds else float("inf")
tickets = iter(range(number))
lock = threading.Lock()
def one():
    try:
        c = http.client.HTTPConnection(host, 80, timeout=8)
        c.request("GET", "/center/?row=1&col=1", headers={"Connection": "close"})
        r = c.getresponse()
        text = r.read()
        body = json.loads(text) if r.status == 200 else {}
        c.close()
        return [r.status, r.headers.get("X-Faces-Pod"), *(body.get(part) for part in ("smiley", "color", "errors"))]
    except OSError as error:
        return [0, None, None, None, [repr(error)]]
def work():
    while time.monotonic() < end:
        with lock:
            if next(tickets, None) is None:
                return
        line = json.dumps(one()) + "\\n"
        with lock:
            sys.stdout.write(line)
            sys.stdout.flush()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


class Mesh(Protocol):
    """A cluster with our controller, and who says which workloads are ready."""

    @property
    def cluster(self) -> Cluster: ...
    def workloads(self) -> dict[str, dict[str, Any]]: ...
    def endpoints(self, service: str) -> dict[str, bool]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    pod: str | None
    smiley: str | None
    color: str | None
    errors: list[str] | None

    @property
    def good(self) -> bool:
        return self.status == 200 and not self.errors


@dataclass(slots=True)
class Playground:
    """`flags`, `variables`: where the programs come from that are not in the image, and what the stand-ins need."""

    mesh: Mesh
    engine: Engine
    certs: Path
    real: bool
    flags: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def group(self, name: str) -> None:
        """The playground's own manifest, with quicker probes, and the Service of the Faces chart."""
        manifest = MANIFESTS / f"{name}.yaml"
        group = yaml.safe_load((manifest if manifest.exists() else MANIFESTS / "face.yaml").read_text())
        group["metadata"]["name"] = name
        group["spec"]["template"]["metadata"]["labels"]["service"] = name
        group["spec"]["probes"][0] |= PROBES
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"service": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }
        self.mesh.cluster.apply(group, service)
        found = self.mesh.cluster.get("service", name, "-n", NAMESPACE)
        self.mesh.cluster.name(f"{name}.{NAMESPACE}.svc.cluster.local", found["spec"]["clusterIP"])

    def line(
        self, name: str, group: str, *, certs: Path | None = None, flags: tuple[str, ...] = (), dns: str = DNS, **env: str
    ) -> list[str]:
        """The playground's `docker run` line."""
        variables = {
            "WORKLOAD_NAME": group,
            "WORKLOAD_NAMESPACE": NAMESPACE,
            "NODE_NAME": "$(hostname)",
            "POD_CIDR": POD_CIDR,
            "SVC_CIDR": SERVICE_CIDR,
            "NODE_IP": NODE,
            "FACES_SERVICE": group,
            "SMILEY_SERVICE": f"smiley.{NAMESPACE}.svc.cluster.local",
            "COLOR_SERVICE": f"color.{NAMESPACE}.svc.cluster.local",
            "FACE_SERVICE": f"face.{NAMESPACE}.svc.cluster.local",
            **self.variables,
            **env,
        }
        given = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
        resolver = (f"--dns={dns}",) if dns else ()
        where = (f"--network={NETWORK}", *resolver, f"--name={name}", f"--hostname={name.replace('-', '-docker-ext')}")
        mounted = ("-v", f"{certs or self.certs}:/opt/spire/certs", *self.flags)
        return ["run", "--detach", "--cap-add=NET_ADMIN", *where, *mounted, *flags, *given]

    def start(self, name: str, group: str, *command: str, image: str = FACES, **options: Any) -> None:
        self.engine.run("rm", "--force", "--volumes", name)
        self.engine.do(*self.line(name, group, **options), image, *command)

    def join(self, name: str, group: str, **options: Any) -> None:
        self.start(name, group, **options)
        self.await_ready(name)

    def await_ready(self, name: str, seconds: float = 90.0) -> None:
        """In the endpoints of its service, as peers see it."""
        address = self.address(name)

        def ready() -> bool:
            found = self.mesh.workloads().get(address)
            service = found["metadata"]["labels"]["service"] if found else ""
            return bool(service) and self.mesh.endpoints(service).get(address, False)

        wait(ready, seconds, lambda: self.story(name), 0.2)

    def stop(self, name: str, *, patience: int = 60) -> tuple[int, float]:
        """`docker stop`: the container's exit code, and how long it took. Docker kills it after `patience` s, 10 by default."""
        seconds = wait(lambda: self.engine.run("stop", f"--time={patience}", name)[0] == 0, 120)
        return int(self.engine.inspect(name)["State"]["ExitCode"]), seconds

    def phase(self, name: str) -> str:
        """As `meshexp status` tells it; empty before there is one."""
        code, text = self.engine.run("exec", name, "meshexp", "status", "-o", "json")
        return str(json.loads(text)["phase"]) if code in (0, 1) and text.startswith("{") else ""

    def condition(self, name: str, wanted: str) -> dict[str, Any]:
        """Empty before there is one."""
        code, text = self.engine.run("exec", name, "meshexp", "status", "-o", "json")
        found = json.loads(text).get("conditions", []) if code in (0, 1) and text.startswith("{") else []
        return next((one for one in found if one["name"] == wanted), {})

    def address(self, name: str) -> str:
        return str(self.engine.inspect(name)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])

    def story(self, name: str) -> str:
        return self.engine.run("exec", name, "meshexp", "status")[1] + self.engine.run("logs", "--tail=60", name)[1]

    def inside(self, name: str, *argv: str, user: str = "root") -> str:
        return self.engine.do("exec", "--user", user, name, *argv)

    def call(self, host: str, number: int = 1, *, by: str = "gui-1", seconds: float = 0.0) -> list[Answer]:
        """GETs from within `by`, as its workload sends them."""
        text = self.inside(by, "python3", "-c", _CALLER, host, str(number), str(seconds), user="workload")
        return [Answer(*json.loads(line)) for line in text.splitlines()]

    @contextlib.contextmanager
    def calling(self, host: str, seconds: float, *, by: str = "gui-1") -> Iterator[list[Answer]]:
        """Calls go on for `seconds` from the first answer on, while the block runs; the list has all answers after it."""
        answers: list[Answer] = []
        argv = [*self.engine.command, "exec", "--user=workload", by, "python3", "-c", _CALLER, host, "1000000", str(seconds)]
        with tempfile.TemporaryFile() as output, subprocess.Popen(argv, stdout=output, env={"PATH": PATH}) as process:
            wait(lambda: os.fstat(output.fileno()).st_size > 0, why=lambda: self.story(by))
            yield answers
            process.wait(60)
            output.seek(0)
            answers += [Answer(*json.loads(line)) for line in output]

    def metrics(self, name: str, *labels: str) -> float:
        """Requests with these labels; the development proxy counts connections."""
        series = "request_total{" if self.real else "tcp_open_total{"
        script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:4191/metrics', timeout=5).read().decode())"
        lines = self.inside(name, "python3", "-c", script).splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(series) and all(label in line for label in labels)
        )


def shares(answers: list[Answer], part: str) -> Counter[str]:
    return Counter(str(getattr(answer, part)) for answer in answers)


def root_folder(folder: Path, anchor: Path) -> Path:
    """As the playground mounts it: the mesh's trust anchor and its key."""
    folder.mkdir()
    for suffix in ("crt", "key"):
        shutil.copy(anchor.with_suffix(f".{suffix}"), folder / f"ca.{suffix}")
    return folder
