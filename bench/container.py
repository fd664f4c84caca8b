"""A container on a real Linkerd: from `docker run` to a ready endpoint, and how large the images are."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from bench.record import Record, record
from tests import linkerd_lab
from tests.container import engine
from tests.container.conftest import KUBE_PROXY, PROGRAMS
from tests.container.playground import BASE, CONTROLLER_NAME, IMAGE, NETWORK, Playground, build_images, intermediate_folder
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import NODE
from tests.linkerd_lab_endpoints import Endpoints
from tests.mesh import ROOT
from tests.package.root import sh

JOINS = 5


def run() -> list[Record]:
    if missing := [*linkerd_lab.MISSING, *engine.MISSING]:
        print(f"skipped: not on PATH: {', '.join(missing)}")
        return []
    package = ROOT / sh(str(ROOT / "packaging/deb/build")).split()[-1]
    with linkerd_lab.lab() as made, engine.engine(made.cluster.node.pid) as docker, tempfile.TemporaryDirectory() as programs:
        build_images(docker, package, "none")
        records = [
            record("image.mib", docker.mib(BASE), "MiB"),
            record("image.faces_mib", docker.mib(IMAGE), "MiB"),
            record("image.controller_mib", docker.mib("meshexp-controller"), "MiB"),
        ]
        for name in PROGRAMS:
            (Path(programs) / name).symlink_to(str(which(name)))
        build_images(docker, package, programs)
        records.append(record("image.with_programs_mib", docker.mib(BASE), "MiB"))
        bridge = "com.docker.network.bridge.name=br0"
        ours = ("--subnet=10.77.0.0/24", "--ip-range=10.77.0.128/25", f"--gateway={NODE}", "-o", bridge)
        docker.do("network", "create", *ours, NETWORK)
        made.cluster.name(CONTROLLER_NAME, NODE)
        made.cluster.node.do("nft", "-f", "-", given=KUBE_PROXY)
        certs = intermediate_folder(made.cluster.folder / "smiley-ca", made.cluster.pki / "ta", "smiley-1")
        playground = Playground(made, docker, certs, True, ())
        playground.group("smiley")
        return [*_joins(playground, Endpoints(made.cluster)), *records]


def _joins(playground: Playground, endpoints: Endpoints) -> list[Record]:
    seconds, stops = [], []
    for _ in range(JOINS):
        began = time.time()
        playground.start("smiley-1", "smiley")
        seconds.append(endpoints.when_ready(playground.address("smiley-1"), began) - began)
        code, took = playground.stop("smiley-1", patience=10)
        if code != 0:
            raise RuntimeError(f"exit code {code}: Docker kills what has not ended after 10 s, its default")
        stops.append(took)
    return [
        record("container.join_seconds", statistics.median(seconds), "s"),
        record("container.stop_seconds", statistics.median(stops), "s"),
    ]
