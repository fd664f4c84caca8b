"""A machine whose identity comes from a real SPIRE that the harness runs, with the capabilities that the unit leaves it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from harness import ca, cli, spire
from harness.system import spire_api
from harness.values import HostPort, parse_spiffe_id
from tests.mesh import NODE, TRUST_DOMAIN, Mesh, mesh, on_path, openssl

SERVER_UID, AGENT_UID, PROXY_UID = 2106, 2107, 2102
ID = "spiffe://root.linkerd.cluster.local/face"
SPIRE = on_path("spire-server") is not None and on_path("spire-agent") is not None
MISSING = "spire-server and spire-agent are in no registry, and not on PATH"
UNIT_CAPABILITIES = "-all,+net_admin,+net_raw,+setuid,+setgid,+setpcap,+kill"


class Machine:
    """A Mesh with what concerns SPIRE. `spire` are keys of identity.local."""

    def __init__(self, vm: Mesh) -> None:
        self.vm = vm
        self.ca = vm.folder / "ca"
        self.certificates = vm.folder / "certs"
        self.state = vm.folder / "state" / "spire"

    def issue(self, verb: str = "issue", *words: str) -> None:
        name = ("--name", "vm-1") if verb == "issue" else ()
        anchor = ("--trust-anchor", f"{self.certificates}/ca.crt", "--key", f"{self.certificates}/ca.key")
        assert cli.main(["ca", verb, *name, *anchor, "--out", str(self.ca), *words]) == 0

    def issue_aged(self, days: float, ago: float) -> None:
        """An intermediate of `days` that was made `ago` days ago."""
        anchor = ca.load_anchor(self.certificates / "ca.crt", self.certificates / "ca.key")
        key = ca.new_key()
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=ago)
        self.ca.mkdir(exist_ok=True)
        made = ca.issue(anchor, "vm-1", key.public_key(), days, then)
        (self.ca / "ca.crt").write_text(ca.certificate_pem(made))
        (self.ca / "ca.key").write_text(ca.key_pem(key))

    def configure(
        self, mode: str = "local", *, identity: dict[str, Any] | None = None, sections: dict[str, Any] | None = None, **local: Any
    ) -> None:
        section: dict[str, Any] = {"mode": mode, "spire": {"server_user": str(SERVER_UID), "agent_user": str(AGENT_UID)}}
        if mode == "local":
            section["local"] = {"ca_cert": f"{self.ca}/ca.crt", "ca_key": f"{self.ca}/ca.key", **local}
        proxy = {"path": path} if (path := on_path("linkerd2-proxy")) else {}
        self.vm.configure(identity={**section, **(identity or {})}, **{"proxy": proxy, **(sections or {})})

    def start(self, *, controller: bool = True) -> None:
        if controller:
            self.vm.start_controller()
        drop = ("setpriv", f"--bounding-set={UNIT_CAPABILITIES}", "--inh-caps=-all", "--")
        self.vm.start("harness", self.vm.vm, *drop, sys.executable, "-s", "-m", "harness", "run")

    def ready(self) -> None:
        """Ready by the status of the daemon that runs now, with an SVID that is valid."""
        pid = self.vm.processes["harness"].pid
        self.vm.wait(lambda: self.vm.status().get("pid") == pid and self.vm.status()["phase"] == "Ready")

    def pid(self, child: str) -> int | None:
        found = self.vm.status().get("children", {}).get(child, {}).get("pid")
        return int(found) if found else None

    def kill(self, child: str, number: signal.Signals = signal.SIGKILL) -> None:
        pid = self.pid(child)
        assert pid is not None
        os.kill(pid, number)

    def wait_replaced(self, child: str, before: int | None) -> None:
        self.vm.wait(lambda: self.pid(child) not in (None, before))

    def problem(self) -> str | None:
        return self.vm.condition("Identity").get("problem")

    def wait_problem(self, problem: str) -> str:
        self.vm.wait(lambda: self.problem() == problem)
        return str(self.vm.condition("Identity")["message"])

    def log(self) -> str:
        return (self.vm.folder / "harness.log").read_text()

    def data(self, program: str) -> Path:
        (found,) = self.state.glob(f"{program}-*")
        return found

    def fetch(self, uid: int, socket: Path | None = None) -> str:
        """What the Workload API, ours unless given, says to a uid: SPIRE's own client's words."""
        drop = ("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups")
        api = ("spire-agent", "api", "fetch", "x509", "-timeout", "3s", "-socketPath")
        socket = socket or self.vm.folder / "run" / "workload-api" / "api.sock"
        return self.vm.vm.run(*drop, "sh", "-c", '"$@" 2>&1', "sh", *api, str(socket), check=False)

    def join_seconds(self) -> float:
        began = time.monotonic()
        self.start(controller=False)
        self.ready()
        return time.monotonic() - began


class Remote:
    """A SPIRE server on the node, as an administrator would run one for many machines."""

    def __init__(self, vm: Machine) -> None:
        self._folder = vm.vm.folder / "remote"
        self._folder.mkdir()
        self.socket = self._folder / "api.sock"
        self._vm = vm
        openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=node",
            ),
            *("-addext", "keyUsage=critical,digitalSignature", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", f"{self._folder}/node.key", "-out", f"{self._folder}/node.crt"),
        )
        self.pair = {"certificate_file": f"{self._folder}/node.crt", "key_file": f"{self._folder}/node.key"}
        config = spire.Server(
            TRUST_DOMAIN, 8089, self.socket, self._folder, self._folder / "node.crt", vm.ca / "ca.crt", vm.ca / "ca.key",
            vm.certificates / "ca.crt", spire.lifetimes(3600.0, 86400.0),
        )  # fmt: skip
        text = spire.server_config(config).replace('"127.0.0.1"', f'"{NODE}"')
        (self._folder / "server.json").write_text(text)

    @property
    def address(self) -> str:
        return f"{NODE}:8089"

    def start(self) -> None:
        self._vm.vm.start("remote", self._vm.vm.node, "spire-server", "run", "-config", f"{self._folder}/server.json")
        self._vm.vm.wait(lambda: spire_api.answers(self.socket))

    def entry(self) -> None:
        """For x509pop: under the id that the template fixes."""
        spire_api.ensure_entry(self.socket, spire.Entry(parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}/face"), PROXY_UID))

    def agent(self) -> Path:
        """The socket of an agent of this server that an administrator is to run on the machine: no child of the harness's."""
        home = self._folder / "agent"
        socket = home / "public" / "api.sock"
        socket.parent.mkdir(parents=True)  # SPIRE's own umask would close it to the proxy's user
        certificate, key = map(Path, self.pair.values())
        server, anchors = HostPort(NODE, 8089), self._vm.certificates / "ca.crt"
        config = spire.Agent(TRUST_DOMAIN, server, socket, home, anchors, certificate, key)
        (home / "agent.json").write_text(spire.agent_config(config))
        return socket

    def start_agent(self) -> None:
        self._vm.vm.start("agent", self._vm.vm.vm, "spire-agent", "run", "-config", f"{self._folder}/agent/agent.json")

    def token(self) -> str:
        words = ("token", "generate", "-spiffeID", f"spiffe://{TRUST_DOMAIN}/agent", "-output", "json")
        return str(json.loads(self._command(*words))["value"])

    def token_entry(self) -> None:
        parent = ("-parentID", f"spiffe://{TRUST_DOMAIN}/agent", "-spiffeID", f"spiffe://{TRUST_DOMAIN}/face")
        self._command("entry", "create", *parent, "-selector", f"unix:uid:{PROXY_UID}")

    def _command(self, *words: str) -> str:
        argv = ["spire-server", *words[:2], "-socketPath", str(self.socket), *words[2:]]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def machine(**sections: Any) -> Iterator[Machine]:
    with mesh(**sections) as vm:
        found = Machine(vm)
        found.issue()
        found.configure()
        yield found


@pytest.fixture(name="vm")
def vm_fixture() -> Iterator[Machine]:
    with machine() as found:
        yield found


@pytest.fixture(name="joined")
def joined_fixture(vm: Machine) -> Machine:
    vm.start()
    vm.ready()
    return vm


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
