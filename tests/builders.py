"""Values that many tests need, with only what matters to a test spelled out there."""

from __future__ import annotations

import ipaddress
from typing import Any

from harness.config import schema
from harness.decode import decode
from harness.known import Machine, Progress
from harness.messages import ClusterFacts, Registration, Template, WorkloadPort
from harness.probe import HttpGet, Probe
from harness.specs import User
from harness.system.workload_api import Svid
from harness.values import PortRange, parse_spiffe_id


def config(**sections: Any) -> schema.Config:
    base = {
        "workload": {"group": "face", "namespace": "faces"},
        "network": {"node": "10.9.0.1", "pod_cidrs": ["10.42.0.0/16"], "service_cidrs": ["10.43.0.0/16"]},
        "controller": {"address": "10.9.0.1:8081"},
    }
    return decode(schema.Config, {**base, **sections}, source="test")


def machine(**changes: Any) -> Machine:
    values: dict[str, Any] = {
        "user": User(2102, 2102),
        "hostname": "face-1",
        "instance_id": "instance",
        "addresses": (ipaddress.ip_address("10.9.0.2"),),
        "anchors_pem": "ANCHORS",
        "workload_api": "/run/spire/api.sock",
        "never_inbound": (PortRange(22, 22), PortRange(4190, 4191)),
        "never_outbound": (PortRange(4567, 4568),),
        "ipv6": True,
    }
    return Machine(**{**values, **changes})


def registration(**changes: Any) -> Registration:
    values: dict[str, Any] = {
        "name": "face-abc",
        "namespace": "faces",
        "version": "1",
        "identity": parse_spiffe_id("spiffe://root.linkerd.cluster.local/face"),
        "server_name": "face-abc.faces.external.cluster.local",
        "template": Template((WorkloadPort(8000, "http"),)),
        "probes": (Probe(http_get=HttpGet(8000, path="/ready")),),
        "facts": ClusterFacts(),
    }
    return Registration(**{**values, **changes})


def svid(**changes: Any) -> Svid:
    values: dict[str, Any] = {
        "spiffe_id": parse_spiffe_id("spiffe://root.linkerd.cluster.local/face"),
        "chain_der": (b"leaf",),
        "key_der": b"key",
        "bundle_der": (b"root",),
        "expires_at": 2e9,
    }
    return Svid(**{**values, **changes})


def progress(**changes: Any) -> Progress:
    """A machine that is in the mesh."""
    values: dict[str, Any] = {"svid": svid(), "identity_served": True, "registration": registration()}
    return Progress(**{**values, "proxy_certified": True, "redirected": True, **changes})
