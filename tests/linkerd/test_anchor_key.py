"""The trust anchor of a mesh that somebody installed without a thought of machines: where its key is, and what to do without it.

The commands are those of docs/trust-anchor.md, in a mesh that `linkerd install` made with no file of ours.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.kubernetes_build import kubectl_environment
from tests.linkerd_lab import MISSING, WHY, Lab, lab
from tests.linkerd_lab_cluster import TRUST_DOMAIN
from tests.linkerd_lab_rotation import restart_control_plane
from tests.linkerd_lab_vm import NAMESPACE, Vm
from tests.mesh import ROOT
from tests.waiting import wait

pytestmark = pytest.mark.root
PAGE = ROOT / "docs" / "trust-anchor.md"


@pytest.fixture(scope="module")
def plain() -> Iterator[Lab]:
    if MISSING:
        pytest.skip(WHY)
    with lab(by_the_cli=True) as made:
        made.group("smiley")
        made.group("face")
        yield made


def commands(heading: str, number: int) -> str:
    """A block of commands below a heading of the page."""
    _, _, below = PAGE.read_text().partition(f"\n## {heading}\n")
    blocks = re.findall(r"(?:^    .*\n)+", below.partition("\n## ")[0], re.MULTILINE)
    return textwrap.dedent(blocks[number])


def as_administrator(lab: Lab, script: str) -> str:
    """In a folder of its own, with the names of the page, and `kubectl meshexp` on PATH."""
    home = lab.cluster.folder / "administrator"
    home.mkdir(exist_ok=True)
    plugin = home / "bin" / "kubectl-meshexp"
    plugin.parent.mkdir(exist_ok=True)
    call = "import sys; from controller.admin import main; sys.exit(main())"
    plugin.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -s -c '{call}' \"$@\"\n")
    plugin.chmod(0o755)
    env = kubectl_environment(lab.cluster.folder / "admin.kubeconfig", lab.cluster.folder)
    return lab.cluster.node.do("bash", "-euc", f"cd {home}; PATH={home}/bin:$PATH; {script}", env=env)


def join(lab: Lab, name: str, group: str) -> Vm:
    """A machine whose intermediate is made with what the administrator has in the folder `anchor`."""
    for kind in ("crt", "key"):
        shutil.copy(lab.cluster.folder / "administrator" / "anchor" / f"ca.{kind}", lab.cluster.pki / f"machines.{kind}")
    vm = lab.vm(name, group, anchor="machines")
    vm.join()
    return vm


def await_answer(caller: Vm, called: Vm) -> None:
    url = f"http://{called.group}.{NAMESPACE}.svc.cluster.local/"
    wait(lambda: caller.curl(url) == ("200", called.name))


def test_the_key_of_a_plain_install_is_in_the_issuers_secret(plain: Lab) -> None:
    same = as_administrator(plain, commands("A plain `linkerd install`", 0))
    subject, issuer = (line.partition("=")[2].strip() for line in same.splitlines())
    assert subject == issuer, "the anchor is the issuer"
    as_administrator(plain, commands("A plain `linkerd install`", 1))
    invitation = as_administrator(plain, f"kubectl meshexp invite --group smiley -n {NAMESPACE} --ca anchor")
    assert f"as spiffe://{TRUST_DOMAIN}/{NAMESPACE}/smiley" in invitation
    vm = join(plain, "smiley-1", "smiley")
    plain.await_endpoints("smiley", {vm.address: True})


def test_with_a_second_anchor_nobody_needs_the_first_ones_key(plain: Lab) -> None:
    """Of two machines each is under one of the two anchors, and the control plane's own certificates stay under the first."""
    first = plain.vms["smiley-1"]
    issuer = plain.cluster.get("secret", "linkerd-identity-issuer", "-n", "linkerd")["data"]
    shutil.rmtree(plain.cluster.folder / "administrator" / "anchor")
    as_administrator(plain, commands("A second anchor", 0))
    assert plain.cluster.get("secret", "linkerd-identity-issuer", "-n", "linkerd")["data"] == issuer
    bundle = plain.cluster.get("configmap", "linkerd-identity-trust-roots", "-n", "linkerd")["data"]["ca-bundle.crt"]
    assert bundle.count("BEGIN CERTIFICATE") == 2
    (plain.cluster.pki / "ta.crt").write_text(f"{bundle}\n")
    restart_control_plane(plain)
    second = join(plain, "face-1", "face")
    first.await_ready()
    plain.await_endpoints("smiley", {first.address: True})
    for caller, called in ((first, second), (second, first)):
        labels = ('direction="outbound"', 'tls="true"', f'server_id="{called.spiffe_id}"')
        await_answer(caller, called)
        assert caller.metrics("request_total", *labels) > 0
