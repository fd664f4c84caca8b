"""A machine whose clock is wrong says so, and not that somebody else answers: on joining, and as a member.

The certificates are shifted in time, never the clock: to a handshake, that is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.controller_support import load_key, make_certificate
from tests.daemon_support import started, vm_fixture  # noqa: F401
from tests.mesh import IDENTITY, Mesh
from tests.netns import test_join as joining
from tests.spire_support import MISSING, SPIRE
from tests.workload_api_support import write_pem

SHIFTED = {
    "behind": (3600.0, 7200.0, "clock-skew", "is not valid yet by this machine's clock"),
    "ahead": (-7200.0, -3600.0, "certificate-expired", "has expired by this machine's clock"),
}
"""This machine's clock, and the certificate that it makes the controller's look like."""


def shift(certs: Path, begins: float, ends: float) -> None:
    anchor = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    signer = load_key(certs / "ca.key")
    made = make_certificate("controller", anchor.subject, key, signer, begins, ends, ca=False, uris=(), dns=(IDENTITY,))
    write_pem(certs / "controller.crt", made)
    write_pem(certs / "controller.key", key)


@pytest.mark.parametrize("clock", SHIFTED)
def test_a_member_says_that_the_clocks_differ(vm: Mesh, clock: str) -> None:
    """It was one, and is one again as soon as the clocks agree."""
    begins, ends, problem, message = SHIFTED[clock]
    certs = vm.folder / "certs"
    started(vm).wait_ready()
    vm.stop("controller")
    shift(certs, begins, ends)
    vm.start_controller()
    vm.wait_problem("Registration", problem)
    told = vm.condition("Registration")
    assert f"the certificate of {IDENTITY} {message}" in told["message"] and "`timedatectl`" in told["hint"]
    assert vm.condition("Proxy")["status"] == "True", "traffic goes on"
    vm.stop("controller")
    shift(certs, -60.0, 3600.0)
    vm.start_controller()
    vm.wait_ready()


@pytest.fixture(name="newcomer")
def newcomer_fixture() -> Iterator[Mesh]:
    with joining.machine() as found:
        yield found


@pytest.mark.skipif(not SPIRE, reason=MISSING)
@pytest.mark.parametrize("clock", SHIFTED)
def test_a_join_says_that_the_clocks_differ(newcomer: Mesh, clock: str) -> None:
    begins, ends, _, message = SHIFTED[clock]
    shift(newcomer.folder / "certs", begins, ends)
    newcomer.start_controller()
    with joining.waiting(newcomer):
        done = newcomer.meshexp("join", str(joining.invite(newcomer)), "--wait", "30")
    said = done.stdout + done.stderr
    assert done.returncode and message in said and "timedatectl" in said, said
    assert "what answers is not" not in said, said
