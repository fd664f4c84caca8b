"""A container on a real Linkerd: from `docker run` to a ready endpoint, and how large the images are."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.record import Record, record
from tests import linkerd_lab
from tests import linkerd_lab_pki as pki
from tests.container import engine, images
from tests.container.conftest import PROGRAMS
from tests.container.images import BASE, CONTROLLER, FACES
from tests.container.playground import CONTROLLER_NAME, NETWORK, Playground
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import NODE
from tests.linkerd_lab_endpoints import Endpoints

JOINS = 5


def run() -> list[Record]:
    if missing := [*linkerd_lab.MISSING, *engine.MISSING]:
        print(f"skipped: not on PATH: {', '.join(missing)}")
        return []
    with linkerd_lab.lab() as made, engine.engine(made.cluster.node.pid) as docker, tempfile.TemporaryDirectory() as folder:
        programs = Path(folder) / "programs"
        programs.mkdir()
        for name in PROGRAMS:
            shutil.copy(str(which(name)), programs / name)
        images.build_all(docker, made.cluster.node, str(programs), Path(folder) / "images.tar")
        records = [
            record("image.with_programs_mib", docker.mib(BASE), "MiB"),
            record("image.faces_with_programs_mib", docker.mib(FACES), "MiB"),
            record("image.controller_mib", docker.mib(CONTROLLER), "MiB"),
        ]
        images.build(docker, "--programs", "none", "--flags", "--network=host", BASE)
        records.append(record("image.mib", docker.mib(BASE), "MiB"))
        bridge = "com.docker.network.bridge.name=br0"
        ours = ("--subnet=10.77.0.0/24", "--ip-range=10.77.0.128/25", f"--gateway={NODE}", "-o", bridge)
        docker.do("network", "create", *ours, NETWORK)
        made.cluster.name(CONTROLLER_NAME, NODE)
        certs = pki.for_machine(made.cluster.folder / "smiley-ca", made.cluster.pki / "ta", "smiley-1")
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
