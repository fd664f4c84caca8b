"""The images of docker/, built as a user builds them who has Docker and little else.

All comes from a minimal Debian, on which apt resolves what is needed. The only tools are busybox', none of Debian's or GNU's.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
import tempfile
from pathlib import Path

from tests.container import debian
from tests.container.engine import Engine
from tests.linkerd_lab_box import Box
from tests.mesh import ROOT

# The name that docker/build asks for: the engine has it, and asks no registry.
MINIMAL = "debian:bookworm-slim"
BASE, FACES, CONTROLLER = "demo-external-base", "faces-external-workload", "meshexp-controller"
PLAIN = "demo-external-base-plain"  # without what only the stand-ins need
_STAND_INS = f"""
FROM {PLAIN}
RUN apt-get update -q=2 && apt-get install -q=2 -y --no-install-recommends python3-aiohttp python3-cryptography
"""


def build_all(engine: Engine, node: Box, programs: str, kept: Path, *, stand_ins: bool = False) -> None:
    """`node`: the box of the engine's network. The stand-ins for the programs need the controller's libraries.

    `kept`: a file with the images, made by the first engine of a session and loaded by the others.
    """
    if kept.exists():
        engine.do("load", "--quiet", "--input", str(kept))
        return
    found = debian.base()
    node.start("mirror", "python3", "-m", "http.server", str(debian.PORT), "--bind=127.0.0.1", f"--directory={found.mirror}")
    node.await_answer(f"http://127.0.0.1:{debian.PORT}/Packages", "mirror")
    engine.load(found.archive, MINIMAL)
    build(engine, "--programs", programs, "--flags", "--network=host", BASE, CONTROLLER)
    engine.do("tag", BASE, PLAIN)
    if stand_ins:
        engine.do("build", "--network=host", "--tag", BASE, "-", given=_STAND_INS.encode())
    build(engine, "--flags", "--network=none", FACES)
    engine.do("save", "--output", str(kept), BASE, FACES)


def build(engine: Engine, *words: str) -> None:
    """docker/build."""
    code, output = with_busybox(engine, str(ROOT / "docker/build"), *words)
    assert code == 0, output[-4000:]


def with_busybox(engine: Engine, *words: str, buildkit: bool = False) -> tuple[int, str]:
    """A script and its words, run by busybox: exit code and all output. On PATH are busybox' programs, and `docker`."""
    with tempfile.TemporaryDirectory(prefix="meshexp-busybox-") as name:
        folder = Path(name)
        busybox = str(debian.base().busybox)
        for applet in _applets():
            (folder / applet).symlink_to(busybox)
        (folder / "docker").write_text(f'#!{name}/sh\nexec {shlex.join(engine.command)} "$@"\n')
        (folder / "docker").chmod(0o755)
        environment = {"PATH": name, "HOME": name, "DOCKER_BUILDKIT": str(int(buildkit))}
        done = subprocess.run(
            [f"{name}/sh", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, done.stdout


@functools.cache
def _applets() -> list[str]:
    # Debian's tools that it has a version of would hide that they are missing.
    listed = subprocess.run([debian.base().busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name not in ("dpkg", "dpkg-deb", "ar", "rpm", "rpm2cpio")]
