"""The cluster side of the playground: a CA, the controller on its embedded store, endpoints for the proxies, names."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from controller.app import Controller
from controller.config import ControllerConfig
from controller.embedded_store import EmbeddedStore
from demo import machine
from demo.endpoints import EndpointServer
from demo.services import Objects
from harness.clock import SystemClock
from harness.proxy_environment import DESTINATION_IDENTITY
from harness.values import HostPort

NODE, POD_CIDR, SERVICE_CIDR = "10.77.0.1", "10.42.0.0/24", "10.43.0.0/16"
NAMESPACE, TRUST_DOMAIN = "faces", "root.linkerd.cluster.local"
CONTROLLER_PORT, ENDPOINTS_PORT = 8081, 8086
IDENTITY = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"
SERVICES = ("face", "smiley", "color", "gui", "smiley2")
GROUPS = {"gui": "face"}  # gui has no manifest of its own
MANIFESTS = Path(__file__).resolve().parent.parent / "deploy" / "playground"
# The cluster's DNS is a Service. The machines' own DNS knows nothing of the cluster, and one name of their site.
CLUSTER_DNS, SITE_DNS = "10.43.0.2", "10.77.0.2"
API = "10.43.0.1"  # of the Service that every cluster has, by whose name a machine sees whether it gets answers
SITE_NAME, SITE_ADDRESS = "www.site.example", "192.0.2.7"
POD_GATEWAY, POD_ADDRESS = "10.42.0.1", "10.42.0.11"
LEASE_SECONDS, PROBE_SECONDS, DRAIN_SECONDS = 5.0, 2.0, 0.5  # short, so that the demo ends within a minute


class Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certs = folder / "certs"
        self.store = EmbeddedStore(SystemClock())
        self.endpoints = EndpointServer()
        self.pods: list[Mapping[str, Any]] = []
        self.routes: list[Mapping[str, Any]] = []
        self._following: asyncio.Task[None] | None = None
        self._dns: list[asyncio.subprocess.Process] = []
        self._controller: Controller | None = None

    async def start(self) -> None:
        for words in (
            ("link", "set", "lo", "up"),
            machine.BRIDGE,
            ("addr", "add", f"{NODE}/24", "dev", "br0"),
            ("addr", "add", f"{SITE_DNS}/32", "dev", "br0"),
            ("link", "set", "br0", "up"),
            ("addr", "add", f"{CLUSTER_DNS}/32", "dev", "lo"),
            ("link", "add", "cbr0", "type", "bridge"),
            ("addr", "add", f"{POD_GATEWAY}/24", "dev", "cbr0"),
            ("link", "set", "cbr0", "up"),
        ):
            await machine.command("ip", *words)
        await machine.command("sysctl", "-qw", "net.ipv4.ip_forward=1")  # from machines to pods
        await self._issue_all()
        self._write_groups()
        self._config = ControllerConfig(
            tls_cert=str(self.certs / "controller.crt"),
            tls_key=str(self.certs / "controller.key"),
            trust_anchors=str(self.certs / "ca.crt"),
            trust_domain=TRUST_DOMAIN,
            listen=HostPort(NODE, CONTROLLER_PORT),
            groups=str(self._folder / "groups"),
            facts=str(self._folder / "facts.yaml"),
            lease=LEASE_SECONDS,
            expiry=30.0,
            drain=DRAIN_SECONDS,
        )
        await self.start_controller()
        await self.endpoints.start(NODE, ENDPOINTS_PORT, self._server_context("destination"))
        self._following = asyncio.create_task(self._follow())
        await self._serve_names()

    async def start_controller(self) -> None:
        self._controller = Controller(self._config, self.store, SystemClock())
        await self._controller.start()

    async def stop_controller(self) -> None:
        if self._controller is not None:
            await self._controller.stop()
            self._controller = None

    async def _issue_all(self) -> None:
        """The trust anchor, which the playground mounts with its key into every machine, and the cluster's own certificates."""
        self.certs.mkdir()
        await self._issue("ca", TRUST_DOMAIN, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for name, identity in (("controller", IDENTITY), ("destination", DESTINATION_IDENTITY)):
            signed = ("-CA", f"{self.certs}/ca.crt", "-CAkey", f"{self.certs}/ca.key")
            extensions = ("-addext", f"subjectAltName=DNS:{identity}", "-addext", "basicConstraints=critical,CA:FALSE")
            await self._issue(name, name, *signed, *extensions)

    async def _issue(self, name: str, common_name: str, *words: str) -> None:
        files = ("-keyout", f"{self.certs}/{name}.key", "-out", f"{self.certs}/{name}.crt")
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365")
        await machine.command("openssl", "req", "-x509", *new, "-subj", f"/CN={common_name}", *words, *files)

    def _server_context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certs / f"{name}.crt", self.certs / f"{name}.key")
        return context

    def _write_groups(self) -> None:
        """The playground's own manifests with quicker probes, a group for the page, and the cluster's facts."""
        groups = self._folder / "groups"
        groups.mkdir()
        for name in SERVICES:
            group = manifest(f"{GROUPS.get(name, name)}.yaml")
            group["metadata"]["name"] = name
            group["spec"]["template"]["metadata"]["labels"]["service"] = name
            for probe in group["spec"]["probes"]:
                probe |= {"periodSeconds": PROBE_SECONDS, "initialDelaySeconds": 0}
            (groups / f"{name}.yaml").write_text(yaml.safe_dump(group))
        facts = {
            "service_cidrs": [SERVICE_CIDR],
            "dns_addresses": [f"{CLUSTER_DNS}:53"],
            "linkerd": {"destination_address": f"{NODE}:{ENDPOINTS_PORT}", "policy_address": f"{NODE}:{ENDPOINTS_PORT}"},
        }
        (self._folder / "facts.yaml").write_text(yaml.safe_dump(facts))

    async def _serve_names(self) -> None:
        hosts = [f"--host-record={name}.{NAMESPACE}.svc.cluster.local,{cluster_ip(name)}" for name in SERVICES]
        hosts.append(f"--host-record=kubernetes.default.svc.cluster.local,{API}")
        await self._serve_dns(CLUSTER_DNS, "--local=/cluster.local/", *hosts)
        await self._serve_dns(SITE_DNS, "--local=/#/", f"--host-record={SITE_NAME},{SITE_ADDRESS}")

    async def _serve_dns(self, address: str, *records: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", f"--listen-address={address}", "--bind-interfaces"),
            *("--user=root", "--pid-file=", "--conf-file=/dev/null", *records),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._dns.append(process)

    async def _follow(self) -> None:
        """What Linkerd's endpoint controller does: the ready members of each Service."""
        while True:
            version = await self.publish()
            async for _ in self.store.workloads.watch(version):
                break

    async def publish(self) -> str:
        """Tells the proxies what there is now. Returns the version of the workloads in it."""
        listing = await self.store.workloads.list()
        workloads = [workload.to_object() for workload in listing.items]
        self.endpoints.update(Objects(services(), workloads, tuple(self.pods), tuple(self.routes)))
        return listing.resource_version

    async def workloads(self, service: str = "") -> list[Mapping[str, Any]]:
        """ExternalWorkloads as Kubernetes would show them."""
        objects = [w.to_object() for w in (await self.store.workloads.list()).items]
        return [o for o in objects if not service or o["metadata"]["labels"].get("service") == service]  # type: ignore[index]

    async def ready(self, service: str) -> set[str]:
        """Addresses of the ready workloads of a service."""
        return {o["spec"]["workloadIPs"][0]["ip"] for o in await self.workloads(service) if is_ready(o)}

    async def stop(self) -> None:
        for task in (self._following,):
            if task is not None:
                task.cancel()
        await self.endpoints.stop()
        await self.stop_controller()
        for process in self._dns:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def is_ready(workload: Mapping[str, Any]) -> bool:
    conditions = workload.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def cluster_ip(service: str) -> str:
    return f"10.43.0.{10 + SERVICES.index(service)}"


def services() -> list[Mapping[str, Any]]:
    return [
        {
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "clusterIP": cluster_ip(name),
                "selector": {"service": name},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        }
        for name in SERVICES
    ]


def pod(name: str, service: str, address: str) -> Mapping[str, Any]:
    """A ready Pod of the Service, without Linkerd's proxy."""
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"service": service}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def manifest(name: str) -> dict[str, Any]:
    """One of the playground's own."""
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return found


def route(*weights: int) -> dict[str, Any]:
    """The playground's smiley-route, with the weights of smiley and smiley2."""
    found = manifest("route/smiley-route.yaml")
    for backend, weight in zip(found["spec"]["rules"][0]["backendRefs"], weights, strict=True):
        backend["weight"] = weight
    return found
