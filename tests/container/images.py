"""The images of docker/, built as a user builds them: from a minimal Debian, on which apt resolves what is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.container import debian
from tests.container.engine import Engine
from tests.linkerd_lab_box import Box
from tests.mesh import ROOT

MINIMAL, BASE, FACES, CONTROLLER = "debian-minimal", "demo-external-base", "faces-external-workload", "meshexp-controller"
PLAIN = "demo-external-base-plain"  # without what only the stand-ins need
_STAND_INS = f"""
FROM {PLAIN}
RUN apt-get update -q=2 && apt-get install -q=2 -y --no-install-recommends python3-aiohttp python3-cryptography
"""


def build_all(engine: Engine, node: Box, package: Path, programs: str, *, stand_ins: bool = False) -> None:
    """`node`: the box of the engine's network. The stand-ins for the programs need the controller's libraries."""
    found = debian.base()
    node.start("mirror", "python3", "-m", "http.server", str(debian.PORT), "--bind=127.0.0.1", f"--directory={found.mirror}")
    node.await_answer(f"http://127.0.0.1:{debian.PORT}/Packages", "mirror")
    engine.load(found.archive, MINIMAL)
    given = ("--base", MINIMAL, "--controller-base", MINIMAL, "--programs", programs, "--package", str(package))
    build(engine, *given, "--flags", "--network=host", BASE, CONTROLLER)
    engine.do("tag", BASE, PLAIN)
    if stand_ins:
        engine.do("build", "--network=host", "--tag", BASE, "-", given=_STAND_INS.encode())
    build(engine, "--flags", "--network=none", FACES)


def build(engine: Engine, *words: str) -> None:
    """docker/build."""
    environment = {**os.environ, "DOCKER": " ".join(engine.command), "DOCKER_BUILDKIT": "0"}
    argv = [str(ROOT / "docker/build"), *words]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
