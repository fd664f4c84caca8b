"""What stands in the way of a route, and what of the cluster's networks this machine's own links have."""

from __future__ import annotations

import ipaddress

import pytest

from harness import route_clashes
from harness.route_clashes import KERNEL
from harness.specs import MAIN_TABLE, Route

NODE = ipaddress.ip_address("10.9.0.1")
LAN = Route(ipaddress.ip_network("10.9.0.0/24"), None, KERNEL, link="eth0")
DOCKER = Route(ipaddress.ip_network("172.17.0.0/16"), None, KERNEL, link="docker0")


def through_node(network: str, table: int = MAIN_TABLE) -> Route:
    return Route(ipaddress.ip_network(network), NODE, table=table)


@pytest.mark.parametrize(
    ("wanted", "mesh", "found"),
    [
        ("172.17.0.0/16", [], {"docker0": ["172.17.0.0/16"]}),
        ("172.16.0.0/12", [], {"docker0": ["172.17.0.0/16"]}),
        ("172.17.3.0/24", [], {"docker0": ["172.17.3.0/24"]}),
        ("10.42.0.0/16", [], {}),
        # On the nodes' link a neighbour may be a pod.
        ("10.9.0.128/25", [], {}),
        ("10.0.0.0/8", [], {}),
        ("172.17.0.0/16", ["172.17.128.0/17"], {"docker0": ["172.17.0.0/17"]}),
        ("172.16.0.0/12", ["172.16.0.0/12"], {}),
    ],
)
def test_what_own_links_have(wanted: str, mesh: list[str], found: dict[str, list[str]]) -> None:
    told = route_clashes.on_own_links([through_node(wanted)], [LAN, DOCKER], map(ipaddress.ip_network, mesh))
    assert told == tuple((link, ipaddress.ip_network(network)) for link, parts in found.items() for network in parts)


def test_where_no_route_goes_through_a_node_nothing_is_left_alone() -> None:
    """Pods are then reached without one: they may be on any link."""
    assert route_clashes.on_own_links([], [LAN, DOCKER]) == ()


def test_a_link_whose_name_no_rule_can_have_counts_as_none() -> None:
    for name in "", "a b", "veth*", 'x"':
        odd = Route(DOCKER.network, None, KERNEL, link=name)
        assert route_clashes.on_own_links([through_node("172.17.0.0/16")], [LAN, odd]) == ()


@pytest.mark.parametrize(("table", "refused"), [(MAIN_TABLE, False), (177, True)])
def test_a_table_that_is_asked_before_main_would_hide_a_subnet_inside(table: int, refused: bool) -> None:
    route = through_node("172.16.0.0/12", table)
    assert (route in route_clashes.hidden([route], [LAN, DOCKER])) is refused
