"""A copy of a machine, next to it on the same network: the same files, in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from harness.daemon.compose import BOOT_ID
from tests.mesh import NODE, Mesh
from tests.namespaces import Namespace, connect, namespace

COPY = "10.9.0.3"


class Copy:
    """Of the machine of `vm`, in a namespace of its own, on the same network, with a boot id of its own."""

    def __init__(self, vm: Mesh, place: Namespace, boots: bool) -> None:
        self.vm, self.place = vm, place
        self.folder = vm.folder / "copy"
        self.folder.mkdir()
        for part in ("etc", "state"):
            shutil.copytree(vm.folder / part, self.folder / part)
        self._enter: tuple[str, ...] = ()
        if boots:
            (self.folder / "boot_id").write_text("00000000-0000-4000-8000-000000000000\n")
            script = f'mount --bind {self.folder}/boot_id {BOOT_ID} && exec "$@"'
            self._enter = ("unshare", "--mount", "sh", "-c", script, "sh")

    @property
    def environment(self) -> dict[str, str]:
        return {
            f"MESHEXP_{name}_DIR": str(self.folder / name.lower().replace("config", "etc")) for name in ("CONFIG", "RUN", "STATE")
        }

    def start(self) -> None:
        words = (*self._enter, sys.executable, "-s", "-m", "harness", "run")
        self.vm.start("copy", self.place, *words, env=self.environment)

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "run/status.json").read_text()))
        except (OSError, ValueError):
            return {}

    def problem(self) -> object:
        """Of its registration."""
        conditions = self.status().get("conditions") or []
        return next((one["problem"] for one in conditions if one["name"] == "Registration"), None)

    def meshexp(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.place.enter, sys.executable, "-s", "-m", "harness", *words]
        environment = {**self.vm.environment, **self.environment}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=60)


@contextlib.contextmanager
def bridged(vm: Mesh) -> Iterator[Namespace]:
    """At the node, which becomes a bridge."""
    with namespace() as found:
        connect(found, vm.node, [(f"{COPY}/24", "192.0.2.1/32")], name="eth1")
        for words in (
            ("link", "add", "br0", "type", "bridge"),
            ("address", "flush", "dev", "eth0"),
            ("link", "set", "eth0", "master", "br0"),
            ("link", "set", "eth1", "master", "br0"),
            ("address", "add", f"{NODE}/24", "dev", "br0"),
            ("link", "set", "br0", "up"),
        ):
            vm.node.run("ip", *words)
        yield found
