"""What should be, as a pure function of the configuration and of what is known so far. No I/O.

The gates of starting are all here: registration needs an identity, the proxy needs a registration (its ExternalWorkload must
exist first), the redirect needs a proxy with a certificate. Once up, a lost control plane takes nothing away. A machine that was
a member holds what is meant for the mesh until the redirect is in force, and while it is not.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from harness import __version__, anchors, proxy_environment, route_clashes, rules
from harness.config import schema
from harness.known import Machine, Progress
from harness.messages import ClusterFacts, Reason, Registration, RegistrationRequest
from harness.paths import Paths
from harness.specs import (
    ApplicationSpec,
    Check,
    DnsSpec,
    EmbeddedServer,
    IdentitySpec,
    ProxySpec,
    Readiness,
    RegistrationSpec,
    Route,
    SpireAgent,
    SpireServer,
    Target,
)
from harness.values import DEFAULT_TRUST_DOMAIN, HostPort, IPAddress, IPNetwork, PortRange, SpiffeId

OPEN_AFTER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Desired:
    """None: not yet, or not any more."""

    routes: tuple[Route, ...] | None = None
    dns: DnsSpec | None = None
    identity: IdentitySpec | None = None
    registration: RegistrationSpec | None = None
    application: ApplicationSpec | None = None
    proxy: ProxySpec | None = None
    redirect: rules.RedirectSpec | None = None


def desired(config: schema.Config, machine: Machine, progress: Progress) -> Desired:
    known = progress.registration
    return Desired(
        routes=routes(config, known),
        dns=_dns(config, machine, known),
        identity=identity(config, machine, known),
        registration=_registration(config, machine, progress),
        application=_application(config, machine, known) if known else None,
        proxy=_proxy(config, machine, known, progress) if known else None,
        redirect=redirect(config, machine, known)
        if known and may_redirect(config, progress)
        else hold(config, machine, progress),
    )


def identity(config: schema.Config, machine: Machine, known: Registration | None) -> IdentitySpec:
    embedded = None
    if config.identity.mode is schema.IdentityMode.EMBEDDED:
        section = config.identity.embedded
        embedded = EmbeddedServer(section.ca_cert, section.ca_key, section.svid_ttl)
    server, agent = _spire_server(config, machine), _spire_agent(config, machine)
    in_use = anchors.for_spire(machine.anchors_pem, machine.adopted) if agent else ""
    return IdentitySpec(spiffe_id(config), machine.workload_api, machine.user, embedded, server, agent, in_use)


def spiffe_id(config: schema.Config) -> SpiffeId:
    """The identity that this machine is to have."""
    return config.identity.spiffe_id or SpiffeId(DEFAULT_TRUST_DOMAIN, f"/{config.workload.group}")


def workload_api(config: schema.Config, paths: Paths) -> str:
    """The socket of the Workload API that the proxy asks."""
    if config.identity.mode is schema.IdentityMode.EXTERNAL:
        return config.identity.socket.removeprefix("unix:").replace("///", "/")
    return str(paths.workload_api)


def _spire_server(config: schema.Config, machine: Machine) -> SpireServer | None:
    if config.identity.mode is not schema.IdentityMode.LOCAL or machine.spire_server is None:
        return None
    local, programs = config.identity.local, config.identity.spire
    return SpireServer(
        programs.server_path, machine.spire_server, local.ca_cert, local.ca_key, local.allow_root_key, local.svid_ttl
    )


def _spire_agent(config: schema.Config, machine: Machine) -> SpireAgent | None:
    if machine.spire_agent is None:
        return None
    programs, section, mode = config.identity.spire, config.identity.agent, config.identity.mode
    if mode is schema.IdentityMode.LOCAL:
        return SpireAgent(programs.agent_path, machine.spire_agent, HostPort("127.0.0.1", config.identity.local.port))
    if mode is not schema.IdentityMode.AGENT or section.server_address is None:
        return None
    files = (section.join_token_file, section.certificate_file, section.key_file)
    return SpireAgent(programs.agent_path, machine.spire_agent, section.server_address, *files)


def readiness(progress: Progress, redirect_wanted: bool) -> Readiness:
    """Ready, or the first reason why not."""
    if progress.cordon is not None:
        return Readiness(False, Reason.CORDONED, progress.cordon[:256])
    if progress.svid is None:
        return Readiness(False, Reason.IDENTITY_MISSING, "no SVID")
    if not progress.proxy_certified:
        return Readiness(False, Reason.PROXY_NOT_READY, "the proxy has no certificate")
    if redirect_wanted and not progress.redirected:
        return Readiness(False, Reason.REDIRECT_MISSING, "the redirect is not in place")
    if progress.probe_failure is not None:
        return Readiness(False, Reason.PROBE_FAILED, progress.probe_failure[:256], decided=progress.probes_decided)
    return Readiness(True, Reason.READY, decided=progress.probes_decided)


def routes(config: schema.Config, known: Registration | None) -> tuple[Route, ...]:
    """Configured pod networks through the configured node, the others through their own nodes; services through any of them."""
    section, facts = config.network, known.facts if known else ClusterFacts()
    node = () if section.node is None else (section.node,)
    nodes = tuple(dict.fromkeys((*node, *section.spare_nodes, *(pod.via for pod in facts.pod_routes))))
    # The controller's own address may be that of a service: the route is then the way to it.
    found = [_route(section, network, nodes, None) for network in dict.fromkeys((*section.service_cidrs, *facts.service_cidrs))]
    pods = dict.fromkeys(section.pod_cidrs, node) | {pod.pod_cidr: (pod.via,) for pod in facts.pod_routes}
    found += [_route(section, network, ways, config.controller.address) for network, ways in pods.items()]
    return tuple(sorted((route for route in found if route is not None), key=str))


def _route(section: schema.Network_, network: IPNetwork, nodes: tuple[IPAddress, ...], apart: HostPort | None) -> Route | None:
    """None when no node has an address of the network's family. `apart`: an address whose way must not go by this route."""
    version = network.version
    nodes = tuple(node for node in nodes if node.version == version)
    if not nodes:
        return None
    source = section.source_address if section.source_address and section.source_address.version == version else None
    keep = tuple(own.network_address for own in _own_network(apart) if own.version == version) if apart else ()
    return Route(
        network, nodes[0], metric=section.route_metric, table=section.route_table, source=source, spares=nodes[1:], keep=keep
    )


def _dns(config: schema.Config, machine: Machine, known: Registration | None) -> DnsSpec | None:
    section = config.dns
    servers = section.servers or (known.facts.dns_addresses if known else ())
    if section.mode is schema.DnsMode.OFF or not servers:
        return None
    domain = section.domain or (known.facts.cluster_domain if known else ClusterFacts().cluster_domain)
    return DnsSpec(domain, servers, section.search, section.ndots, machine.dns_user)


def _registration(config: schema.Config, machine: Machine, progress: Progress) -> RegistrationSpec | None:
    if progress.svid is None or not machine.addresses:
        return None
    request = RegistrationRequest(
        group=config.workload.group,
        namespace=config.workload.namespace,
        instance_id=machine.instance_id,
        hostname=machine.hostname,
        addresses=machine.addresses,
        versions={"harness": __version__},
        inbound_port=config.proxy.inbound_port,
    )
    off = config.redirect.outbound is rules.Outbound.OFF and config.redirect.inbound is rules.Inbound.OFF
    trusted = anchors.with_file(machine.anchors_pem, machine.adopted)
    target = Target(config.controller.address, config.controller.identity, trusted)
    return RegistrationSpec(target, request, progress.svid, readiness(progress, not off))


def _proxy(config: schema.Config, machine: Machine, known: Registration, progress: Progress) -> ProxySpec:
    others = "" if progress.left_alone else "the rules of this machine's other workloads leave it alone"
    in_force = anchors.in_force(machine.anchors_pem, machine.adopted)
    environment = proxy_environment.build(config, known, in_force, machine.workload_api, machine)
    section = config.proxy
    return ProxySpec(
        path=config.proxy.path,
        user=machine.user,
        env=tuple(sorted({**environment, **section.env}.items())),
        overridden=tuple(sorted(section.env)),
        ports=(section.inbound_port, section.outbound_port, section.admin_port),
        admin_port=section.admin_port,
        start_timeout=section.start_timeout,
        waits_for=others if progress.identity_served else "the Workload API answers",
        shutdown_grace=section.shutdown_grace,
    )


def may_redirect(config: schema.Config, progress: Progress) -> bool:
    if progress.proxy_certified:
        return True
    stays = config.redirect.on_proxy_loss is schema.OnProxyLoss.CLOSED or progress.proxy_lost_seconds < OPEN_AFTER_SECONDS
    return progress.redirected and stays


def hold(config: schema.Config, machine: Machine, progress: Progress) -> rules.RedirectSpec | None:
    """None for a machine that was no member yet (a first join cuts nothing that works), and with `on_proxy_loss: open`."""
    if progress.member is None or config.redirect.on_proxy_loss is schema.OnProxyLoss.OPEN:
        return None
    known = progress.registration
    spec = redirect(config, machine, known)
    before = () if known else progress.member  # what the controller told may be lost
    servers = (*config.dns.servers, *(known.facts.dns_addresses if known else ()))
    reached = {*machine.controller_at, *(server.ip for server in servers if server.ip is not None)}
    apart = (ipaddress.ip_network(address) for address in sorted(reached, key=str))
    return replace(
        spec,
        hold=True,
        outbound_networks=tuple(dict.fromkeys((*spec.outbound_networks, *before))),
        ignore_destinations=(*spec.ignore_destinations, *apart),
    )


def _application(config: schema.Config, machine: Machine, known: Registration) -> ApplicationSpec | None:
    """None while this machine has no address: then nobody can say where peers call it."""
    addresses = machine.addresses
    if not addresses:
        return None
    placed = [probe.at(addresses[0]) for probe in known.probes]
    commands = config.probes.commands
    user = machine.probe_user
    checks = tuple(Check(probe, commands.get(probe.exec_.name), user) if probe.exec_ else Check(probe) for probe in placed)
    return ApplicationSpec(checks, tuple(sorted(_tcp_ports(known))), addresses)


def _tcp_ports(known: Registration) -> set[int]:
    return {port.port for port in known.template.ports if port.protocol == "TCP"}


def redirect(config: schema.Config, machine: Machine, known: Registration | None) -> rules.RedirectSpec:
    """Before the registration, as far as the configuration says it: without what the controller tells."""
    section, proxy, others = config.redirect, config.proxy, machine.others
    ports = {PortRange(port, port) for port in _tcp_ports(known)} if known else set()
    return rules.RedirectSpec(
        proxy_uid=machine.user.uid,
        inbound_port=proxy.inbound_port,
        outbound_port=proxy.outbound_port,
        outbound=section.outbound,
        inbound=section.inbound,
        outbound_networks=proxy_environment.cluster_networks(config, known.facts if known else ClusterFacts()),
        inbound_ports=tuple(sorted({*ports, *section.ports})),
        ignore_inbound_ports=rules.merge_ports((*section.ignore_inbound_ports, *machine.never_inbound)),
        ignore_outbound_ports=rules.merge_ports((*section.ignore_outbound_ports, *machine.never_outbound)),
        ignore_subnets=section.ignore_subnets,
        # The harness must reach the controller without the proxy.
        ignore_destinations=(
            *_own_network(config.controller.address),
            *map(ipaddress.ip_network, (*machine.spire_addresses, *others.servers)),
        ),
        ignore_interfaces=section.ignore_interfaces,
        own_links=_own_links(config, machine, known),
        ipv6=section.ipv6,
        users=machine.users,
        ignore_users=(*others.proxies, *others.users),
        neighbours=others.proxies,
    )


def _own_links(config: schema.Config, machine: Machine, known: Registration | None) -> tuple[tuple[str, IPNetwork], ...]:
    """One decision for routes and rules: where no route of ours leads to a node, because a link of this machine has the network,
    there is nothing of the cluster to redirect. Other mesh machines need no route, so that they may well be on a link."""
    mesh = (*config.network.mesh_cidrs, *(known.facts.mesh_cidrs if known else ()))
    return route_clashes.on_own_links(routes(config, known), machine.subnets, mesh)


def _own_network(address: HostPort) -> tuple[IPNetwork, ...]:
    """Of that one address, where it is given as an address."""
    return (ipaddress.ip_network(address.ip),) if address.ip is not None else ()
