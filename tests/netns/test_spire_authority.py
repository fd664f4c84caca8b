"""What a real SPIRE that the daemon runs is given: anchors, the signing certificate and its key, the trust domain and the ID."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.mesh import openssl
from tests.spire_support import (
    ID,
    MISSING,
    PROXY_UID,
    SPIRE,
    Machine,
    joined_fixture,  # noqa: F401
    vm_fixture,  # noqa: F401
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(not SPIRE, reason=MISSING)]


def test_wrong_anchors_are_named_and_right_ones_are_taken(vm: Machine) -> None:
    """Another root of the same name: only a signature tells."""
    right = (vm.certificates / "ca.crt").read_text()
    wrong = vm.vm.folder / "wrong"
    wrong.mkdir()
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
        *("-subj", "/CN=root.linkerd.cluster.local", "-keyout", f"{wrong}/key", "-out", f"{wrong}/crt"),
    )
    anchors = vm.vm.folder / "anchors.pem"
    anchors.write_text((wrong / "crt").read_text())
    vm.configure(sections={"controller": {"trust_anchors": str(anchors)}})
    vm.start()
    assert "does not lead to a trust anchor" in vm.wait_problem("identity-ca-unusable")
    anchors.write_text(right)
    vm.vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.ready()


def test_another_trust_domain_over_old_data(joined: Machine) -> None:
    """SPIRE itself refuses that. The group does not allow the new ID, which is not the question here."""
    joined.configure(identity={"spiffe_id": "spiffe://other.example/face"})
    joined.vm.processes["harness"].send_signal(signal.SIGHUP)
    joined.vm.wait(lambda: "spiffe://other.example/face" in joined.vm.condition("Identity").get("message", ""))
    assert "spiffe://other.example/face" in joined.fetch(PROXY_UID)
    assert joined.data("server") and joined.data("agent")


def test_another_id_and_the_old_one_again(joined: Machine) -> None:
    for name in ("color", "face"):
        joined.configure(identity={"spiffe_id": f"spiffe://root.linkerd.cluster.local/{name}"})
        joined.vm.processes["harness"].send_signal(signal.SIGHUP)
        wanted = f"/{name}, valid"
        joined.vm.wait(lambda: wanted in joined.vm.condition("Identity").get("message", ""), 30)  # noqa: B023 — it is waited for here
        assert joined.fetch(PROXY_UID).count("SPIFFE ID") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"), "path length 0"),
        (("-addext", "basicConstraints=critical,CA:FALSE"), "is no CA certificate"),
    ],
)
def test_a_certificate_that_spire_cannot_use_is_refused_before_it_starts(
    vm: Machine, arguments: tuple[str, ...], text: str
) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=issuer"),
        *("-CA", f"{vm.certificates}/ca.crt", "-CAkey", f"{vm.certificates}/ca.key", *arguments),
        *("-keyout", f"{vm.ca}/ca.key", "-out", f"{vm.ca}/ca.crt"),
    )
    vm.start()
    assert text in vm.wait_problem("identity-ca-unusable")
    assert vm.pid("spire-server") is None


def test_a_half_copied_pair_is_named_and_its_other_half_is_taken_up(vm: Machine) -> None:
    old = (vm.ca / "ca.key").read_text()
    shutil.rmtree(vm.ca)
    vm.issue()
    right = (vm.ca / "ca.key").read_text()
    (vm.ca / "ca.key").write_text(old)
    vm.start()
    assert "is not that of the signing certificate" in vm.wait_problem("identity-ca-unusable")
    (vm.ca / "ca.key").write_text(right)
    vm.ready()


def test_a_pair_that_is_spoiled_during_the_first_start_takes_nothing_away(vm: Machine) -> None:
    """The server, that is started twice then, has read it once: the agent needs no more, and the fault is still told."""
    right, given = (vm.ca / "ca.key").read_text(), vm.vm.folder / "run" / "spire" / "server" / "server.json"
    vm.start()
    vm.vm.wait(given.exists)
    (vm.ca / "ca.key").write_text("spoiled")
    vm.vm.wait(lambda: ID in vm.fetch(PROXY_UID))
    vm.wait_problem("identity-ca-unusable")
    (vm.ca / "ca.key").write_text(right)
    vm.vm.processes["harness"].send_signal(signal.SIGUSR2)  # any reason to look; the timer is one within 15 s
    vm.ready()


def test_a_roots_own_key_only_when_told_so_and_never_in_silence(vm: Machine) -> None:
    cert, key = f"{vm.certificates}/ca.crt", f"{vm.certificates}/ca.key"
    vm.configure(ca_cert=cert, ca_key=key)
    vm.start()
    assert "allow_root_key" in vm.wait_problem("identity-ca-unusable") + str(vm.vm.condition("Identity")) + vm.log()
    vm.configure(ca_cert=cert, ca_key=key, allow_root_key=True)
    vm.vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.wait_problem("identity-root-key")
    vm.ready()
    vm.wait_problem("identity-root-key")


def test_an_intermediate_that_ends_soon_is_named_and_its_renewal_taken_up(vm: Machine) -> None:
    vm.issue_aged(1, 0.75)  # the anchor lasts a day
    vm.start()
    assert "ends in 6.0 hours" in vm.wait_problem("identity-ca-expiring")
    vm.ready()
    proxy = vm.pid("proxy")
    vm.issue("renew")
    vm.vm.processes["harness"].send_signal(signal.SIGUSR2)  # any reason to look; the timer is one within 15 s
    vm.vm.wait(lambda: vm.vm.condition("Identity")["problem"] is None)
    vm.ready()
    assert vm.pid("proxy") == proxy, "a renewal touches no traffic"
    assert "its files have changed" in vm.log()
