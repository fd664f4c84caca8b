"""A box: a host or a pod of the lab in namespaces of its own. All that runs in it ends with it, however the test run ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo.machine import NAMESPACES
from tests.kubernetes_build import MODULES, kept
from tests.waiting import wait

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": PATH} | {name: value for name, value in os.environ.items() if name == "GOGC"}
# bash reaps whatever its descendants leave behind.
_INIT = """
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
printf 'search svc.cluster.local cluster.local\\nnameserver %s\\noptions ndots:5\\n' "$2" >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
ip link set lo up
echo up
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


@dataclass(slots=True)
class Box:
    """`folder` has the logs of what runs inside."""

    name: str
    folder: Path
    pid: int
    holder: subprocess.Popen[str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", "--uts", "--"]

    def path(self, inside: str) -> Path:
        """A file as it is inside, seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def start(self, name: str, *argv: str, env: Mapping[str, str] | None = None, uid: int | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.enter, *_as(uid), *argv],
                env={**_ENVIRONMENT, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    def run(self, *argv: str, uid: int | None = None, given: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code and all output."""
        done = subprocess.run(
            [*self.enter, *_as(uid), *argv], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**_ENVIRONMENT, **(env or {})}, timeout=120, check=False, cwd="/",
        )  # fmt: skip
        return done.returncode, done.stdout

    def do(self, *argv: str, given: str = "", env: Mapping[str, str] | None = None) -> str:
        """The output of a command that must succeed."""
        code, output = self.run(*argv, given=given, env=env)
        assert code == 0, f"{self.name}: {' '.join(argv)}: {output}"
        return output

    def answers(self, url: str) -> bool:
        return self.run("curl", "-fsS", "-o/dev/null", "-m2", url)[0] == 0

    def await_answer(self, url: str, log: str, seconds: float = 90.0) -> None:
        wait(lambda: self.answers(url), seconds, lambda: f"{self.name} does not answer {url}\n{self.log(log)[-4000:]}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def inner_pid(self, name: str) -> int:
        """Of the process itself: nsenter forks once to enter the PID namespace. ProcessLookupError when it has ended."""
        outer = self.processes[name]
        wait(lambda: outer.poll() is not None or bool(_children(outer.pid)))
        if outer.returncode is not None:
            raise ProcessLookupError(f"{name} ended with {outer.returncode}")
        return _children(outer.pid)[0]

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.inner_pid(name), number)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 90.0) -> int:
        self.send(name, number)
        return self.processes.pop(name).wait(seconds)

    def link(self, other: Box, bridge: str, address: str, gateway: str = "") -> None:
        """An eth0 with `address` on a bridge of another box."""
        end = f"v-{self.name}"[:15]
        network = ["nsenter", "-t", str(other.pid), "--net", "--"]  # by our own process ids
        words = ["ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid)]
        subprocess.run([*network, *words], check=True)
        other.do("ip", "link", "set", end, "master", bridge, "up")
        self.do("ip", "address", "add", address, "dev", "eth0")
        self.do("ip", "link", "set", "eth0", "addrgenmode", "none", "up")
        if gateway:
            self.do("ip", "route", "add", "default", "via", gateway)


@contextlib.contextmanager
def box(name: str, folder: Path, dns: str) -> Iterator[Box]:
    """`folder` is made; it is open to every uid."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    with subprocess.Popen([*NAMESPACES, "bash", "-ec", _INIT, "init", name, dns], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "up\n", f"the namespaces of {name} could not be made"
            made = Box(name, folder, _children(holder.pid)[0], holder)
            yield made
        finally:
            holder.kill()
            holder.wait()
    for process in made.processes.values():
        process.wait(60)


def which(name: str) -> str | None:
    """On PATH, or among what the set-up of the tests has built."""
    found = shutil.which(name, path=PATH)
    if found is None and name in MODULES and kept(name).exists():
        return str(kept(name))
    return found


def bring_built(made: Box) -> None:
    """What is not on PATH, to be found by its name inside."""
    built = {name: which(name) for name in MODULES if shutil.which(name, path=PATH) is None}
    if built:
        made.do("mount", "-t", "tmpfs", "tmpfs", "/usr/local/sbin")
    for name, place in built.items():
        if place is not None:
            made.do("ln", "-s", place, f"/usr/local/sbin/{name}")


def _as(uid: int | None) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"] if uid is not None else []


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
