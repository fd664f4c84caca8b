"""A Docker engine of the tests' own, in the network namespace of a box; all that it runs ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.linkerd_lab_box import PATH
from tests.waiting import wait

# What Debian's docker.io consists of.
PROGRAMS = ("dockerd", "docker", "containerd", "runc")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
WHY = f"no container engine here: {', '.join(MISSING)} (`./setup neighbours` installs Debian's)"


@dataclass(frozen=True, slots=True)
class Engine:
    folder: Path

    @property
    def command(self) -> tuple[str, ...]:
        # Debian's own client: another one first in PATH may want a plugin for builds.
        return "/usr/bin/docker", "-H", f"unix://{self.folder}/sock"

    def run(self, *words: str, given: bytes | None = None, seconds: float = 180.0) -> tuple[int, str]:
        """Exit code and all output."""
        done = subprocess.run(
            [*self.command, *words], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env={"PATH": PATH, "HOME": str(self.folder), "DOCKER_BUILDKIT": "0"}, timeout=seconds,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def do(self, *words: str, given: bytes | None = None) -> str:
        code, output = self.run(*words, given=given)
        assert code == 0, f"docker {' '.join(words)}: {output[-4000:]}"
        return output

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.do("inspect", name))[0]
        return found

    def load(self, archive: Path, image: str) -> None:
        """An image out of a root file system."""
        with archive.open("rb") as file:
            subprocess.run([*self.command, "import", "-", image], stdin=file, check=True, capture_output=True, env={"PATH": PATH})

    def build(self, image: str, folder: Path, **arguments: str) -> None:
        flags = [f"--build-arg={name.upper()}={value}" for name, value in arguments.items()]
        self.do("build", "--network=none", "--tag", image, *flags, str(folder))

    def mib(self, image: str) -> float:
        return float(self.inspect(image)["Size"]) / 2**20


@contextlib.contextmanager
def engine(pid: int) -> Iterator[Engine]:
    """In the network namespace of process `pid`. Without rules of its own: everything is routed."""
    with tempfile.TemporaryDirectory(prefix="meshexp-engine-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        made = Engine(Path(name))
        # In memory: images of some 300 MiB, in 20,000 files that would have to be removed one by one.
        memory = f'mkdir {name}/data; mount -t tmpfs -o size=2g,mode=711 tmpfs {name}/data; exec "$@"'
        inner = [
            "sh", "-ec", memory, "sh", "dockerd", "--data-root", f"{name}/data", "--exec-root", f"{name}/exec",
            "--pidfile", f"{name}/pid", "-H", f"unix://{name}/sock", "--iptables=false", "--ip6tables=false", "--bridge=none",
        ]  # fmt: skip
        isolated = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
        with (made.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", "nsenter", "-t", str(pid), "--net", "--", *isolated, *inner],
                stdout=log, stderr=log, env={"PATH": PATH, "HOME": name}, start_new_session=True,
            )  # fmt: skip
        try:
            wait(lambda: made.run("version")[0] == 0, why=lambda: (made.folder / "log").read_text()[-3000:], every=0.1)
            yield made
        finally:
            if containers := made.run("ps", "--quiet")[1].split():
                made.run("rm", "--force", "--volumes", *containers)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.1)  # the namespaces' own end; what is mounted goes with it
