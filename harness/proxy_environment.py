"""The proxy's environment on a VM, complete and typed. linkerd2-proxy parses the values strictly (its app/src/env)."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import Protocol

from harness.config import schema
from harness.messages import ClusterFacts, Registration
from harness.route_clashes import is_within
from harness.values import HostPort, IPAddress, IPNetwork

_PREFIX = "LINKERD2_PROXY_"
SOCKET = f"{_PREFIX}IDENTITY_SPIRE_WORKLOAD_API_ADDRESS"
# Where Linkerd's control plane is by its own names; used until the controller tells otherwise.
DESTINATION = HostPort("linkerd-dst-headless.linkerd.svc.cluster.local.", 8086)
POLICY = HostPort("linkerd-policy.linkerd.svc.cluster.local.", 8090)
DESTINATION_IDENTITY = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"
_OF_LINKERD = ".serviceaccount.identity."


class Sockets(Protocol):
    """What decides about the sockets that the proxy listens on; known.Machine is one."""

    @property
    def ipv6(self) -> bool: ...
    @property
    def v6only(self) -> bool: ...
    @property
    def addresses(self) -> tuple[IPAddress, ...]: ...


def build(
    config: schema.Config,
    registration: Registration,
    anchors_pem: str,
    workload_api: str,
    sockets: Sockets,
) -> dict[str, str]:
    """Every variable that a VM's proxy needs, and the recommended ones; sorted by name so that equal inputs compare equal.

    Without INBOUND_IPS: a proxy reads it once, and would refuse what comes to an address that the machine gets later. Calls of
    the machine to its own address go by mutual TLS, as to any peer.
    """
    facts, proxy = registration.facts, config.proxy
    (destination_address, destination_name), (policy_address, policy_name) = destination(config, facts), policy(config, facts)
    networks = _stable_networks(cluster_networks(config, facts))
    variables = {
        "LOG": proxy.log,
        "LOG_FORMAT": "plain",
        SOCKET.removeprefix(_PREFIX): f"unix://{workload_api}",
        "IDENTITY_SERVER_ID": str(registration.identity),
        "IDENTITY_SERVER_NAME": registration.server_name,
        "IDENTITY_TRUST_ANCHORS": anchors_pem,
        "DESTINATION_SVC_ADDR": str(destination_address),
        "DESTINATION_SVC_NAME": destination_name,
        "DESTINATION_CONTEXT": json.dumps({"ns": registration.namespace}),
        "DESTINATION_PROFILE_SUFFIXES": f"svc.{facts.cluster_domain}.",
        "DESTINATION_PROFILE_NETWORKS": _joined(networks),
        "POLICY_SVC_ADDR": str(policy_address),
        "POLICY_SVC_NAME": policy_name,
        "POLICY_WORKLOAD": json.dumps({"ns": registration.namespace, "external_workload": registration.name}),
        "POLICY_CLUSTER_NETWORKS": _joined(networks),
        "INBOUND_DEFAULT_POLICY": "all-unauthenticated",
        "INBOUND_PORTS": _joined(p.port for p in registration.template.ports),
        "INBOUND_LISTEN_ADDR": str(HostPort(_every_address(sockets), proxy.inbound_port)),
        "OUTBOUND_LISTEN_ADDRS": _joined(
            HostPort(host, proxy.outbound_port) for host in (["127.0.0.1", "::1"] if sockets.ipv6 else ["127.0.0.1"])
        ),
        "ADMIN_LISTEN_ADDR": str(HostPort("127.0.0.1", proxy.admin_port)),
        "SHUTDOWN_GRACE_PERIOD": f"{max(1, round(proxy.shutdown_grace))}s",
        **_CHART_VALUES,
    }
    return {f"{_PREFIX}{name}": value for name, value in sorted(variables.items())}


def _every_address(sockets: Sockets) -> str:
    """Of both families if one socket can have them; else of the family by which peers know this machine. The proxy takes one."""
    known_by_ipv4 = not sockets.addresses or sockets.addresses[0].version == 4
    return "0.0.0.0" if not sockets.ipv6 or (sockets.v6only and known_by_ipv4) else "::"  # noqa: S104


# Linkerd's chart: clusterNetworks.
_CLUSTER_NETWORKS = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"))
)
# What Linkerd's chart gives a pod where the binary's own default is off or too short for a wide-area link.
_CHART_VALUES = {
    "INBOUND_ACCEPT_KEEPALIVE": "10000ms",
    "OUTBOUND_CONNECT_KEEPALIVE": "10000ms",
    "INBOUND_ACCEPT_USER_TIMEOUT": "30s",
    "OUTBOUND_CONNECT_USER_TIMEOUT": "30s",
    "CONTROL_STREAM_INITIAL_TIMEOUT": "3s",
    "CONTROL_STREAM_IDLE_TIMEOUT": "5m",
    "CONTROL_STREAM_LIFETIME": "1h",
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "10s",
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "3s",
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "10s",
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "3s",
    "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "25,587,3306,4444,5432,6379,9300,11211",
}


def destination(config: schema.Config, facts: ClusterFacts) -> tuple[HostPort, str]:
    """Address and TLS name of Linkerd's destination service."""
    address = config.proxy.destination_address or facts.linkerd.destination_address or DESTINATION
    return address, linkerd_identity(config)


def policy(config: schema.Config, facts: ClusterFacts) -> tuple[HostPort, str]:
    """The same of its policy service, which is the destination service's pod."""
    address = config.proxy.policy_address or facts.linkerd.policy_address or POLICY
    return address, linkerd_identity(config)


def linkerd_identity(config: schema.Config) -> str:
    """The name of Linkerd's destination and policy services, from this machine's own configuration: the controller's name has the
    rest of it. What the controller tells cannot prove itself by a name of its own."""
    _, found, rest = config.controller.identity.partition(_OF_LINKERD)
    namespace = rest.partition(".")[0]
    return f"linkerd-destination.{namespace}{_OF_LINKERD}{rest}" if found and namespace else DESTINATION_IDENTITY


def cluster_networks(config: schema.Config, facts: ClusterFacts) -> tuple[IPNetwork, ...]:
    """All networks of the mesh: pods, services and other mesh machines, from the configuration and the controller."""
    network = config.network
    found = [*network.pod_cidrs, *network.service_cidrs, *network.mesh_cidrs]
    found += [r.pod_cidr for r in facts.pod_routes] + [*facts.service_cidrs, *facts.mesh_cidrs]
    return tuple(dict.fromkeys(found))


def peer_networks(config: schema.Config, facts: ClusterFacts) -> tuple[IPNetwork, ...]:
    """Those that dial this machine: of pods and of other mesh machines. An address of a Service is never a sender's."""
    network = config.network
    found = [*network.pod_cidrs, *network.mesh_cidrs, *(route.pod_cidr for route in facts.pod_routes), *facts.mesh_cidrs]
    return tuple(dict.fromkeys(found))


def _stable_networks(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Linkerd's own default, and what it does not cover: a node that joins the cluster must restart no machine's proxy."""
    return (*_CLUSTER_NETWORKS, *(n for n in networks if not any(is_within(n, wide) for wide in _CLUSTER_NETWORKS)))


def _joined(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
