"""A machine on which all is well: a member of a mesh with a controller, a destination and a policy service, an application."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.proxy_environment import DESTINATION_IDENTITY
from tests.checks import checks
from tests.mesh import NODE, ROOT, TRUST_DOMAIN, VM, Mesh, certificates, mesh, openssl

Act = Callable[[Mesh], object]
PROBE = {"httpGet": {"port": 8000, "path": "/"}, "periodSeconds": 1, "failureThreshold": 1}


@dataclass(frozen=True)
class Broken:
    """`also`: what else follows from it. `pre`: to be found before joining. `through`: how `check` is run meanwhile."""

    code: str
    break_: Act
    mend: Act
    also: frozenset[str] = frozenset()
    pre: bool = True
    through: tuple[str, ...] = ()


def is_named(broken: Broken, named: dict[str, dict[str, str]]) -> None:
    assert broken.code in named
    assert named.keys() <= {broken.code} | broken.also, sorted(named)
    found = named[broken.code]
    assert found["hint"] == f"`meshexp explain {broken.code}`" and found["error"]
    remedy = found["remedy"]
    assert "`" in remedy and not re.search(r"[{}…]|\b(PORT|HOST|SOCKET|UID|KEY|COMMAND|GROUP|NAMESPACE)\b", remedy), remedy


def anchor(certs: Path, days: int = 400) -> None:
    """A trust anchor of so many days in place of the one that is there, and certificates under it."""
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", f"/CN={TRUST_DOMAIN}")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days), *usage,
        "-keyout", f"{certs}/ca.key", "-out", f"{certs}/ca.crt",
    )  # fmt: skip
    (certs / "ca.key").chmod(0o600)
    certificates(certs)
    leaf(certs, "linkerd", DESTINATION_IDENTITY)


def leaf(certs: Path, name: str, identity: str) -> None:
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-CA", f"{certs}/ca.crt",
        "-CAkey", f"{certs}/ca.key", "-addext", f"subjectAltName=DNS:{identity}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-subj", f"/CN={name}", "-keyout", f"{certs}/{name}.key", "-out", f"{certs}/{name}.crt",
    )  # fmt: skip


def serve_tls(vm: Mesh, name: str, port: int, certificate: str = "linkerd", clock: int = 0) -> None:
    certs = vm.folder / "certs"
    script = str(ROOT / "tests/check/tls_server.py")
    words = (NODE, str(port), f"{certs}/{certificate}.crt", f"{certs}/{certificate}.key", str(clock))
    vm.start(name, vm.node, sys.executable, script, *words)
    vm.wait(lambda: f":{port}" in vm.node.run("ss", "-ltnH"))


def security_group(vm: Mesh, verdict: str) -> None:
    """A firewall before the machine, as a cloud's is: it drops or rejects what comes to the proxy's inbound port."""
    vm.node.run("nft", "add table inet cloud; add chain inet cloud out { type filter hook output priority 0; }")
    vm.node.run("nft", f"flush chain inet cloud out; add rule inet cloud out ip daddr {VM} tcp dport 4143 {verdict}")


def serve_application(vm: Mesh) -> None:
    vm.start("application", vm.vm, sys.executable, "-m", "http.server", "8000", "--bind", VM, "--directory", str(ROOT / "docs"))


def configure(vm: Mesh, **sections: Any) -> None:
    linkerd = {"destination_address": f"{NODE}:8086", "policy_address": f"{NODE}:8090"}
    vm.configure(**{**sections, "proxy": {**linkerd, **sections.get("proxy", {})}})


@contextlib.contextmanager
def machine(**sections: Any) -> Iterator[Mesh]:
    """Nothing joined yet, but all around it there."""
    with mesh() as vm:
        anchor(vm.folder / "certs")
        configure(vm, **sections)
        vm.group(probes=[{**PROBE, "httpGet": {**PROBE["httpGet"], "host": VM}}])  # type: ignore[dict-item]
        for name, port in (("destination", 8086), ("policy", 8090)):
            serve_tls(vm, name, port)
        vm.start_controller()
        serve_application(vm)
        vm.wait(lambda: ":8081" in vm.node.run("ss", "-ltnH") and ":8000" in vm.vm.run("ss", "-ltnH"))
        yield vm


@contextlib.contextmanager
def member(**sections: Any) -> Iterator[Mesh]:
    with machine(**sections) as vm:
        vm.start_daemon()
        vm.wait_ready()
        yield vm


def check(vm: Mesh, *words: str, through: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """What `meshexp check` names, by code. `through`: a command that runs the rest of its arguments."""
    argv = [*vm.vm.enter, *through, sys.executable, "-s", "-m", "harness", "check", "-o", "json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=vm.environment, timeout=60)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    named = {one["code"]: one for one in checks(done.stdout) if "code" in one}
    errors = [one for one in named.values() if one["result"] == "error"]
    assert json.loads(done.stdout)["success"] is not bool(errors) and done.returncode == bool(errors)
    return named
