"""The redirect as data: what is wanted (RedirectSpec) and the rule records that follow from it. No I/O.

Each backend renders the same records; `plan`, tests and docs print them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.values import IPNetwork, PortRange


class Outbound(enum.Enum):
    """Which outbound TCP goes through the proxy."""

    MESH = "mesh"  # to the networks of the mesh only
    ALL = "all"  # the reference product's behaviour
    OFF = "off"


class Inbound(enum.Enum):
    """Which inbound TCP to a local address goes through the proxy."""

    PORTS = "ports"  # to the group's ports only
    ALL = "all"  # to every port that is not excluded
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """What the redirect must do, complete: two equal specs give equal rules.

    The caller has already put together what is always excluded (SSH, 4190, 4191, 4567, 4568, the harness's admin port).
    """

    proxy_uid: int
    inbound_port: int = 4143
    outbound_port: int = 4140
    outbound: Outbound = Outbound.MESH
    inbound: Inbound = Inbound.PORTS
    outbound_networks: tuple[IPNetwork, ...] = ()
    inbound_ports: tuple[PortRange, ...] = ()
    ignore_inbound_ports: tuple[PortRange, ...] = ()
    ignore_outbound_ports: tuple[PortRange, ...] = ()
    ignore_subnets: tuple[IPNetwork, ...] = ()
    """Never redirected, in either direction: as a source inbound, as a destination outbound."""
    ignore_interfaces: tuple[str, ...] = ()
    ipv6: bool = True

    def __post_init__(self) -> None:
        if self.proxy_uid == 0:
            raise ValueError("the proxy must not run as uid 0: every root process would bypass the mesh")
