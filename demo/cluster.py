"""The cluster side of the playground: a CA, the controller on its embedded store, endpoints for the proxies, names."""

from __future__ import annotations

import asyncio
import contextlib
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
from harness.clock import SystemClock
from harness.values import HostPort

NODE, POD_CIDR, SERVICE_CIDR = "10.77.0.1", "10.42.0.0/24", "10.43.0.0/16"
NAMESPACE, TRUST_DOMAIN = "faces", "root.linkerd.cluster.local"
CONTROLLER_PORT, ENDPOINTS_PORT = 8081, 8086
IDENTITY = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"
SERVICES = ("face", "smiley", "color", "gui")
MANIFESTS = Path(__file__).resolve().parent.parent / "deploy" / "playground"
LEASE_SECONDS, PROBE_SECONDS, DRAIN_SECONDS = 5.0, 2.0, 0.5  # short, so that the demo ends within a minute


class Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certs = folder / "certs"
        self.store = EmbeddedStore(SystemClock())
        self.endpoints = EndpointServer()
        self._following: asyncio.Task[None] | None = None
        self._dnsmasq: asyncio.subprocess.Process | None = None
        self._controller: Controller | None = None

    async def start(self) -> None:
        for words in (
            ("link", "set", "lo", "up"),
            machine.BRIDGE,
            ("addr", "add", f"{NODE}/24", "dev", "br0"),
        ):
            await machine.command("ip", *words)
        await machine.command("ip", "link", "set", "br0", "up")
        await self._issue()
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
        await self.endpoints.start(NODE, ENDPOINTS_PORT)
        self._following = asyncio.create_task(self._follow())
        await self._serve_names()

    async def start_controller(self) -> None:
        self._controller = Controller(self._config, self.store, SystemClock())
        await self._controller.start()

    async def stop_controller(self) -> None:
        if self._controller is not None:
            await self._controller.stop()
            self._controller = None

    async def _issue(self) -> None:
        """The trust anchor, which the playground mounts with its key into every machine, and the controller's certificate."""
        self.certs.mkdir()
        ca, server = self.certs / "ca", self.certs / "controller"
        await _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
            *("-subj", f"/CN={TRUST_DOMAIN}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", f"{ca}.key", "-out", f"{ca}.crt"),
        )
        await _openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=controller",
            ),
            *("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-addext", f"subjectAltName=DNS:{IDENTITY}"),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{server}.key", "-out", f"{server}.crt"),
        )

    def _write_groups(self) -> None:
        """The playground's own manifests with quicker probes, a group for the page, and the cluster's facts."""
        groups = self._folder / "groups"
        groups.mkdir()
        for name in SERVICES:
            source = MANIFESTS / f"{'face' if name == 'gui' else name}.yaml"
            group = yaml.safe_load(source.read_text())
            group["metadata"]["name"] = name
            group["spec"]["template"]["metadata"]["labels"]["service"] = name
            for probe in group["spec"]["probes"]:
                probe |= {"periodSeconds": PROBE_SECONDS, "initialDelaySeconds": 0}
            (groups / f"{name}.yaml").write_text(yaml.safe_dump(group))
        facts = {
            "service_cidrs": [SERVICE_CIDR],
            "linkerd": {"destination_address": f"{NODE}:{ENDPOINTS_PORT}", "policy_address": f"{NODE}:{ENDPOINTS_PORT}"},
        }
        (self._folder / "facts.yaml").write_text(yaml.safe_dump(facts))

    async def _serve_names(self) -> None:
        """Service names, until the harness brings split DNS of its own."""
        hosts = [f"--host-record={name}.{NAMESPACE}.svc.cluster.local,{cluster_ip(name)}" for name in SERVICES]
        self._dnsmasq = await asyncio.create_subprocess_exec(
            *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", f"--listen-address={NODE}", "--bind-interfaces"),
            *("--local=/cluster.local/", "--user=root", "--pid-file=", "--conf-file=/dev/null", *hosts),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def _follow(self) -> None:
        """What Linkerd's endpoint controller does: the ready workloads of each Service."""
        while True:
            listing = await self.store.workloads.list()
            self.endpoints.update(services(), [workload.to_object() for workload in listing.items])
            async for _ in self.store.workloads.watch(listing.resource_version):
                break

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
        if self._dnsmasq is not None:
            with contextlib.suppress(ProcessLookupError):
                self._dnsmasq.kill()
            await self._dnsmasq.wait()


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


async def _openssl(*words: str) -> None:
    await machine.command("openssl", *words)
