"""The cluster's names in containers, where the cluster has a DNS Service; all other names are found as before."""

from __future__ import annotations

import pytest

from tests.container.playground import NAMESPACE, Playground
from tests.container.test_first_process import CAPABILITIES
from tests.linkerd_lab_cluster import NODE
from tests.waiting import wait

NAME = "smiley2-1"
_LOOK_UP = "import socket, sys; print(*{found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)})"
# The controller's own name is one of the cluster's: without --dns it must be found by its address, as invitations have it.
WITHOUT_DNS = {"dns": "", "MESHEXP_CONTROLLER_ADDRESS": f"{NODE}:8081"}
HARDENED = ("--cap-drop=ALL", *(f"--cap-add={name}" for name in CAPABILITIES if name != "NET_ADMIN"))


def look_up(playground: Playground, host: str) -> str:
    """As the workload does."""
    return playground.inside(NAME, "python3", "-c", _LOOK_UP, host, user="workload").strip()


@pytest.mark.parametrize("flags", [(), HARDENED], ids=["plain", "capabilities dropped"])
def test_without_dns_the_images_dnsmasq_splits_it(playground: Playground, flags: tuple[str, ...]) -> None:
    playground.join(NAME, "smiley2", FACES_SERVICE="smiley", **WITHOUT_DNS, flags=flags)
    wait(lambda: playground.phase(NAME) == "Ready", why=lambda: playground.story(NAME))
    assert "by resolv.conf and dnsmasq" in playground.condition(NAME, "Names")["message"]
    service = playground.mesh.cluster.get("service", "smiley2", "-n", NAMESPACE)["spec"]["clusterIP"]
    assert look_up(playground, f"smiley2.{NAMESPACE}.svc.cluster.local") == service
    assert look_up(playground, NAME) == playground.address(NAME)  # by the engine's own resolver
    playground.stop(NAME)


@pytest.mark.parametrize("flags", [(), (*HARDENED, "--read-only")], ids=["plain", "hardened"])
def test_with_dns_nothing_is_needed(playground: Playground, flags: tuple[str, ...]) -> None:
    playground.join(NAME, "smiley2", FACES_SERVICE="smiley", flags=flags)
    wait(lambda: playground.phase(NAME) == "Ready", why=lambda: playground.story(NAME))
    assert "as before: they know the cluster's names" in playground.condition(NAME, "Names")["message"]
    assert "127.0.0.77" not in playground.inside(NAME, "cat", "/etc/resolv.conf")
    service = playground.mesh.cluster.get("service", "smiley2", "-n", NAMESPACE)["spec"]["clusterIP"]
    assert look_up(playground, f"smiley2.{NAMESPACE}.svc.cluster.local") == service
    assert look_up(playground, NAME) == playground.address(NAME)
    playground.stop(NAME)


def test_read_only_without_dns_it_is_said_what_to_do(playground: Playground) -> None:
    """The engine mounts resolv.conf read-only there: a member by addresses, with a warning."""
    playground.join(NAME, "smiley2", FACES_SERVICE="smiley", **WITHOUT_DNS, flags=(*HARDENED, "--read-only"))
    wait(lambda: playground.phase(NAME) == "Degraded", why=lambda: playground.story(NAME))
    names = playground.condition(NAME, "Names")
    assert "Read-only file system" in names["message"] and "--dns=" in names["hint"]
    playground.stop(NAME)
