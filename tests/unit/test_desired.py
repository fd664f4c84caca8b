"""The gates of starting, and that nothing which is up is taken away again."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from harness import anchors, rules
from harness.anchors import Adopted
from harness.desired import OPEN_AFTER_SECONDS, desired, readiness
from harness.known import Others, Progress
from harness.messages import ClusterFacts, PodRoute, Reason
from harness.probe import Exec, Probe, TcpSocket
from harness.specs import Route
from harness.values import PortRange
from tests import builders


def test_before_anything_is_known_there_are_routes_and_an_identity() -> None:
    want = desired(builders.config(), builders.machine(), Progress())
    assert [str(r) for r in want.routes or ()] == ["route 10.42.0.0/16 via 10.9.0.1", "route 10.43.0.0/16 via 10.9.0.1"]
    assert want.identity is not None
    assert str(want.identity.spiffe_id) == "spiffe://root.linkerd.cluster.local/face"
    assert (want.registration, want.application, want.proxy, want.redirect) == (None, None, None, None)


def test_each_gate_opens_the_next() -> None:
    config, machine = builders.config(), builders.machine()
    assert desired(config, machine, Progress(svid=builders.svid())).registration is not None
    registered = desired(config, machine, Progress(svid=builders.svid(), registration=builders.registration()))
    assert registered.proxy is not None
    assert registered.proxy.waits_for == "the Workload API answers", "its first connect to the Workload API must not fail"
    assert registered.redirect is None, "the redirect is the last thing in"
    assert desired(config, machine, builders.progress(redirected=False)).redirect is not None


def test_a_proxy_starts_when_the_rules_of_its_neighbours_know_it() -> None:
    """Else its own connections to the control plane would go through another's proxy, and break when that one is started anew."""
    spec = desired(builders.config(), builders.machine(), builders.progress(left_alone=False)).proxy
    assert spec is not None and spec.waits_for == "the rules of this machine's other workloads leave it alone"
    spec = desired(builders.config(), builders.machine(), builders.progress()).proxy
    assert spec is not None and spec.waits_for == ""


def test_where_an_application_is_called_is_not_known_without_an_address() -> None:
    """A registration that was kept over a restart: no listener is elsewhere, and the group is not without probes."""
    assert desired(builders.config(), builders.machine(addresses=()), builders.progress()).application is None
    assert desired(builders.config(), builders.machine(), builders.progress()).application is not None


def test_a_lost_identity_takes_neither_proxy_nor_redirect_away() -> None:
    want = desired(builders.config(), builders.machine(), builders.progress(svid=None))
    assert want.proxy is not None
    assert want.redirect is not None


@pytest.mark.parametrize(
    ("policy", "seconds", "stays"),
    [("closed", 1e6, True), ("open", OPEN_AFTER_SECONDS - 1, True), ("open", OPEN_AFTER_SECONDS, False)],
)
def test_rules_when_the_proxy_is_lost(policy: str, seconds: float, stays: bool) -> None:
    config = builders.config(redirect={"on_proxy_loss": policy})
    lost = builders.progress(proxy_certified=False, proxy_lost_seconds=seconds)
    assert (desired(config, builders.machine(), lost).redirect is not None) is stays


def test_the_controllers_facts_become_routes_and_networks() -> None:
    pods = ipaddress.ip_network("10.44.1.0/24")
    facts = ClusterFacts(
        pod_routes=(
            PodRoute(pods, ipaddress.ip_address("10.9.0.7")),
            PodRoute(ipaddress.ip_network("fd44::/64"), ipaddress.ip_address("10.9.0.7")),
        ),
        service_cidrs=(ipaddress.ip_network("10.96.0.0/12"),),
    )
    want = desired(builders.config(), builders.machine(), builders.progress(registration=builders.registration(facts=facts)))
    assert Route(pods, ipaddress.ip_address("10.9.0.7")) in (want.routes or ())
    assert Route(ipaddress.ip_network("10.96.0.0/12"), ipaddress.ip_address("10.9.0.1")) in (want.routes or ())
    assert all(r.network.version == r.via.version for r in want.routes or () if r.via), "no IPv6 network through an IPv4 node"
    assert want.redirect is not None
    assert {pods, ipaddress.ip_network("10.96.0.0/12")} <= set(want.redirect.outbound_networks)


def test_services_go_through_any_node_and_pods_through_their_own() -> None:
    config = builders.config(
        controller={"address": "10.9.0.1:8081"},
        network={
            "node": "10.9.0.1",
            "spare_nodes": ["10.9.0.5"],
            "pod_cidrs": ["10.42.0.0/24"],
            "service_cidrs": ["10.43.0.0/16"],
        }
        | {"route_metric": 7, "route_table": 177, "source_address": "10.9.0.66"},
    )
    told = ((f"10.44.{i}.0/24", f"10.9.0.{i}") for i in (7, 1))
    pods = tuple(PodRoute(ipaddress.ip_network(cidr), ipaddress.ip_address(via)) for cidr, via in told)
    known = builders.registration(
        facts=ClusterFacts(pod_routes=(*pods, PodRoute(ipaddress.ip_network("fd44::/64"), ipaddress.ip_address("fd09::7"))))
    )
    found = {
        str(route.network): route
        for route in desired(config, builders.machine(), builders.progress(registration=known)).routes or ()
    }
    ways = {network: " ".join(map(str, (route.via, *route.spares))) for network, route in found.items()}
    assert ways == {
        "10.42.0.0/24": "10.9.0.1", "10.43.0.0/16": "10.9.0.1 10.9.0.5 10.9.0.7",
        "10.44.1.0/24": "10.9.0.1", "10.44.7.0/24": "10.9.0.7", "fd44::/64": "fd09::7",
    }  # fmt: skip
    service, pod, ipv6 = found["10.43.0.0/16"], found["10.44.7.0/24"], found["fd44::/64"]
    assert (service.keep, [str(address) for address in pod.keep]) == ((), ["10.9.0.1"]), "a service may be the controller's"
    assert [(r.metric, r.table, str(r.source)) for r in (service, ipv6)] == [(7, 177, "10.9.0.66"), (7, 177, "None")]


def test_the_redirect_takes_the_groups_ports_and_never_ssh_or_the_controller() -> None:
    config = builders.config(redirect={"ports": [9000], "ignore_inbound_ports": ["7000-7010"]})
    redirect = desired(config, builders.machine(), builders.progress()).redirect
    assert redirect is not None
    assert redirect.inbound_ports == (PortRange(8000, 8000), PortRange(9000, 9000))
    assert {PortRange(22, 22), PortRange(4190, 4191), PortRange(7000, 7010)} <= set(redirect.ignore_inbound_ports)
    assert ipaddress.ip_network("10.9.0.1/32") in redirect.ignore_destinations
    assert ipaddress.ip_network("10.9.0.1/32") not in redirect.ignore_subnets, "what comes from the node is redirected"
    assert redirect.outbound is rules.Outbound.MESH


def test_beside_other_workloads() -> None:
    """What theirs are is left alone; where our proxy is, the controller is told."""
    others = Others(proxies=(2202,), users=(2301, 2302), servers=(ipaddress.ip_address("10.9.0.9"),))
    machine = dataclasses.replace(builders.machine(), users=(2300,), others=others)
    want = desired(builders.config(proxy={"inbound_port": 4243}), machine, builders.progress())
    assert want.redirect is not None and want.registration is not None
    assert (want.redirect.users, want.redirect.neighbours) == ((2300,), (2202,))
    assert want.redirect.ignore_users == (2202, 2301, 2302)
    assert ipaddress.ip_network("10.9.0.9/32") in want.redirect.ignore_destinations, "their harnesses run as root too"
    assert (want.registration.request.inbound_port, want.redirect.inbound_port) == (4243, 4243)


def test_anchors_that_are_only_told_are_given_to_nobody() -> None:
    """Neither to the proxy, nor to SPIRE, nor to the connection to the controller, which has the file's always."""
    config = builders.config(identity={"mode": "local"})
    told = builders.registration(facts=ClusterFacts(trust_anchors_pem="TOLD"))
    user = builders.machine().user
    proven = Adopted("PROVEN", anchors.digest("ANCHORS"))
    cases = {None: ("ANCHORS",) * 3, proven: ("PROVEN", "PROVEN", "PROVEN\nANCHORS")}
    for adopted, (proxy, spire, controller) in cases.items():
        machine = builders.machine(spire_server=user, spire_agent=user, adopted=adopted)
        want = desired(config, machine, builders.progress(registration=told))
        assert want.identity is not None and want.registration is not None and want.proxy is not None
        assert (want.identity.anchors_pem, want.registration.target.anchors_pem) == (spire, controller)
        assert dict(want.proxy.env)["LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"] == proxy
    replaced = desired(config, dataclasses.replace(machine, anchors_pem="NEW"), builders.progress(registration=told))
    assert replaced.identity is not None and replaced.proxy is not None
    assert replaced.identity.anchors_pem == "PROVEN\nNEW", "a new invitation brings them with a certificate below them"
    assert dict(replaced.proxy.env)["LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"] == "PROVEN"


def test_a_probe_of_kind_exec_runs_what_the_machine_allows_under_its_name() -> None:
    config = builders.config(probes={"commands": {"disk": ["/usr/bin/test", "-w", "/data"]}})
    asked = tuple(Probe(exec_=Exec(name)) for name in ("disk", "other"))
    known, user = builders.registration(probes=(*asked, Probe(tcp_socket=TcpSocket(80)))), builders.machine().user
    application = desired(config, builders.machine(probe_user=user), builders.progress(registration=known)).application
    assert application is not None
    found = application.checks
    assert [check.command for check in found] == [("/usr/bin/test", "-w", "/data"), None, None]
    assert found[0].user == user


def test_without_a_node_there_are_no_routes() -> None:
    assert desired(builders.config(network={"pod_cidrs": ["10.42.0.0/16"]}), builders.machine(), Progress()).routes == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, Reason.READY),
        ({"svid": None}, Reason.IDENTITY_MISSING),
        ({"proxy_certified": False}, Reason.PROXY_NOT_READY),
        ({"redirected": False}, Reason.REDIRECT_MISSING),
        ({"probe_failure": "refused"}, Reason.PROBE_FAILED),
    ],
)
def test_ready_or_the_first_reason_why_not(changes: dict[str, object], reason: Reason) -> None:
    found = readiness(builders.progress(**changes), redirect_wanted=True)
    assert found.reason is reason
    assert found.ready is (reason is Reason.READY)


def test_only_what_the_probes_alone_could_say_is_undecided() -> None:
    assert not readiness(builders.progress(probes_decided=False, probe_failure="not checked yet"), redirect_wanted=True).decided
    for known in ({"cordon": "repair"}, {"proxy_certified": False}, {"redirected": False}):
        assert readiness(builders.progress(probes_decided=False, **known), redirect_wanted=True).decided


def test_a_redirect_that_is_switched_off_is_not_waited_for() -> None:
    assert readiness(builders.progress(redirected=False), redirect_wanted=False).ready


class TestProxyEnvironment:
    def environment(self, **sections: object) -> dict[str, str]:
        proxy = desired(builders.config(**sections), builders.machine(), builders.progress()).proxy
        assert proxy is not None
        return dict(proxy.env)

    def test_the_required_set(self) -> None:
        found = self.environment()
        assert found["LINKERD2_PROXY_IDENTITY_SERVER_ID"] == "spiffe://root.linkerd.cluster.local/face"
        assert found["LINKERD2_PROXY_IDENTITY_SERVER_NAME"] == "face-abc.faces.external.cluster.local"
        assert found["LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS"] == "unix:///run/spire/api.sock"
        assert found["LINKERD2_PROXY_POLICY_WORKLOAD"] == '{"ns": "faces", "external_workload": "face-abc"}'
        assert found["LINKERD2_PROXY_DESTINATION_SVC_ADDR"] == "linkerd-dst-headless.linkerd.svc.cluster.local.:8086"
        assert found["LINKERD2_PROXY_INBOUND_LISTEN_ADDR"] == "[::]:4143"
        assert found["LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS"] == "127.0.0.1:4140,[::1]:4140"

    @pytest.mark.parametrize(
        ("ipv6", "v6only", "own", "listens"),
        [
            (True, False, "10.9.0.2", "[::]:4143"),
            (True, True, "10.9.0.2", "0.0.0.0:4143"),
            (True, True, "fd09::2", "[::]:4143"),
            (False, False, "10.9.0.2", "0.0.0.0:4143"),
        ],
    )
    def test_it_listens_where_peers_know_the_machine(self, ipv6: bool, v6only: bool, own: str, listens: str) -> None:
        machine = builders.machine(ipv6=ipv6, v6only=v6only, addresses=(ipaddress.ip_address(own),))
        proxy = desired(builders.config(), machine, builders.progress()).proxy
        assert proxy is not None and dict(proxy.env)["LINKERD2_PROXY_INBOUND_LISTEN_ADDR"] == listens

    def test_what_would_break_it_is_never_set(self) -> None:
        """LOCAL_NAME overrides the SPIFFE id, even when empty; without profile networks direct pod traffic is plaintext."""
        found = self.environment()
        assert "LINKERD2_PROXY_IDENTITY_LOCAL_NAME" not in found
        assert "10.0.0.0/8" in found["LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS"].split(",")
        assert "LINKERD2_PROXY_INBOUND_IPS" not in found, "it would refuse what comes to a later address"
        assert "[{headers}]=off" in found["LINKERD2_PROXY_LOG"]

    def test_another_address_restarts_no_proxy(self) -> None:
        found = [
            desired(builders.config(), builders.machine(addresses=(ipaddress.ip_address(own),)), builders.progress()).proxy
            for own in ("10.9.0.2", "10.9.0.77")
        ]
        assert found[0] == found[1] is not None

    def test_a_node_that_joins_the_cluster_restarts_no_proxy(self) -> None:
        """The environment of a proxy that runs cannot change; a network that Linkerd's default does not cover is worth it."""
        assert self.environment(network={"pod_cidrs": ["10.42.7.0/24"]}) == self.environment(
            network={"pod_cidrs": ["10.42.8.0/24"]}
        )
        public = self.environment(network={"pod_cidrs": ["198.51.100.0/24"]})
        for name in "DESTINATION_PROFILE_NETWORKS", "POLICY_CLUSTER_NETWORKS":
            assert public[f"LINKERD2_PROXY_{name}"].endswith("fd00::/8,198.51.100.0/24")

    def test_configuration_stands_over_facts(self) -> None:
        found = self.environment(proxy={"destination_address": "10.9.0.1:8086", "shutdown_grace": "90s"})
        assert found["LINKERD2_PROXY_DESTINATION_SVC_ADDR"] == "10.9.0.1:8086"
        assert found["LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD"] == "90s"
