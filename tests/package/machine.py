"""A machine: a Debian that systemd boots in its own namespaces, its network connected to a node on which the controller runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import host_state
from harness import __version__
from harness.proxy_environment import DESTINATION_IDENTITY
from tests import linkerd_lab_pki as pki
from tests import waiting
from tests.mesh import NODE, ROOT, VM, Mesh, certificates, openssl
from tests.namespaces import Namespace, connect, namespace
from tests.package import cgroup
from tests.package.root import PATH

CHECKOUT = "/opt/checkout"
UNIT, PROXY = "meshexp-harness.service", "meshexp-proxy.service"
PODS = "10.42.0.10"
UPGRADE = ("apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confold", "install")


def plug_into_node(vm: Namespace, mesh: Mesh) -> None:
    """Its eth0 ends at the node's."""
    mesh.wait(lambda: "eth0" not in mesh.node.run("ip", "link"))
    connect(vm, mesh.node, [(f"{VM}/24", f"{NODE}/24")])


@dataclass(slots=True)
class Machine:
    """`mesh` is the node's side: certificates, groups, controller."""

    root: Path
    mesh: Mesh
    binds: tuple[str, ...] = ()
    plug: Callable[[Namespace, Mesh], None] = plug_into_node
    network: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    leader: int = 0
    booted: subprocess.Popen[bytes] | None = None
    groups: tuple[Path, ...] = ()

    # -- power

    def boot(self) -> None:
        """Until systemd has started all there is to start. The network is a new one each time, as a machine's is."""
        vm = self.network.enter_context(namespace())
        self.mesh.vm = vm
        self.plug(vm, self.mesh)
        argv = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine=mx-{os.getpid()}", "--boot",
            "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off",
            f"--network-namespace-path=/proc/{vm.pid}/ns/net", "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
            f"--bind-ro={ROOT}:{CHECKOUT}", f"--bind-ro={self.mesh.folder}/certs:/opt/certs", *self.binds,
        ]  # fmt: skip
        with (self.mesh.folder / "console.log").open("ab") as log:
            self.groups = cgroup.made(f"mx-{os.getpid()}")
            inside = cgroup.within(self.groups, *argv)
            self.booted = subprocess.Popen(inside, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        self.mesh.wait(self._has_leader)
        self.mesh.wait(lambda: self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded"))

    def _has_leader(self) -> bool:
        assert self.booted is not None
        assert self.booted.poll() is None, (self.mesh.folder / "console.log").read_text()[-3000:]
        found = Path(f"/proc/{self.booted.pid}/task/{self.booted.pid}/children").read_text().split()
        self.leader = int(found[0]) if found else 0
        return bool(found) and Path(f"/proc/{self.leader}/comm").read_text().strip() == "systemd"

    def power_off(self) -> None:
        """In good order, as `reboot` ends too."""
        assert self.booted is not None
        self.run("systemctl", "poweroff", check=False)
        self.booted.wait(90)
        self._unplug()

    def pull_the_plug(self) -> None:
        assert self.booted is not None
        os.kill(self.leader, signal.SIGKILL)
        self.booted.wait(60)
        self._unplug()

    def _unplug(self) -> None:
        self.booted = None
        self.network.close()
        cgroup.remove(self.groups)

    def reboot(self) -> None:
        self.power_off()
        self.boot()

    def off(self) -> None:
        if self.booted is not None and self.booted.poll() is None:
            self.pull_the_plug()
        self.network.close()

    # -- commands

    @property
    def enter(self) -> list[str]:
        return [
            "nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--",
            "env", "-i", f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb",
        ]  # fmt: skip

    def run(self, *argv: str, check: bool = True, timeout: float = 120.0) -> str:
        done = subprocess.run(
            [*self.enter, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, check=False, timeout=timeout,
        )  # fmt: skip
        assert not (check and done.returncode), f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{self.journal()}"
        return done.stdout

    def change_daemon(self, *argv: str, version: str = __version__) -> None:
        """The command ends in another daemon, of `version`, which is ready."""
        daemon = self.pid()
        self.run(*argv)
        self.wait(lambda: self.pid() not in (0, daemon) and self.status().get("version") == version)
        self.wait_ready()

    def wake(self) -> None:
        """The daemon looks at everything now."""
        self.run("systemctl", "kill", "--kill-whom=main", "--signal=USR2", UNIT)

    def succeeds(self, *argv: str) -> bool:
        return subprocess.run([*self.enter, *argv], capture_output=True, check=False, timeout=60).returncode == 0

    def apt(self, *words: str, check: bool = True) -> str:
        return self.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", *words, check=check)

    def processes(self) -> dict[int, tuple[str, str]]:
        """By their numbers in the machine, which need not have a `ps`: the program's name, and all that it was called with."""
        found = {}
        for folder in self.file("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = ((folder / "comm").read_text().strip(), command)
        return found

    def file(self, path: str) -> Path:
        """A file of the machine, seen from here."""
        return Path(f"/proc/{self.leader}/root{path}") if self.booted else self.root / path.lstrip("/")

    def put(self, path: Path) -> str:
        """The file, copied into the machine; its path there."""
        target = f"/opt/{path.name}"
        self.file(target).write_bytes(path.read_bytes())
        return target

    # -- the harness

    def configure(self, **sections: Any) -> None:
        """By hand into the conffile, as an administrator does."""
        base: dict[str, Any] = {
            "workload": {"group": "face", "namespace": "faces"},
            "controller": {"address": f"{NODE}:8081", "trust_anchors": "/opt/certs/ca.crt"},
            "identity": {
                "mode": "embedded",
                "embedded": {"ca_cert": "/opt/certs/ca.crt", "ca_key": "/opt/certs/ca.key", "force": True},
            },
            "network": {"node": NODE, "pod_cidrs": ["10.42.0.0/24"]},
            "proxy": {"path": "/opt/development-proxy", "shutdown_grace": "2s", "destination_address": f"{NODE}:8086"},
        }
        for name, section in sections.items():
            base[name] = {**base.get(name, {}), **section}
        with self.file("/etc/meshexp/harness.yaml").open("a") as conffile:
            conffile.write("\n" + "".join(f"{name}: {json.dumps(section)}\n" for name, section in base.items()))
        script = self.file("/opt/development-proxy")
        # Where the machine has no libraries of its own, those that the package carries.
        path = f"{CHECKOUT}:/usr/lib/meshexp-harness"
        script.write_text(f"#!/bin/sh\nPYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 -s -m demo.proxy\n")
        script.chmod(0o755)

    def show(self, *properties: str, unit: str = UNIT) -> dict[str, str]:
        text = self.run("systemctl", "show", unit, "--property", ",".join(properties))
        return dict(line.split("=", 1) for line in text.splitlines())

    def pid(self, unit: str = UNIT) -> int:
        return int(self.show("MainPID", unit=unit)["MainPID"])

    def status(self) -> dict[str, Any]:
        """As the daemon that runs has written it; `meshexp status` is a Python each time, too much to be asked in a loop."""
        try:
            status = dict(json.loads(self.file("/run/meshexp/status.json").read_text()))
        except (OSError, ValueError):
            status = {}
        return status if self.file(f"/proc/{status.get('pid')}").exists() else {"phase": "Stopped", "conditions": []}

    def condition(self, name: str) -> dict[str, Any]:
        return next((dict(c) for c in self.status()["conditions"] if c["name"] == name), {})

    def wait_ready(self, seconds: float = 60.0) -> None:
        self.wait(lambda: bool((status := self.status()).get("phase") == "Ready" and status.get("ready")), seconds)

    def wait(self, what: Callable[[], object], seconds: float = 60.0) -> float:
        return waiting.wait(what, seconds, lambda: f"{json.dumps(self.status(), indent=1)}\n{self.journal()}\n{self.mesh.logs()}")

    def journal(self) -> str:
        argv = [*self.enter, "journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic", "-u", "meshexp-*"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def dump(self) -> dict[str, str]:
        """Routes, rules, sysctls and firewall tables; what loading modules and first looks change has happened before."""
        host_state.dump(self.mesh.vm.enter)
        found = host_state.dump(self.mesh.vm.enter)
        # The numbers and hardware addresses of links are new at each boot.
        return {**found, "links": " ".join(re.findall(r"^\d+: ([^:@]+)", found["links"], re.MULTILINE))}

    # -- traffic

    def serve(self) -> None:
        """The workload on the machine, which peers call on port 8000; and a server among the pods, which the machine calls."""
        script = f"{CHECKOUT}/tests/package/traffic.py"
        self.run("systemd-run", "--quiet", "--collect", "--unit=workload", "/usr/bin/python3", script, "serve", VM)
        self.wait(lambda: ":8000" in self.mesh.vm.run("ss", "-ltnH"))

    @contextlib.contextmanager
    def traffic(self, *only: str) -> Iterator[dict[str, Any]]:
        """Requests all the while, one connection each, both ways unless told; none may fail. The result is there at the end."""
        script = ROOT / "tests/package/traffic.py"
        result: dict[str, Any] = {}
        ways = {
            # From a pod: what comes from the node itself is the controller's, and never redirected.
            "inbound": [*self.mesh.node.enter, "/usr/bin/python3", str(script), "call", VM, PODS],
            "outbound": [*self.enter, "/usr/bin/python3", f"{CHECKOUT}/tests/package/traffic.py", "call", PODS, VM],
        }
        chosen = {way: command for way, command in ways.items() if not only or way in only}
        callers = {way: subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for way, command in chosen.items()}
        begun = [caller.stdout and caller.stdout.readline() for caller in callers.values()]
        yield result
        time.sleep(0.5)
        for way, caller in callers.items():
            # nsenter into a process namespace is the parent of what it runs, else it becomes it.
            children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
            os.kill(int(children[0]) if children else caller.pid, signal.SIGINT)
            result[way] = json.loads(caller.communicate(timeout=60)[0].splitlines()[-1])
        assert begun == ["begun\n"] * len(callers)
        assert [outcome["failed"] for outcome in result.values()] == [[]] * len(callers), result


@contextlib.contextmanager
def machine(root: Path, *binds: str) -> Iterator[Machine]:
    """Connected, not booted. The node has a controller, and a server in the pod network."""
    with tempfile.TemporaryDirectory(prefix="meshexp-test-", ignore_cleanup_errors=True) as name, namespace() as node:
        folder = Path(name)
        folder.chmod(0o755)
        mesh = Mesh(folder, node, node)
        certificates(folder / "certs")
        _intermediate(folder / "certs")
        pki.leaf(folder / "certs", "destination", "ca", "/CN=destination", f"DNS:{DESTINATION_IDENTITY}")
        mesh.group()
        (root / "etc/resolv.conf").write_text(f"nameserver {NODE}\n")  # linkerd2-proxy does not start without one
        found = Machine(root, mesh, tuple(binds))
        try:
            _start_node(mesh)
            yield found
        finally:
            found.off()
            for process in mesh.processes.values():
                process.kill()
                process.wait()


def _intermediate(certs: Path) -> None:
    """What SPIRE on the machine signs under: intermediate.{crt,key}, and the root after it."""
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-CA", f"{certs}/ca.crt", "-CAkey", f"{certs}/ca.key", "-subj", "/CN=vm", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout", f"{certs}/intermediate.key", "-out", f"{certs}/intermediate.crt",
    )  # fmt: skip
    with (certs / "intermediate.crt").open("a") as chain:
        chain.write((certs / "ca.crt").read_text())


def _start_node(mesh: Mesh) -> None:
    """Its addresses are there also while the machine is off."""
    for address in (NODE, PODS):
        mesh.node.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    mesh.start_controller()
    mesh.start("pods", mesh.node, "/usr/bin/python3", str(ROOT / "tests/package/traffic.py"), "serve", PODS)
    mesh.start("destination", mesh.node, "/usr/bin/python3", "-m", "tests.package.destination", NODE, f"{mesh.folder}/certs")


def uid_of(found: Machine, name: str) -> int:
    line = re.search(rf"^{name}:[^:]*:(\d+):", found.file("/etc/passwd").read_text(), re.MULTILINE)
    assert line, f"there is no user {name}"
    return int(line[1])
