"""What machines are told of the cluster, kept in sync with it: nodes, service networks, DNS, Linkerd's own configuration."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from controller.following import BACKOFF, follow
from controller.kubernetes.client import Client
from controller.kubernetes.store import KubernetesCollection
from controller.model import Key, Metadata
from controller.own_networks import OwnNetworks
from controller.store import Change, ChangeType, Listing, NotFoundError
from harness import yaml_text
from harness.clock import Clock
from harness.decode import decode
from harness.errors import TemporaryError, UnavailableError
from harness.messages import ClusterFacts, LinkerdFacts, PodRoute
from harness.values import HostPort, IPAddress, IPNetwork

log = structlog.get_logger()
_DNS_NAMESPACE, _DNS_LABEL = "kube-system", "k8s-app=kube-dns"
_CONFIG, _ROOTS, _RIVAL = "linkerd-config", "linkerd-identity-trust-roots", "linkerd-autoregistration"


@dataclass(frozen=True, slots=True)
class Object:
    """Any object, undecoded."""

    metadata: Metadata
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """The objects that the facts are made of."""

    nodes: tuple[Mapping[str, Any], ...] = ()
    service_cidrs: tuple[Mapping[str, Any], ...] = ()
    dns: tuple[Mapping[str, Any], ...] = ()
    config: tuple[Mapping[str, Any], ...] = ()
    roots: tuple[Mapping[str, Any], ...] = ()


class Cluster:
    """`configured`: facts from the configuration, which stand where the cluster says nothing. `changed` is told of new ones."""

    def __init__(self, client: Client, clock: Clock, configured: ClusterFacts, linkerd_namespace: str) -> None:
        self._client, self._clock, self._configured, self._linkerd = client, clock, configured, linkerd_namespace
        self._sources = Sources()
        self._missing = {field.name for field in dataclasses.fields(Sources)}
        self.facts = configured
        self.own = OwnNetworks()
        self.known = asyncio.Event()
        self.changed: Callable[[ClusterFacts], None] = lambda facts: None

    async def run(self) -> None:
        """Without end; `known` once all was read. Raises UnavailableError where the other product's controller runs."""
        await self._refuse_rival()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("nodes", "v1", "nodes"))
            if await self._collection("networking.k8s.io/v1", "servicecidrs").served():
                tasks.create_task(self._follow("service_cidrs", "networking.k8s.io/v1", "servicecidrs"))
            else:
                self._take("service_cidrs", ())
            tasks.create_task(self._follow("dns", "v1", "services", _DNS_NAMESPACE, labelSelector=_DNS_LABEL))
            for name, field in ((_CONFIG, "config"), (_ROOTS, "roots")):
                selector = f"metadata.name={name}"
                tasks.create_task(self._follow(field, "v1", "configmaps", self._linkerd, fieldSelector=selector))

    async def _refuse_rival(self) -> None:
        failures = 0
        while True:
            try:
                await self._client.get(f"/api/v1/namespaces/{self._linkerd}/services/{_RIVAL}")
            except NotFoundError:
                return
            except TemporaryError as error:
                log.warning("cluster not read", error=error.message, hint=error.hint)
                failures += 1
                await self._clock.sleep(BACKOFF.pause(failures))
                continue
            raise UnavailableError(
                f"the Service {self._linkerd}/{_RIVAL} is here: another controller registers machines in this cluster",
                "two controllers would undo each other's work; remove one (manageExternalWorkloads=false for that product)",
            )

    def _collection(self, api: str, plural: str, namespace: str = "", **selected: str) -> KubernetesCollection[Object]:
        return KubernetesCollection(self._client, api, plural, _object, namespace=namespace, selected=selected)

    async def _follow(self, field: str, api: str, plural: str, namespace: str = "", **selected: str) -> None:
        items: dict[Key, Mapping[str, Any]] = {}

        async def replace(listing: Listing[Object]) -> None:
            items.clear()
            items.update((item.metadata.key, item.data) for item in listing.items)
            self._take(field, items.values())

        async def apply(change: Change[Object]) -> None:
            if change.type is ChangeType.DELETED:
                items.pop(change.item.metadata.key, None)
            else:
                items[change.item.metadata.key] = change.item.data
            self._take(field, items.values())

        await follow(self._collection(api, plural, namespace, **selected), self._clock, replace, apply)

    def _take(self, field: str, items: Iterable[Mapping[str, Any]]) -> None:
        self._sources = dataclasses.replace(self._sources, **{field: tuple(items)})
        self._missing.discard(field)
        if self._missing:
            return
        self.own = own_networks(self._sources)
        found = facts(self._sources, self._configured, self._linkerd)
        if self.known.is_set() and found.cluster_domain != self.facts.cluster_domain:
            log.error("the cluster domain has changed; start the controller again", domain=found.cluster_domain)
            return
        if found != self.facts or not self.known.is_set():
            self.facts = found
            self.known.set()
            self.changed(found)


def facts(sources: Sources, configured: ClusterFacts, linkerd_namespace: str) -> ClusterFacts:
    """What the cluster says goes before what is configured. Pure."""
    config = _linkerd_config(sources.config)
    domain = str(config.get("clusterDomain") or configured.cluster_domain)
    identity_domain = str(config.get("identityTrustDomain") or domain)
    suffix = f"{linkerd_namespace}.serviceaccount.identity.{linkerd_namespace}.{identity_domain}"
    linkerd = LinkerdFacts(
        HostPort(f"linkerd-dst-headless.{linkerd_namespace}.svc.{domain}.", 8086),
        f"linkerd-destination.{suffix}",
        HostPort(f"linkerd-policy.{linkerd_namespace}.svc.{domain}.", 8090),
        f"linkerd-destination.{suffix}",
    )
    roots = next((str(item.get("data", {}).get("ca-bundle.crt", "")) for item in sources.roots), "")
    servers = (ip for item in sources.dns for ip in item["spec"].get("clusterIPs") or ())
    return dataclasses.replace(
        configured,
        pod_routes=configured.pod_routes or tuple(sorted(_routes(sources.nodes), key=str)),
        service_cidrs=configured.service_cidrs or _services(sources),
        cluster_domain=domain,
        dns_addresses=configured.dns_addresses or tuple(HostPort(ip, 53) for ip in servers if ip != "None"),
        trust_anchors_pem=configured.trust_anchors_pem or roots,
        linkerd=linkerd if configured.linkerd == LinkerdFacts() else configured.linkerd,
    )


def own_networks(sources: Sources) -> OwnNetworks:
    """Whatever is configured, and also of nodes that have no pod network. Pure."""
    addresses: set[IPAddress] = set()
    for node in sources.nodes:
        for entry in node.get("status", {}).get("addresses") or ():
            with contextlib.suppress(ValueError):  # a name
                addresses.add(ipaddress.ip_address(entry["address"]))
    return OwnNetworks(frozenset(addresses), tuple(n for node in sources.nodes for n in _pods(node)), _services(sources))


def _services(sources: Sources) -> tuple[IPNetwork, ...]:
    cidrs = (cidr for item in sources.service_cidrs for cidr in item["spec"].get("cidrs", ()))
    return tuple(sorted(map(ipaddress.ip_network, cidrs), key=str))


def _pods(node: Mapping[str, Any]) -> tuple[IPNetwork, ...]:
    spec = node.get("spec", {})
    return tuple(ipaddress.ip_network(cidr) for cidr in spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")]))


def _linkerd_config(items: tuple[Mapping[str, Any], ...]) -> Mapping[str, Any]:
    try:
        values = yaml_text.document(str(items[0].get("data", {}).get("values", ""))) if items else None
    except ValueError as error:
        log.error("linkerd-config is not read", error=str(error))
        values = None
    return values if isinstance(values, Mapping) else {}


def _routes(nodes: Iterable[Mapping[str, Any]]) -> Iterable[PodRoute]:
    """Of each node and family its pod network, by the node's address of that family. Other networks' nodes have none."""
    for node in nodes:
        addresses = node.get("status", {}).get("addresses") or ()
        inner = [ipaddress.ip_address(entry["address"]) for entry in addresses if entry["type"] == "InternalIP"]
        for network in _pods(node):
            via = next((address for address in inner if address.version == network.version), None)
            if via is not None:
                yield PodRoute(network, via)


def _object(data: Mapping[str, Any]) -> Object:
    """Cluster-wide kinds have no namespace; here they have an empty one."""
    metadata = {"namespace": "", **data["metadata"]}
    return Object(decode(Metadata, metadata, source="metadata", camel=True, lenient=True), data)
