"""A machine without a network, anchors or a configuration, and a user without rights: what cannot be tried is never √."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checks import by_description
from tests.mesh import ENVIRONMENT
from tests.namespaces import Namespace, namespace

LISTS = ("sh", "-ec", 'for table in filter nat; do iptables-legacy -t $table -S >/dev/null; done; exec "$@"', "sh")
"""What another program looks at makes tables, which `check` then sees."""


class Machine:
    """`folder` holds its configuration, which is read from nowhere else."""

    def __init__(self, folder: Path, where: Namespace) -> None:
        self.folder, self.where = folder, where

    def configure(self, **sections: Any) -> None:
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc/harness.yaml").write_text(yaml.safe_dump(sections))

    def check(self, *words: str, through: tuple[str, ...] = ()) -> tuple[int, str]:
        folders = {f"MESHEXP_{name}_DIR": str(self.folder / part) for name, part in FOLDERS.items()}
        argv = [*self.where.enter, *through, sys.executable, "-s", "-m", "harness", "check", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**ENVIRONMENT, **folders}, timeout=60)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    def results(self, *words: str, through: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
        """By description, without numbers and addresses at its end."""
        _, text = self.check("-o", "json", *words, through=through)
        return by_description(text)


FOLDERS = {"CONFIG": "etc", "RUN": "run", "STATE": "state"}
WORKLOAD = {"group": "face", "namespace": "faces"}
NETWORKS = {"node": "10.9.0.1", "pod_cidrs": ["10.42.0.0/24"], "service_cidrs": ["10.43.0.0/16"]}
CONTROLLER = {"address": "10.9.0.1:8081", "trust_anchors": "/nonexistent/trust-anchors.pem"}


@pytest.fixture
def vm() -> Iterator[Machine]:
    """Even its loopback is down."""
    with namespace() as where, tempfile.TemporaryDirectory(prefix="meshexp-test-") as folder:
        where.run("ip", "link", "set", "lo", "down")
        Path(folder).chmod(0o755)
        yield Machine(Path(folder), where)


def passed(results: dict[str, dict[str, str]]) -> set[str]:
    return {description for description, one in results.items() if one["result"] == "success"}


@pytest.mark.parametrize("networks", [{}, NETWORKS], ids=["no networks told", "networks told"])
@pytest.mark.parametrize("words", [(), ("--pre",)], ids=["all", "pre"])
def test_without_anchors_or_a_network(vm: Machine, networks: dict[str, Any], words: tuple[str, ...]) -> None:
    linkerd = {"destination_address": "10.9.0.1:8086", "policy_address": "10.9.0.1:8090"}
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=networks, proxy={**linkerd, "user": "2102"})
    found = vm.results(*words)
    allowed = {
        "the configuration is right", "root with the capabilities that are needed", "the system users are there",
        "one firewall backend is in use", "no other mesh is on this machine", "its ports are its own",
        "the kernel takes redirect rules", "port 4192 is free for metrics", "no route of others leads to the cluster's networks",
        "no route to the cluster hides what this machine needs",
    }  # fmt: skip
    surprising = {text for text in passed(found) - allowed if not text.startswith("a firewall backend works")}
    assert surprising == set()
    if not networks:
        assert found["the nodes are on links of this machine"]["result"] == "skipped"
        assert found["no route of others leads to the cluster's networks"]["result"] == "skipped"
    assert found["peers reach port 4143"]["result"] == "skipped"
    assert found["the controller answers at 10.9.0.1:8081"]["result"] == ("error" if words else "warning")
    assert found["packets of full size reach 10.9.0.1"]["result"] == "skipped"
    assert "Network is unreachable" in found["packets of full size reach 10.9.0.1"]["reason"]


def test_without_a_configuration(vm: Machine) -> None:
    """Right after the installation."""
    found = vm.results("--pre", through=LISTS)
    assert found["the configuration is right"]["result"] == "skipped"
    assert "`meshexp join" in found["the configuration is right"]["reason"]
    looked_at = {"root with the capabilities that are needed", "one firewall backend is in use", "its ports are its own"}
    assert looked_at <= passed(found)
    assert found["linkerd2-proxy is installed"]["result"] == "error"
    rest = {"the way to the cluster", "names of the control plane", "the control plane", "this machine's identity"}
    assert {found[text]["reason"] for text in rest} == {"not configured yet"}
    code, text = vm.check("--pre")
    assert code == 1 and "- the configuration is right\n    skipped: not configured yet; next: `meshexp join" in text


def test_a_wrong_configuration_is_named_and_the_rest_is_not_claimed(vm: Machine) -> None:
    vm.configure(workload={"gruop": "face"})
    found = vm.results("--pre")
    assert found["the configuration is right"]["code"] == "config-invalid" and passed(found) == set()
    assert found["the proxy"]["reason"] == "the configuration is wrong"


def test_without_root(vm: Machine) -> None:
    """Nothing is blamed that was not seen: neither SPIRE, nor the firewall, nor the proxy."""
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=NETWORKS, proxy={"user": "2102", "path": "/bin/true"})
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--")
    found = vm.results("--pre", through=(*LISTS, *nobody))
    needs_root = {text for text, one in found.items() if "root" in one.get("reason", "")}
    assert {
        "root with the capabilities that are needed", "a firewall backend works", "the kernel takes redirect rules",
        "its release works with SPIRE", "one firewall backend is in use", "peers reach port 4143",
    } <= needs_root  # fmt: skip
    blamed = {one.get("code") for one in found.values()} - {None}
    assert blamed == {"controller-unreachable", "anchors-unusable", "route-gateway-unreachable"}


def test_an_error_of_a_listing_is_told_and_is_no_empty_list(vm: Machine) -> None:
    """Legacy tables that are there, and a program that fails."""
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=NETWORKS, proxy={"user": "2102"})
    fails = "#!/bin/sh\necho no way >&2\nexit 3\n"
    (vm.folder / "fails").write_text(fails)
    (vm.folder / "fails").chmod(0o755)
    script = 'mount --bind "$0" "$(readlink -f /usr/sbin/iptables-legacy-save)" && exec "$@"'
    found = vm.results("--pre", through=(*LISTS, "unshare", "--mount", "sh", "-c", script, str(vm.folder / "fails")))
    assert "iptables-legacy-save -t nat: no way" in found["no other mesh is on this machine"]["reason"]
    assert found["no other mesh is on this machine"]["result"] == found["peers reach port 4143"]["result"] == "skipped"
