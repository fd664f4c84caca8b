"""What machines are told of the cluster, kept in sync with it: nodes, service networks, DNS, Linkerd's own configuration."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from controller.following import BACKOFF, follow
from controller.kubernetes import readings
from controller.kubernetes.client import Client
from controller.kubernetes.collection import KubernetesCollection
from controller.kubernetes.readings import Linkerd, Reader
from controller.model import Key, Metadata
from controller.own_networks import OwnNetworks
from controller.store import Change, ChangeType, Gap, Listing, NotFoundError
from harness.clock import Clock
from harness.decode import decode
from harness.errors import TemporaryError, UnavailableError
from harness.messages import ClusterFacts, LinkerdFacts
from harness.values import HostPort, IPNetwork

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
        self._followed: list[KubernetesCollection[Object]] = []
        self._gaps: dict[str, tuple[Gap, ...]] = {}
        self.facts = configured
        self.own = OwnNetworks()
        self.known = asyncio.Event()
        self.changed: Callable[[ClusterFacts], None] = lambda facts: None

    async def run(self) -> None:
        """Without end; `known` once all was read. Raises UnavailableError where the other product's controller runs."""
        await self._refuse_rival()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("nodes", "v1", "nodes"))
            # Clusters before 1.33 have no such kind.
            tasks.create_task(self._follow("service_cidrs", "networking.k8s.io/v1", "servicecidrs"))
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

    def gaps(self) -> tuple[Gap, ...]:
        """What of the cluster is not read, or cannot be used."""
        passed_over = (gap for found in self._gaps.values() for gap in found)
        return (*passed_over, *(gap for collection in self._followed for gap in collection.gaps()))

    def _collection(self, api: str, plural: str, namespace: str, selected: Mapping[str, str]) -> KubernetesCollection[Object]:
        optional = plural == "servicecidrs"
        return KubernetesCollection(self._client, api, plural, _object, namespace=namespace, selected=selected, optional=optional)

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

        collection = self._collection(api, plural, namespace, selected)
        self._followed.append(collection)
        await follow(collection, self._clock, replace, apply)

    def _take(self, field: str, items: Iterable[Mapping[str, Any]]) -> None:
        self._sources = dataclasses.replace(self._sources, **{field: tuple(items)})
        self._missing.discard(field)
        self._tell(field, gaps(field, self._sources))
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

    def _tell(self, field: str, found: tuple[Gap, ...]) -> None:
        """Each once."""
        for gap in found:
            if gap not in self._gaps.get(field, ()):
                log.error("a value of the cluster is passed over", kind=gap.kind, object=gap.name, why=gap.why)
        self._gaps[field] = found


def facts(sources: Sources, configured: ClusterFacts, linkerd_namespace: str) -> ClusterFacts:
    """What the cluster says goes before what is configured. Pure."""
    config = _linkerd_config(sources)
    domain = config.cluster_domain or configured.cluster_domain
    identity_domain = config.trust_domain or domain
    suffix = f"{linkerd_namespace}.serviceaccount.identity.{linkerd_namespace}.{identity_domain}"
    linkerd = LinkerdFacts(
        HostPort(f"linkerd-dst-headless.{linkerd_namespace}.svc.{domain}.", 8086),
        f"linkerd-destination.{suffix}",
        HostPort(f"linkerd-policy.{linkerd_namespace}.svc.{domain}.", 8090),
        f"linkerd-destination.{suffix}",
    )
    routes = (route for data in sources.nodes for route in readings.node(Reader(data)).routes())
    servers = (HostPort(str(ip), 53) for data in sources.dns for ip in readings.dns_servers(Reader(data)))
    return dataclasses.replace(
        configured,
        pod_routes=configured.pod_routes or tuple(sorted(routes, key=str)),
        service_cidrs=configured.service_cidrs or _services(sources),
        cluster_domain=domain,
        dns_addresses=configured.dns_addresses or tuple(servers),
        trust_anchors_pem=configured.trust_anchors_pem or next(map(_roots, map(Reader, sources.roots)), ""),
        linkerd=linkerd if configured.linkerd == LinkerdFacts() else configured.linkerd,
    )


def own_networks(sources: Sources) -> OwnNetworks:
    """Whatever is configured, and also of nodes that have no pod network. Pure."""
    nodes = [readings.node(Reader(data)) for data in sources.nodes]
    addresses = frozenset(address for node in nodes for address in node.addresses)
    return OwnNetworks(addresses, tuple(network for node in nodes for network in node.pods), _services(sources))


def gaps(field: str, sources: Sources) -> tuple[Gap, ...]:
    """What is passed over in the objects of that field of `sources`. Pure."""
    kind, read = _READ[field]
    return tuple(readings.gaps(kind, getattr(sources, field), read))


def _services(sources: Sources) -> tuple[IPNetwork, ...]:
    found = (network for data in sources.service_cidrs for network in readings.service_networks(Reader(data)))
    return tuple(sorted(found, key=str))


def _linkerd_config(sources: Sources) -> Linkerd:
    return next(map(readings.linkerd, map(Reader, sources.config)), Linkerd())


def _roots(reader: Reader) -> str:
    return reader.text("data", "ca-bundle.crt")


_READ: Mapping[str, tuple[str, Callable[[Reader], object]]] = {
    "nodes": ("nodes", readings.node),
    "service_cidrs": ("servicecidrs", readings.service_networks),
    "dns": ("services", readings.dns_servers),
    "config": ("configmaps", readings.linkerd),
    "roots": ("configmaps", _roots),
}
"""The kind of each of the sources, and what reads one object of it."""


def _object(data: Mapping[str, Any]) -> Object:
    """Cluster-wide kinds have no namespace; here they have an empty one."""
    metadata = data.get("metadata")
    if isinstance(metadata, Mapping):
        metadata = {"namespace": "", **metadata}
    return Object(decode(Metadata, metadata, source="metadata", camel=True, lenient=True), data)
