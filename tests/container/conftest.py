"""One engine, one set of images and one cluster for all container tests: real where the programs are on PATH."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import linkerd_lab
from tests.container import engine, images, standin
from tests.container import playground as playground_module
from tests.container.playground import NETWORK, Mesh, Playground, root_folder
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import NODE

GROUPS = ("face", "smiley", "smiley2", "color", "gui")
PROGRAMS = {
    "spire-server": "/opt/spire/bin",
    "spire-agent": "/opt/spire/bin",
    "linkerd2-proxy": "/usr/lib/meshexp-harness",
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files in the programs' place, for the images; the real ones are mounted over them, which is quicker than copying."""
    folder = tmp_path_factory.mktemp("programs")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name}\n")
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images are that this session has built."""
    return tmp_path_factory.mktemp("images") / "images.tar"


@pytest.fixture(scope="package")
def playground(programs: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    if os.geteuid() != 0 or engine.MISSING:
        pytest.skip(engine.WHY if engine.MISSING else "containers need root")
    real = not linkerd_lab.MISSING
    with contextlib.ExitStack() as stack:
        mesh: Mesh = stack.enter_context(linkerd_lab.lab()) if real else stack.enter_context(standin.stand_in())
        docker = stack.enter_context(engine.engine(mesh.cluster.node.pid))
        images.build_all(docker, mesh.cluster.node, str(programs), kept, stand_ins=not real)
        bridge = "com.docker.network.bridge.name=br0"
        ours = ("--subnet=10.77.0.0/24", "--ip-range=10.77.0.128/25", f"--gateway={NODE}", "-o", bridge)
        docker.do("network", "create", *ours, NETWORK)
        certs = root_folder(mesh.cluster.folder / "certs", mesh.cluster.pki / "ta")
        mesh.cluster.name(playground_module.CONTROLLER_NAME, NODE)
        made = Playground(mesh, docker, certs, real, *_given(real, mesh.cluster.folder / "source"))
        for group in GROUPS:
            made.group(group)
        yield made


def _given(real: bool, source: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    if not real:
        return ("-v", f"{standin.source(source)}:{standin.SOURCE}:ro"), standin.VARIABLES
    words = [("-v", f"{which(name)}:{folder}/{name}:ro") for name, folder in PROGRAMS.items()]
    return tuple(word for pair in words for word in pair), {}


@pytest.fixture(scope="package")
def faces(playground: Playground) -> Playground:
    """With the page's machine, one of each workload, and nothing else."""
    for name in ("smiley-1", "color-1", "face-1", "gui-1"):
        playground.start(name, name.partition("-")[0], DELAY_BUCKETS="0,10,20")
    for name in ("smiley-1", "color-1", "face-1", "gui-1"):
        playground.await_ready(name)
    return playground
